"""Many params files at once: what is wrong with each, or a digest of every section that it resolves to.

    python -m rsd.config.check FOLDER

reads `FOLDER/*.yaml`, each a params.yaml over this project's conf/, and prints one line of JSON for each, in the order
of their names: `{"sections": {"data.json": DIGEST, ...}}` or `{"error": SENTENCE}`. Sections are named as the files of
out/params/, the code of the chosen methods among them: params that agree in a digest give its readers the same.
Forty files take about a second.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from rsd.config.method_code import method_code
from rsd.config.resolve import resolve
from rsd.machine.errors import UserError


def check(file: Path, conf: Path) -> dict[str, Any]:
    """The line for one file, as above."""
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


def main() -> None:
    for file in sorted(Path(sys.argv[1]).glob("*.yaml")):
        print(json.dumps(check(file, Path("conf"))))


if __name__ == "__main__":
    main()
