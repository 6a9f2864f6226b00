"""One short script per stage of dvc.yaml, named as the stage: read params, call rsd, write outputs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from rsd.errors import UserError
from rsd.files import read_json

OUT = Path("out")
Section = TypeVar("Section", bound=BaseModel)


def run(stage: Callable[[], None]) -> None:
    """Run a stage's `main`; what the user can mend becomes one sentence on stderr and exit status 1."""
    try:
        stage()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: expected to read and write under {OUT}, found: {error}; free space or mend rights, run again")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; run the same command again to go on")


def section(name: str, kind: type[Section]) -> Section:
    """A section of the resolved params, which the `params` stage has checked, as its type."""
    return kind.model_validate(read_json(OUT / "params" / f"{name}.json"))
