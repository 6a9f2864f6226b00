"""The base of every section of the params."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


def at_home(path: Path) -> Path:
    """`path` with the user's home folder for `~`; for validators."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"expected ~ to stand for a user's home folder, found none for '{path}'") from error


UserPath = Annotated[Path, Field(strict=False), AfterValidator(at_home)]
"""A path, written as text; `~` is the home folder."""


Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator takes; NumPy's old one, which scikit-learn uses, takes no more."""


class OneOf:
    """Metadata of a text that must be one of some names, such as the files of a folder."""

    def __init__(self, names: Callable[[], Sequence[str]]) -> None:
        self.names = names

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema(list(self.names()))


class Options(BaseModel):
    """A checked section: it refuses unknown keys, numbers written as text, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
