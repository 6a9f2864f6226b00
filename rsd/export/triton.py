"""A bundle as a model repository for NVIDIA's Triton Inference Server; `rsd triton`.

Each precision becomes a model for the ONNX Runtime back end, and one for the TensorRT back end where the bundle has an
engine that this back end loads. The bundle's release number is the model's version, so that a later release can be
written beside an earlier one. The layout and `config.pbtxt` are those of Triton's `model_config.proto`.
"""

import shutil
from pathlib import Path

import numpy as np

from rsd.export.engine import read_sidecar
from rsd.machine.errors import UserError
from rsd.machine.files import read_json, sha256, written_aside
from rsd.run.names import GOLDEN, IMAGE_ARRAY, LABELS, ONNX
from rsd.run.records import EngineRecord, Manifest

MAX_BATCH = 8
QUEUE_DELAY_MICROSECONDS = 100
"""How long a request waits for others to share a batch with: what Triton's guide starts from."""


def write_repository(bundle: Path, repository: Path, *, max_batch: int = MAX_BATCH) -> dict[str, str]:
    """Write a folder per model below `repository`; what is there of other models and versions stays.

    Args:
        bundle: as `rsd.release.bundle.write_bundle` makes it; every file is held to its SHA-256 in the manifest.
        max_batch: of the ONNX models; an engine's is that of its profile.

    Returns:
        Model name -> "written", or why this one was not.

    Raises:
        UserError: there is no bundle, or a file of it is not what the manifest says.
    """
    manifest = _manifest(bundle)
    outcomes: dict[str, str] = {}
    for precision, model in manifest.models.items():
        name = f"{manifest.name}-{precision}"
        graph = bundle / model.onnx["onnxruntime"]
        _write_model(bundle, repository / f"{name}-onnx", manifest, graph, "onnxruntime", (1, max_batch))
        outcomes[f"{name}-onnx"] = "written"
        record = read_sidecar(bundle / precision) if model.engine else None
        reason = _not_for_triton(record)
        if reason is None and record and model.engine:
            folder, engine = repository / f"{name}-tensorrt", bundle / model.engine
            _write_model(bundle, folder, manifest, engine, "tensorrt", record.batches)
        outcomes[f"{name}-tensorrt"] = reason or "written"
    return outcomes


def _manifest(bundle: Path) -> Manifest:
    manifest = Manifest.of(bundle)
    for name, file in manifest.files.items():
        if not (bundle / name).is_file() or sha256(bundle / name) != file.sha256:
            raise UserError(
                f"expected {bundle / name} as the manifest describes it, found another; make the bundle again"
            )
    return manifest


def _not_for_triton(record: EngineRecord | None) -> str | None:
    """Why Triton's TensorRT back end does not take the engine of this record; None if it does."""
    if record is None:
        return "not written: the bundle has no engine of it"
    if record.library != "tensorrt":
        return f"not written: Triton's TensorRT back end does not load engines by {record.library}"
    if record.weights_stripped:
        return "not written: Triton does not fill in the weights of a weight-stripped engine"
    return None


def _write_model(
    bundle: Path, folder: Path, manifest: Manifest, file: Path, backend: str, batches: tuple[int, int]
) -> None:
    images = np.load(bundle / GOLDEN / IMAGE_ARRAY, allow_pickle=False)
    labels = [str(label) for label in read_json(bundle / LABELS)]
    with written_aside(folder) as aside:
        if folder.is_dir():
            shutil.copytree(folder, aside)  # with its other versions
        version = aside / str(manifest.release)
        version.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, version / {"onnxruntime": ONNX, "tensorrt": "model.plan"}[backend])
        # A line per class: a line break within a name would move all that follow.
        (aside / "labels.txt").write_text("".join(f"{' '.join(label.split())}\n" for label in labels))
        (aside / "warmup").mkdir(exist_ok=True)
        (aside / "warmup" / "image").write_bytes(np.ascontiguousarray(images[0]).tobytes())
        (aside / "config.pbtxt").write_text(
            config(folder.name, backend, shape=images.shape[1:], classes=len(labels), batches=batches)
        )


def config(name: str, backend: str, *, shape: tuple[int, ...], classes: int, batches: tuple[int, int]) -> str:
    """The text of `config.pbtxt`: raw pixels in, logits out, dynamic batching, labels, warm-up at both ends.

    Args:
        backend: "onnxruntime" or "tensorrt".
        shape: (H, W, C) of an image; Triton's `dims` leave the batch out.
        batches: the smallest and the largest that the file takes.
    """
    dims = ", ".join(map(str, shape))
    # A sample's file holds one image; Triton repeats it to fill the batch.
    warmup = "".join(
        f"""model_warmup {{
  name: "batch of {size}"
  batch_size: {size}
  inputs {{
    key: "image"
    value {{ data_type: TYPE_UINT8 dims: [ {dims} ] input_data_file: "image" }}
  }}
}}
"""
        for size in sorted(set(batches))
    )
    return f"""name: "{name}"
backend: "{backend}"
max_batch_size: {batches[1]}
input [ {{ name: "image" data_type: TYPE_UINT8 dims: [ {dims} ] }} ]
output [ {{ name: "logits" data_type: TYPE_FP32 dims: [ {classes} ] label_filename: "labels.txt" }} ]
dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_MICROSECONDS} }}
{warmup}"""
