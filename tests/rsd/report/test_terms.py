import re

import pytest

from rsd.methods import distiller, methods
from rsd.report.terms import TERMS, caption
from tests.rsd.methods.tiny import take_step, task_of


@pytest.mark.parametrize("method", methods())
def test_every_scalar_that_a_method_logs_has_a_caption(method):
    for term in take_step(task_of(distiller(method))):
        if term not in ("output", "off_diagonal_chance"):  # the logits; a line in another term's chart
            title, note = caption(term)
            assert note, term
            assert "_" not in title


def test_the_terms_of_a_second_space_say_whose_they_are():
    title, note = caption("logits_redundancy")
    assert re.search("Redundancy.*of the logits", title)
    assert note == TERMS["redundancy"][1]


def test_a_term_of_ones_own_has_its_name_for_a_title():
    assert caption("my_loss") == ("My loss", "")
