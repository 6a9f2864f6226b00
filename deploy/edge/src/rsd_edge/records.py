"""What a device reads, as typed records. Each is checked once, at the door: a wrong value ends in one sentence.

A record is a dataclass; its annotations say what its JSON must hold, and its `__post_init__` what the types cannot say.
Keys that a record does not name are ignored.
"""

import hashlib
import json
import re
import types
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
MAX_RELEASE = 1 << 53
MAX_PIXELS_APART = 254.0
"""The largest tolerance of pixels, in levels of 0 to 255; a larger one would allow any image."""
MAX_LOGITS_APART = 1e6
"""The largest tolerance of logits."""
MAX_THREADS = 64
"""Of one inference."""
ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"
BUILDER = "tensorrt"
"""Names a file of its own where the engines of ONNX Runtime's TensorRT want another one than its CPU."""
TITLES = {ONNXRUNTIME: "ONNX Runtime", OPENVINO: "OpenVINO"}
"""What people call a runtime, by its name in a manifest."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ARCHITECTURE = re.compile(r"[A-Za-z0-9_]{1,32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RELEASE = re.compile(r"[1-9][0-9]{0,15}")
_VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){0,3}")


class MalformedError(ValueError):
    """A value is not what its record expects; the message says which, what was expected and what was found."""


def load(kind: type[T], content: bytes | str) -> T:
    """The record `kind` in a JSON text; MalformedError if it is no JSON, or a value is missing or not of its type."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"expected JSON, found {short(content)} ({error})") from None
    return parsed(kind, value)


def parsed(kind: Any, value: Any, where: str = "it") -> Any:
    """`value`, as `json` reads it, as the type `kind`: a record, a list, a dict, a literal, text, a number, or None."""
    origin, inner = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        _require(isinstance(value, dict), "an object", value, where)
        hints = get_type_hints(kind)
        if missing := hints.keys() - value.keys():
            raise MalformedError(f"expected {min(missing)} in {where}, found none")
        values = {name: parsed(hint, value[name], name) for name, hint in hints.items()}
        return kind(**values)
    if origin is dict:
        _require(isinstance(value, dict), "an object", value, where)
        return {key: parsed(inner[1], each, f"{where} of {short(key)}") for key, each in value.items()}
    if origin is list:
        _require(isinstance(value, list), "a list", value, where)
        return [parsed(inner[0], each, f"{where} number {number}") for number, each in enumerate(value)]
    if origin is Literal:
        _require((type(value), value) in [(type(each), each) for each in inner], f"one of {inner}", value, where)
        return value
    if origin in (Union, types.UnionType):  # only `X | None`
        return None if value is None else parsed(inner[0], value, where)
    if kind is float:
        number = type(value) in (int, float) and abs(value) < 1e300  # also false for NaN
        _require(number, "a finite number", value, where)
        return float(value)
    _require(type(value) is kind, {int: "a whole number", str: "text", bool: "true or false"}[kind], value, where)
    return value


def short(value: Any) -> str:
    """A value for a sentence, cut to 80 characters of ASCII."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def seal(record: Any) -> str:
    """SHA-256 of a record as compact JSON: a single wrong byte is noticed."""
    return hashlib.sha256(json.dumps(asdict(record), separators=(",", ":")).encode()).hexdigest()


def version_of(text: str) -> tuple[int, ...]:
    """The numbers at the start of a version, to compare it with another."""
    numbers = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, numbers[0].split("."))) if numbers else ()


def _require(holds: object, expected: str, value: Any, where: str) -> None:
    if not holds:
        raise MalformedError(f"expected {expected} as {where}, found {short(value)}")


def _check_sha256(value: str, where: str) -> None:
    _require(_SHA256.fullmatch(value), "a SHA-256 in hexadecimal", value, where)


@dataclass(frozen=True)
class File:
    """A file of a bundle."""

    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        _require(self.bytes >= 0, "no less than 0", self.bytes, "bytes")
        _check_sha256(self.sha256, "sha256")


@dataclass(frozen=True)
class Requires:
    """What a device must have."""

    architectures: list[str]
    onnxruntime: str
    openvino: str | None
    """None: no file is for it."""
    memory_mib: int

    def __post_init__(self) -> None:
        named = self.architectures and all(map(_ARCHITECTURE.fullmatch, self.architectures))
        _require(named, "one architecture or more", self.architectures, "architectures")
        for runtime, version in (("onnxruntime", self.onnxruntime), ("openvino", self.openvino)):
            _require(version is None or _VERSION.fullmatch(version), "a version", version, runtime)
        _require(0 <= self.memory_mib < 1 << 40, "0 to 2^40", self.memory_mib, "memory_mib")


class Pair(NamedTuple):
    """What a device can run: the file of a precision, in a runtime."""

    precision: str
    runtime: str

    def __str__(self) -> str:
        return f"{self.precision} in {TITLES.get(self.runtime, self.runtime)}"


@dataclass(frozen=True)
class ModelFile:
    """The files of one precision."""

    onnx: dict[str, str]
    """By the runtime that reads it; several runtimes may read one file."""

    def __post_init__(self) -> None:
        _require(ONNXRUNTIME in self.onnx, f"a file for {ONNXRUNTIME}", [*self.onnx], "onnx")
        for runtime in self.onnx:
            _require(_NAME.fullmatch(runtime), "the name of a runtime", runtime, "onnx")


@dataclass(frozen=True)
class GoldenFile:
    """An image file of the golden pairs, and the row of the golden images that it must decode to."""

    path: str
    row: int


@dataclass(frozen=True)
class Tolerances:
    """How far a golden pair may differ here."""

    pixels: float
    logits: dict[str, float]
    """By precision."""

    def __post_init__(self) -> None:
        _require(0 <= self.pixels <= MAX_PIXELS_APART, f"0 to {MAX_PIXELS_APART:g}", self.pixels, "tolerance of pixels")
        for value in self.logits.values():
            _require(0 <= value <= MAX_LOGITS_APART, f"0 to {MAX_LOGITS_APART:g}", value, "tolerance of logits")


@dataclass(frozen=True)
class Golden:
    """The golden pairs of a bundle."""

    images: str
    files: list[GoldenFile]
    logits: dict[str, dict[str, str]]
    """By precision and runtime."""
    tolerances: Tolerances

    def __post_init__(self) -> None:
        _require(self.files, "one golden file or more", self.files, "files")


@dataclass(frozen=True)
class Manifest:
    """`manifest.json` of a bundle, as far as a device reads it."""

    name: str
    release: int
    requires: Requires
    p99_ms: float | None
    models: dict[str, ModelFile]
    """By precision, in the order of preference where nothing can be timed."""
    golden: Golden
    files: dict[str, File]
    """By relative path: all but the manifest itself and the signature."""

    def __post_init__(self) -> None:
        _require(_NAME.fullmatch(self.name), "up to 64 small letters, digits, dots and dashes", self.name, "name")
        _require(0 < self.release < MAX_RELEASE, "1 to 2^53 - 1", self.release, "release")
        _require(self.p99_ms is None or self.p99_ms > 0, "more than 0", self.p99_ms, "p99_ms")
        _require(self.models, "one model or more", self.models, "models")
        golden = self.golden
        for precision in self.models:
            _require(_NAME.fullmatch(precision), "the name of a precision", precision, "models")
            for kind, by_precision in (("logits", golden.logits), ("tolerances", golden.tolerances.logits)):
                _require(precision in by_precision, f"the golden {kind} of {precision}", [*by_precision], "golden")
            for runtime in self.models[precision].onnx:
                logits = golden.logits[precision]
                _require(runtime in logits, f"the golden logits of {precision} in {runtime}", [*logits], "golden")
        paths = ["labels.json", "preprocessing.json", golden.images, *(file.path for file in golden.files)]
        for by_runtime in [*golden.logits.values(), *(model.onnx for model in self.models.values())]:
            paths += by_runtime.values()
        for path in paths:
            _require(path in self.files, "a file that the manifest lists", path, "path")

    @property
    def pairs(self) -> list[Pair]:
        """All that a device may run, in the order of preference."""
        return [
            Pair(precision, runtime)
            for precision, model in self.models.items()
            for runtime in model.onnx
            if runtime != BUILDER
        ]

    @property
    def id(self) -> str:
        """Name and release, which is also its folder's name on the device."""
        return f"{self.name}-{self.release}"


@dataclass
class Highest:
    """The newest release that one key has signed for this device, even if it was removed since."""

    release: int
    manifest_sha256: str
    """The same bundle may be installed again."""

    def __post_init__(self) -> None:
        _require(0 < self.release < MAX_RELEASE, "1 to 2^53 - 1", self.release, "release")
        _check_sha256(self.manifest_sha256, "manifest_sha256")


@dataclass
class State:
    """What a device knows of its releases."""

    name: str | None = None
    """Name of every bundle here; a device holds releases of one name only."""
    highest: dict[str, Highest] = field(default_factory=dict)
    """By the digest of the key that signed it. Only those of pinned keys count."""
    installed: dict[str, str] = field(default_factory=dict)
    """Id -> SHA-256 of the manifest, in the order of installation."""
    history: list[str] = field(default_factory=list)
    """Ids of the good releases, oldest first; the last one should be current."""
    pending: str | None = None
    """Id of the release on trial."""

    def __post_init__(self) -> None:
        for key in self.highest:
            _check_sha256(key, "key")
        for release, digest in self.installed.items():
            name, _, number = release.rpartition("-")
            holds = _NAME.fullmatch(name) and name == self.name and _RELEASE.fullmatch(number)
            _require(holds, f"a release of {self.name}", release, "installed")
            _check_sha256(digest, "manifest")
        for release in [*self.history, *([self.pending] if self.pending is not None else [])]:
            _require(release in self.installed, "an installed release", release, "history or pending")
        _require(len({*self.history}) == len(self.history), "each release once", self.history, "history")


@dataclass(frozen=True)
class Sealed:
    """A state as it lies on the disk."""

    sha256: str
    """By `seal`."""
    state: State
