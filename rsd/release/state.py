"""Whether a bundle is of the state that dvc.lock records: same student, export, evaluation, engines and params."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsd.machine.errors import UserError
from rsd.machine.files import read_json
from rsd.machine.yaml_file import read_yaml

MEND = "run `dvc repro bundle` and commit, or sign a release that has no commit with --allow-dirty"
LARGE = ("out/data/train", "out/data/validation", "out/data/test", "out/data/teacher", "out/views")
"""Folders of images and views, too large to read again; other records in dvc.lock hold their digests."""


def check_state(project: Path) -> None:
    """Refuse a bundle that was not made from the project's present files, params and dvc.lock.

    For every stage on the way to the bundle, dvc.lock must record the present params and the present files in `out/`.

    Args:
        project: the folder with dvc.lock, params.yaml and `out/`.

    Raises:
        UserError: the first file that differs, and the command that mends it.
    """
    lock = project / "dvc.lock"
    stages = ((read_yaml(lock) if lock.is_file() else None) or {}).get("stages") or {}
    if "bundle" not in stages:
        raise UserError(f"expected the stage bundle in {lock}, found that it has not run; {MEND}")
    for name in _upstream(stages, "bundle"):
        for file, recorded in stages[name].get("params", {}).items():
            if not _same_params(project / file, recorded):
                raise UserError(f"expected {file} as the stage {name} read it, found that it has changed since; {MEND}")
        for kind, verb in (("deps", "read"), ("outs", "wrote")):
            for entry in stages[name].get(kind, []):
                path = str(entry["path"])
                if path.startswith("out/") and path not in LARGE and digest(project / path) != entry.get("md5"):
                    raise UserError(f"expected the {path} that the stage {name} {verb}, found another; {MEND}")


def digest(path: Path) -> str | None:
    """MD5 of a file or a folder, as DVC takes it; None where there is neither."""
    if path.is_file():
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if not path.is_dir():
        return None
    files = sorted(file.relative_to(path).parts for file in path.rglob("*") if file.is_file())
    listing = [{"md5": digest(path.joinpath(*parts)), "relpath": "/".join(parts)} for parts in files]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _upstream(stages: dict[str, Any], goal: str) -> Iterator[str]:
    """The goal, then the stages that it depends on, also indirectly; each once, the nearest first."""
    makers = {str(out["path"]): name for name, stage in stages.items() for out in stage.get("outs", [])}
    names = [goal]
    for name in names:
        yield name
        for dep in stages[name].get("deps", []):
            path = str(dep["path"])
            related = (out for out in makers if path == out or path.startswith(f"{out}/") or out.startswith(f"{path}/"))
            names += [maker for maker in dict.fromkeys(makers[out] for out in related) if maker not in names]


def _same_params(file: Path, recorded: dict[str, Any]) -> bool:
    """Whether a params file still has the recorded values. Of params.yaml all are recorded, of a section its keys."""
    if file.suffix == ".yaml":
        return bool(read_yaml(file) == recorded)
    content = read_json(file) if file.is_file() else {}
    return all(_value(content, key) == value for key, value in recorded.items())


def _value(content: Any, key: str) -> Any:
    """What DVC takes for a key: `versions.onnxruntime` is a key of the mapping `versions`; None if it is absent."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content
