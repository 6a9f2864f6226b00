"""What every section of the params has in common."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """A checked section: unknown keys, numbers given as text, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
