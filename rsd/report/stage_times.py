"""Where the minutes of a run went; `rsd table --time` prints it."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rsd.machine.errors import UserError
from rsd.machine.yaml_file import read_yaml
from rsd.run import times
from rsd.run.paths import MissingError, Run
from rsd.run.times import StageTime

INSTALLATION = "install "  # how the names begin that the Makefile notes
PAUSE = 600.0  # seconds without a stage, after which the next one belongs to another run


def summary(run: Run) -> str:
    """The seconds of the last run's stages, of DVC between them, and what the cache gave; UserError without any."""
    project = run.folder.parent
    known = times.read(project / times.FILE)
    installations = {time.stage: time for time in known if time.stage.startswith(INSTALLATION)}
    stages = [time for time in known if time.stage not in installations]
    if not stages:
        raise UserError(
            f"expected the times of stages in {project / times.FILE}, found none; run `dvc repro`, or "
            "`dvc repro --force` if it has nothing to do"
        )
    last = last_run(stages)
    parts = [_table(last)]
    if cached := _stages(run, project / "dvc.lock") - {time.stage for time in last}:
        earlier = {time.stage: time for time in stages}
        parts.append("\n".join(f"from the cache: {_earlier(stage, earlier.get(stage))}" for stage in sorted(cached)))
    if installations:
        parts.append("\n".join(_earlier(name, time) for name, time in installations.items()))
    return "\n\n".join(parts)


def last_run(stages: Sequence[StageTime]) -> list[StageTime]:
    """What ran since the last `dvc repro` was started, in the order of starting.

    A run has each stage once. `device` is in every run of all stages and depends on nothing; beside it, only `params`
    can be the first.
    """
    last: list[StageTime] = []
    for time in reversed(stages):
        begun = any(later.stage == "device" for later in last)
        again = time.stage in {later.stage for later in last}
        if again or (last and last[0].start - time.end > PAUSE) or (begun and time.stage != "params"):
            break
        last.insert(0, time)
    return last


def _table(last: Sequence[StageTime]) -> str:
    end = last[0].start
    between = 0.0
    for time in last:
        between += max(time.start - end, 0.0)
        end = max(end, time.end)
    total = sum(time.seconds for time in last) + between
    rows = [(time.stage, time.seconds, time.imports) for time in last]
    rows.append(("DVC, between the stages", between, 0.0))
    rows.append(("total", total, sum(time.imports for time in last)))
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{'stage':{width}}  seconds  share  of it imports"]
    lines.append("-" * len(lines[0]))
    for name, seconds, imports in rows:
        shown = f"{imports:.1f}" if imports else ""
        lines.append(f"{name:{width}}  {seconds:7.1f}  {seconds / total:4.0%}  {shown:>13}".rstrip())
    if (elapsed := end - last[0].start) < total - 0.05:
        lines.append(f"(some ran side by side: the run took {elapsed:.1f} s)")
    return "\n".join(lines)


def _stages(run: Run, lock: Path) -> set[str]:
    """The stages that DVC has results of; of a matrix those cells that params.yaml asks for."""
    locked = {*((read_yaml(lock) if lock.is_file() else None) or {}).get("stages", {})}
    try:
        choice = run.choice()
    except MissingError:
        return locked
    cells = {f"distill@{method}-{seed}" for method in choice.methods for seed in choice.seeds}
    cells |= {f"{stage}@{precision}" for stage in ("convert", "engine") for precision in choice.precisions}
    return {name for name in locked if "@" not in name or name in cells}


def _earlier(stage: str, time: StageTime | None) -> str:
    return stage + (f" ({time.seconds:.1f} s on {datetime.fromtimestamp(time.start):%Y-%m-%d})" if time else "")
