"""How long each stage took: a line of a file that git and DVC ignore, so that no stage depends on a measured time."""

from pathlib import Path

from pydantic import BaseModel, ValidationError

FILE = Path(".state/times.jsonl")
"""In the folder of the project. `make clean` removes it with the unfinished trainings."""


class StageTime(BaseModel):
    """One run of a stage that succeeded."""

    stage: str
    """As DVC names it, such as distill@rsd-0."""
    start: float
    """In seconds since 1970."""
    seconds: float
    """From the start of Python to the end of the stage."""
    imports: float = 0.0
    """How many of these seconds went by before the stage began its work."""

    @property
    def end(self) -> float:
        return self.start + self.seconds


def note(time: StageTime, file: Path = FILE) -> None:
    """Add a line to the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.write(f"{time.model_dump_json()}\n")


def read(file: Path = FILE) -> list[StageTime]:
    """All that was noted, in the order of starting; a line that a power cut left in half is skipped."""
    times = []
    for line in file.read_text(errors="replace").splitlines() if file.is_file() else []:
        try:
            times.append(StageTime.model_validate_json(line))
        except ValidationError:
            continue
    return sorted(times, key=lambda time: time.start)
