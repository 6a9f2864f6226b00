"""Tables in Markdown, and the parts of a page that a command writes: between `<!-- NAME -->` and `<!-- /NAME -->`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rsd.machine.errors import UserError
from rsd.machine.files import written_aside


def table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first line is its head."""
    head, *rest = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rest])


def parts(text: str) -> dict[str, str]:
    """What stands between the marks, by name."""
    return {name: part.strip("\n") for name, part in re.findall(r"<!-- (\w+) -->\n(.*?)<!-- /\1 -->", text, re.DOTALL)}


def put(page: Path, contents: Mapping[str, str]) -> None:
    """Write each part between its marks, and leave the rest as it is; UserError if the page has no such marks."""
    text = page.read_text()
    for name, part in contents.items():
        first, last = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if not text.count(first) == text.count(last) == 1 or text.index(first) > text.index(last):
            raise UserError(f"expected the marks <!-- {name} --> and {last}, in this order and once each, in {page}")
        before, _, rest = text.partition(first)
        text = "".join([before, first, part.strip("\n"), "\n", last, rest.partition(last)[2]])
    with written_aside(page) as aside:
        aside.write_text(text)
