"""The README's code, for the tests that run it."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def block(language: str, *, holding: str) -> str:
    """The one code block of that language that holds these words."""
    (found,) = (text for text in re.findall(rf"```{language}\n(.*?)```", README, re.S) if holding in text)
    return str(found)
