"""The record of a bundle: its manifest, which devices read, too."""

from pathlib import Path
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from rsd.machine.faults import read_checked
from rsd.machine.options import Options
from rsd.run.records.base import Part, Record, Written
from rsd.run.records.device import DeviceRecord
from rsd.run.records.files import Parity
from rsd.run.records.judged import Evaluation
from rsd.run.records.timed import Latency


class Origin(Part):
    """What a bundle was made from."""

    git_revision: str | None = None
    """The commit that a release was signed of; None until it is signed."""
    made_from: dict[str, str] = Field({})
    """SHA-256 of the files of the run, by their paths below its folder."""


class BundleRecord(Record):
    """`bundle/manifest.json`, as far as a run reads it."""

    model_config = ConfigDict(extra="ignore")

    origin: Origin = Origin()

    @model_validator(mode="after")
    def _bundled(self) -> "BundleRecord":
        self.made_from = self.origin.made_from
        return self

    location = "bundle/manifest.json"


class Requires(Options):
    """What a device must have."""

    architectures: list[Literal["x86_64", "aarch64"]] = Field(["x86_64", "aarch64"], min_length=1)
    onnxruntime: str | None = Field(None, pattern=r"^\d+\.\d+$")
    """Or newer; None, which no manifest holds: the oldest that loads the files."""
    openvino: str | None = Field(None, pattern=r"^\d+\.\d+$")
    """Or newer, for the files that OpenVINO reads; None: no file is for OpenVINO."""
    memory_mib: int = Field(256, ge=0, le=1_000_000)
    """Free when a release is installed."""


class BundledModel(Part):
    """The files of a precision, by their paths in the bundle."""

    onnx: dict[str, str]
    """By the runtime that reads it, in the order of preference; several runtimes may read one file."""
    parity: dict[str, Parity]
    """By runtime."""
    engine: str | None = None


class BundledFile(Part):
    bytes: int
    sha256: str


class GoldenFile(Part):
    """An encoded image."""

    path: str
    row: int
    """Of the golden arrays."""


class Tolerances(Part):
    """How far a device's golden pairs may differ."""

    pixels: int
    logits: dict[str, float]
    """By precision."""


class Golden(Part):
    """Inputs and the logits that a device must give for them."""

    images: str
    """Path of an array uint8 `[N, H, W, C]`."""
    files: list[GoldenFile]
    logits: dict[str, dict[str, str]]
    """Paths by precision and runtime."""
    tolerances: Tolerances


class BundledLatency(Part):
    """Where the benchmark ran, and its rows."""

    device: DeviceRecord
    rows: list[Latency]


class Manifest(Written):
    """All of `bundle/manifest.json`."""

    schema_version: int
    name: str
    release: int
    signed: bool
    origin: Origin
    requires: Requires
    p99_ms: float | None
    student: str
    models: dict[str, BundledModel]
    """By precision, in the order of preference where a device cannot time them."""
    golden: Golden
    metrics: Evaluation
    latency: BundledLatency
    files: dict[str, BundledFile]
    """All but the manifest and the signature, by their paths in the bundle."""

    @classmethod
    def of(cls, bundle: Path) -> Self:
        """The manifest of a bundle, wherever that lies; UserError if there is none, or it is damaged."""
        then = "run `dvc repro bundle`, or name another folder"
        return read_checked(bundle / "manifest.json", cls, what="the manifest of a bundle", then=then)

    location = "bundle/manifest.json"
