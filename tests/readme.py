"""The code of the README and of the pages of docs/, for the tests that run it."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {page.stem: page.read_text() for page in sorted((ROOT / "docs").glob("*.md"))}


def block(language: str, *, holding: str, page: str = README) -> str:
    """The one code block of that language that holds these words."""
    (found,) = (text for text in re.findall(rf"```{language}\n(.*?)```", page, re.S) if holding in text)
    return str(found)


class Block(NamedTuple):
    """A code block of a page."""

    language: str
    text: str
    printed: str
    """The `text` block right behind it: what it prints."""

    @property
    def needs(self) -> str:
        """What its first line, `# needs a GPU`, says that it takes to run; empty where a test can run it."""
        found = re.match(r"# needs (.+)", self.text)
        return found[1] if found else ""

    @property
    def file(self) -> str:
        """The file that its first line, `# conf/data/mine.yaml`, says it is; empty for commands."""
        found = re.match(r"# (\S+\.(?:yaml|py))\n", self.text)
        return found[1] if found else ""


def blocks(page: str) -> list[Block]:
    """All code blocks of a page, from its top to its end."""
    fenced = r"^```(\w+)\n(.*?)^```$(?:\n+^```text\n(.*?)^```$)?"
    return [Block(*found) for found in re.findall(fenced, page, re.S | re.M) if found[0] != "text"]
