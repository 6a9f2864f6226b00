"""Manifests of schema 2, whose files were for ONNX Runtime alone. Devices hold such releases, and serve them on."""

from dataclasses import dataclass

from rsd_edge.records import (
    ONNXRUNTIME,
    File,
    Golden,
    GoldenFile,
    Manifest,
    ModelFile,
    Requires,
    Tolerances,
    load,
)


@dataclass(frozen=True)
class _Requires:
    architectures: list[str]
    onnxruntime: str
    memory_mib: int


@dataclass(frozen=True)
class _Model:
    onnx: str


@dataclass(frozen=True)
class _Golden:
    images: str
    files: list[GoldenFile]
    logits: dict[str, str]
    tolerances: Tolerances


@dataclass(frozen=True)
class _Manifest:
    name: str
    release: int
    requires: _Requires
    p99_ms: float | None
    models: dict[str, _Model]
    golden: _Golden
    files: dict[str, File]


def load_schema2(content: bytes) -> Manifest:
    """A manifest of schema 2 as one of today; MalformedError as `records.load`."""
    old = load(_Manifest, content)
    requires, golden = old.requires, old.golden
    return Manifest(
        name=old.name,
        release=old.release,
        requires=Requires(requires.architectures, requires.onnxruntime, None, requires.memory_mib),
        p99_ms=old.p99_ms,
        models={precision: ModelFile({ONNXRUNTIME: model.onnx}) for precision, model in old.models.items()},
        golden=Golden(
            golden.images,
            golden.files,
            {precision: {ONNXRUNTIME: path} for precision, path in golden.logits.items()},
            golden.tolerances,
        ),
        files=old.files,
    )
