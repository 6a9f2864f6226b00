"""One thing is not several; a size has the unit that a reader expects."""

from rsd.machine.words import counted, size_in_words


def test_only_one_is_singular():
    assert [counted(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


def test_sizes_are_in_megabytes_or_gigabytes():
    assert [size_in_words(size) for size in (45_600_000, 135_911_000_000)] == ["45.6 MB", "135.9 GB"]
