"""Durations in words."""

import pytest

from rsd.cli.start.estimate import in_words


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (89, "89 s"), (300, "5 min"), (9_000, "2.5 h")])
def test_a_duration_is_rounded_to_its_unit(seconds, words):
    assert in_words(seconds) == words
