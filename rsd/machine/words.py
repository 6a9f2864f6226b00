"""Numbers in sentences."""


def counted(number: int, noun: str) -> str:
    """A number of things, such as "1 file" or "2 files"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size_in_words(size: int) -> str:
    """A size on a disk, such as "45.6 MB" or "135.9 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
