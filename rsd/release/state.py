"""Whether a bundle is of the state that dvc.lock records: same student, same export, same evaluation, same params."""

import hashlib
from pathlib import Path
from typing import Any

from rsd.machine.errors import UserError
from rsd.machine.files import sha256
from rsd.machine.yaml_file import read_yaml
from rsd.run.paths import Run
from rsd.run.records import Origin

MEND = "run `dvc repro bundle` and commit, or sign a release that has no commit with --allow-dirty"


def check_state(run: Run, origin: Origin, *, lock: Path, params: Path) -> None:
    """Refuse a bundle that was made from anything but what dvc.lock and the run's folder hold now.

    Args:
        origin: what the bundle's manifest says that it was made from.
        lock: dvc.lock.
        params: params.yaml.

    Raises:
        UserError: what is another, and the command that mends it.
    """
    stages = _stages(lock)
    recorded = stages.get("params", {}).get("params", {}).get(params.name)
    if recorded and recorded != read_yaml(params):
        raise UserError(f"expected a run of {params} as it is, found that it has changed since; {MEND}")
    if broken := _broken_link(stages):
        raise UserError(f"expected one run in {lock}, found that {broken}; {MEND}")
    digests = {out["path"]: out.get("md5") for stage in stages.values() for out in stage.get("outs", [])}
    for place, digest in origin.made_from.items():
        path = run.folder / place
        if not path.is_file() or sha256(path) != digest:
            raise UserError(f"expected the {path} that the bundle was made from, found another or none; {MEND}")
        locked = digests.get(f"out/{place}")
        if locked and locked != hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest():
            raise UserError(f"expected {path} as {lock} has it, found another; {MEND}")
    if stale := run.stale():
        place, cause = next(iter(stale.items()))
        raise UserError(f"expected one run in {run.folder}, found that {place} is stale ({cause}); {MEND}")


def _stages(lock: Path) -> dict[str, Any]:
    if not lock.is_file():
        raise UserError(f"expected {lock} beside the bundle's run, found none; {MEND}")
    return (read_yaml(lock) or {}).get("stages") or {}


def _broken_link(stages: dict[str, Any]) -> str | None:
    """The first stage that ran on something else than what dvc.lock says that the stage before it wrote."""
    written = {out["path"]: (out.get("md5"), name) for name, stage in stages.items() for out in stage.get("outs", [])}
    waiting, seen = ["bundle"], set[str]()
    if "bundle" not in stages:
        return "the stage bundle has not run"
    while waiting:
        name = waiting.pop()
        seen.add(name)
        for dep in stages[name].get("deps", []):
            digest, maker = written.get(dep["path"], (None, None))
            if maker and digest != dep.get("md5"):
                return f"{name} ran before {maker} wrote another {dep['path']}"
            if maker and maker not in seen:
                waiting.append(maker)
    return None
