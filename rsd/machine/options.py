"""What every section of the params has in common."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"expected ~ to stand for a user's home folder, found none for '{path}'") from error


UserPath = Annotated[Path, Field(strict=False), AfterValidator(_at_home)]
"""A path as a user writes it, text and all; `~` is the home folder."""


class Options(BaseModel):
    """A checked section: unknown keys, numbers given as text, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
