"""Numbers in sentences."""


def counted(number: int, noun: str) -> str:
    """A number of things, such as "1 file" or "2 files"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
