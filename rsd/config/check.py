"""Check a params file and digest what it resolves to; `rsd check` does so for a folder of them, forty in a second."""

import hashlib
import json
from pathlib import Path
from typing import TypedDict

from pydantic import JsonValue

from rsd.config.resolve import param_files
from rsd.machine.errors import UserError


class Verdict(TypedDict, total=False):
    """One of the two."""

    sections: dict[str, str]
    """A digest of every file of `param_files`. Stages that read files of equal digests give equal results."""
    error: str
    """What is wrong, in a sentence."""


def check(file: Path, conf: Path) -> Verdict:
    """What is wrong with one file, written as params.yaml, or a digest of every section that it resolves to."""
    try:
        return {"sections": {name: _digest(content) for name, content in param_files(file, conf).items()}}
    except UserError as error:
        return {"error": str(error).replace(str(file), "params.yaml")}


def _digest(content: JsonValue) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
