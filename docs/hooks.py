"""Hooks of mkdocs: equations become MathML, and each module of the code gets a page.

Code hosts need no hook: they draw ```math blocks and $`inline`$ mathematics themselves.
"""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGES = {"rsd": ROOT, "rsd_edge": ROOT / "deploy" / "edge" / "src"}
"""Each package and the folder that holds it."""
BLOCK = re.compile(r"^```math\n(.*?)\n```$", re.M | re.S)
INLINE = re.compile(r"\$`([^`]+)`\$")


def modules() -> dict[str, list[str]]:
    """Names of the public modules that are not empty, by package."""
    names = defaultdict[str, list[str]](list)
    for package, folder in PACKAGES.items():
        for file in sorted((folder / package).rglob("*.py")):
            parts = list(file.relative_to(folder).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            if not any(part.startswith("_") for part in parts) and file.read_text().strip():
                owner = parts if file.name == "__init__.py" else parts[:-1]
                names[".".join(owner)].append(".".join(parts))
    return {package: sorted(modules) for package, modules in names.items()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the reference to the end of the navigation, one section per package."""
    sections: list[Any] = [
        {package: [{name: f"api/{name}.md"} for name in names]} for package, names in modules().items()
    ]
    assert config.nav is not None
    config.nav.append({"API": sections})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for names in modules().values():
        for name in names:
            files.append(File.generated(config, f"api/{name}.md", content=f"::: {name}\n"))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    markdown = BLOCK.sub(lambda match: convert(match[1], display="block"), markdown)
    return INLINE.sub(lambda match: convert(match[1]), markdown)
