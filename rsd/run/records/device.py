"""A machine as its record names it, perhaps written by another version of the project."""

from typing import cast

from pydantic import BaseModel, ConfigDict, Field

from rsd.machine.fingerprint import Fingerprint, short_name
from rsd.run.records.base import Name, Written


class Fingerprinted(BaseModel):
    """What a machine says of itself, perhaps by another version of the project: unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class CPU(Fingerprinted):
    name: Name
    architecture: Name = "unknown"
    logical_cores: int = Field(ge=1)
    flags: list[Name] = Field([])
    """Instructions that matter to inference; empty where the system does not tell."""


class GPU(Fingerprinted):
    name: Name
    driver: Name | None = None
    compute_capability: Name | None = None
    memory: Name | None = None


class DeviceRecord(Fingerprinted, Written):
    """`device.json`: what of a machine decides how fast a model runs, as `fingerprint` says it."""

    machine: Name | None = None
    """A digest of the machine's id; None where it has none."""
    cpu: CPU
    memory_gib: int | None = None
    python: Name | None = None
    gpus: list[GPU]
    versions: dict[Name, Name | None] = Field({})
    """Of the runtimes; None where one is missing."""

    location = "device.json"

    @property
    def short_name(self) -> str:
        """One phrase for tables, e.g. `AMD EPYC, 2 cores`."""
        return short_name(cast(Fingerprint, self.model_dump()))

    @property
    def full_name(self) -> str:
        """The short name, and the first digits of the machine's digest: two machines of a kind are told apart."""
        return self.short_name + (f" ({self.machine[:4]})" if self.machine else "")
