"""One thing is not several."""

from rsd.machine.words import counted


def test_only_one_is_singular():
    assert [counted(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
