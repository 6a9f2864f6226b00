"""The base of every section of the params."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"expected ~ to stand for a user's home folder, found none for '{path}'") from error


UserPath = Annotated[Path, Field(strict=False), AfterValidator(_at_home)]
"""A path, written as text; `~` is the home folder."""


class Options(BaseModel):
    """A checked section: it refuses unknown keys, numbers written as text, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
