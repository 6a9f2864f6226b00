"""Turns on a clock of our own: every way gets its share of a slow phase, and nothing lasts longer than it may."""

import os
from statistics import median

import pytest
from rsd_edge import timing


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def way(self, seconds):
        def run():
            self.now += seconds(self.now) if callable(seconds) else seconds

        return lambda: timing.turn(run, self)


def race(**seconds):
    clock = Clock()
    turns = timing.in_turns({name: clock.way(each) for name, each in seconds.items()}, clock=clock)
    return clock, turns


def test_turns_give_each_way_its_time():
    _, turns = race(a=0.001, b=0.0012)
    assert {name: len(each) for name, each in turns.items()} == {"a": timing.TURNS, "b": timing.TURNS}
    assert turns["a"] == pytest.approx([0.001] * timing.TURNS)
    assert not timing.is_unstable(turns.values())


def test_a_slow_phase_hits_all_alike():
    """Four times slower for a fifth of the race: a way that ran in that time alone would lose."""

    def slowed(seconds):
        return lambda now: seconds * (4 if 0.05 < now < 0.35 else 1)

    _, turns = race(a=slowed(0.004), b=slowed(0.0042), c=slowed(0.0044))
    assert [median(each) for each in turns.values()] == pytest.approx([0.004, 0.0042, 0.0044])


def test_slow_models_stop_at_the_limit():
    clock, turns = race(a=0.9, b=1.0, c=1.1, d=1.2)
    assert clock.now <= timing.LONGEST + 1.2
    assert all(turns.values())
    clock, turns = race(a=5.0, b=6.0, c=7.0)
    assert clock.now <= timing.LONGEST + 7
    assert (len(turns["a"]), turns["c"]) == (1, [])


def test_hopeless_ways_leave_the_race_early():
    _, turns = race(a=0.001, b=0.1)
    assert (len(turns["a"]), len(turns["b"])) == (timing.TURNS, 3)


def test_a_model_above_the_limit_is_timed():
    assert race(a=60.0)[1] == {"a": [60.0]}


def test_nothing_to_time_gives_nothing():
    assert timing.in_turns({}) == {}


def test_a_race_without_stable_ways_is_unstable():
    wild, calm = [1.0, 2.0, 3.0, 4.0], [1.0, 1.1, 1.0, 1.1]
    assert timing.is_unstable([wild, wild])
    assert not timing.is_unstable([wild, calm])
    assert timing.is_unstable([wild, calm[:1]])  # it left the race before it could show


def test_cores_that_share_hardware_count_once(tmp_path, monkeypatch):
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings)
    monkeypatch.setattr(timing, "CPUS", tmp_path)
    for usable, expected in (
        ({0, 1, 2, 3}, [1, 2]),
        ({0, 2}, [1]),
        ({3}, [1]),
        ({0, 1}, [1, 2]),
        ({0, 9, 8}, [1, 2, 3]),
    ):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, usable=usable: usable)
        assert timing.thread_counts() == expected
