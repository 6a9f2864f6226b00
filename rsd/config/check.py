"""Check a params file and digest what it resolves to; `rsd check` does so for a folder of them, forty in a second."""

import hashlib
import json
from pathlib import Path
from typing import Any

from rsd.config.method_code import method_code
from rsd.config.resolve import resolve
from rsd.machine.errors import UserError


def check(file: Path, conf: Path) -> dict[str, Any]:
    """What is wrong with one file, or a digest of every section that it resolves to.

    Args:
        file: written as params.yaml.
        conf: the folder of the named choices.

    Returns:
        `{"sections": {"data.json": DIGEST, ...}}`, named as the files of out/params/, the code of the methods among
        them; or `{"error": SENTENCE}`. Stages that read sections of equal digests give equal results.
    """
    try:
        resolved = resolve(file, conf)
    except UserError as error:
        return {"error": str(error).replace(str(file), "params.yaml")}
    methods = resolved.pop("method")
    sections = {f"{name}.json": _digest(values) for name, values in resolved.items()}
    sections |= {f"method/{name}.json": _digest(values) for name, values in methods.items()}
    sections |= {f"code/{name}.py": _digest(method_code(name)) for name in resolved["run"]["methods"]}
    return {"sections": sections}


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
