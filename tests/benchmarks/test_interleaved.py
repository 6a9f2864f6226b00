from functools import partial

import pandas as pd

from benchmarks.interleaved import interleaved, markdown, print_rows, spread


def test_every_round_rotates_the_order():
    calls: list[str] = []
    times = interleaved({name: partial(calls.append, name) for name in "abc"}, rounds=3, warmup=1)
    assert times.shape == (3, 3)
    assert list(times) == ["a", "b", "c"]
    turns = ["".join(calls[i : i + 3]) for i in range(0, 12, 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert len({turn[0] for turn in turns[1:]}) == 3
    assert (times >= 0).all().all()


def test_a_spread_is_the_median_with_its_quartiles():
    assert spread(pd.Series([1.0, 2.0, 3.0, 4.0, 5.0])) == "3.00 (2.00 to 4.00)"
    assert spread(pd.Series([100.0, 101.0])) == "100 (100 to 101)"


def test_a_table_is_markdown():
    assert markdown([{"a": "1", "b": "x"}]) == "| a | b |\n| --- | --- |\n| 1 | x |"


def test_rows_are_printed_when_they_are_measured(capsys):
    def measured():
        yield {"a": "1"}
        assert capsys.readouterr().out == "| a |\n| --- |\n| 1 |\n"
        yield {"a": "2"}

    print_rows(measured())
    assert capsys.readouterr().out == "| 2 |\n"
