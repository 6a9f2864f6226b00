import re

import pytest

from rsd.methods import distiller, methods
from rsd.report.terms import TERMS, caption
from tests.rsd.methods.tiny import take_step, task_of


@pytest.mark.parametrize("method", methods())
def test_every_scalar_a_method_logs_has_a_caption(method):
    for term in take_step(task_of(distiller(method))):
        if term not in ("output", "off_diagonal_chance"):  # the logits; a line in another term's chart
            title, note = caption(term)
            assert note, term
            assert "_" not in title


def test_a_second_spaces_terms_name_their_space():
    title, note = caption("logits_redundancy")
    assert re.search("Redundancy.*of the logits", title)
    assert note == TERMS["redundancy"][1]


def test_an_unknown_terms_title_is_its_name():
    assert caption("my_loss") == ("My loss", "")
