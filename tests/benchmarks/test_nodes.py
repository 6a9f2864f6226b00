"""The model of a step over several nodes."""

import math
import re

import pytest

from benchmarks.nodes import Link, Model, Row, costs, fit, report

SIZE = 20_000_000
WAYS = [Link(), Link(1000), Link(400), Link(100)]


def rows(model):
    free = {1: 0.3, 2: 0.4, 4: 0.7}
    return [
        Row(nodes, link, [free[nodes] + model.added(nodes, link, SIZE)] * 3, SIZE, model.operations)
        for nodes in free
        for link in (WAYS if nodes > 1 else WAYS[:1])
    ]


def test_two_nodes_send_all_bytes_once_each_way():
    delay, carried = costs(2, Link(8, 10), 1_000_000)
    assert math.isclose(delay, 2 * 0.01)
    assert math.isclose(carried, 1.0)  # half of them in each of the ring's two turns


def test_many_nodes_send_all_bytes_twice():
    carried = [costs(nodes, Link(8, 0), 1_000_000)[1] for nodes in (2, 4, 8, 64, 1024)]
    assert carried == sorted(carried)
    assert carried[-1] == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize("model", [Model(1, 1), Model(7, 1.3), Model(20, 2)])
def test_the_fit_finds_the_model_again(model):
    assert fit([row for row in rows(model) if row.nodes == 2]) == pytest.approx(model)


def test_the_report_checks_and_predicts():
    text = report(rows(Model(5, 1.2)))
    assert "a = 5, b = 1.20, from two nodes; the steps of four nodes differ from the model by 0 to 0 %" in text
    assert [int(number) for number in re.findall(r"^\| (\d+) ", text, re.M)] == [1, 2, 2, 2, 2, 4, 4, 4, 4, 2, 4, 8, 64]
