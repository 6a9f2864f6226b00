"""The code of the README and of the pages of docs/, for the tests that run it."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {page.stem: page.read_text() for page in sorted((ROOT / "docs").glob("*.md"))}


def block(language: str, *, holding: str, page: str = "\n".join([README, *PAGES.values()])) -> str:
    """The one code block of that language with these words, in the README and all pages unless one is given."""
    (text,) = (text for text in re.findall(rf"^```{language}\n(.*?)^```$", page, re.S | re.M) if holding in text)
    return str(text)


class Block(NamedTuple):
    """A code block of a page."""

    language: str
    text: str
    printed: str
    """The `text` block right behind it: what it prints."""

    @property
    def needs(self) -> str:
        """What its first line, `# needs a GPU`, says that it takes to run; empty where a test can run it."""
        match = re.match(r"# needs (.+)", self.text)
        return match[1] if match else ""

    @property
    def file(self) -> str:
        """The file that its first line, `# conf/data/mine.yaml`, says it is; empty for commands."""
        match = re.match(r"# (\S+\.(?:yaml|py))\n", self.text)
        return match[1] if match else ""


def blocks(page: str) -> list[Block]:
    """All code blocks of a page, from its top to its end."""
    fenced = r"^```(\w+)\n(.*?)^```$(?:\n+^```text\n(.*?)^```$)?"
    return [Block(*fields) for fields in re.findall(fenced, page, re.S | re.M) if fields[0] != "text"]
