"""Whether the student becomes a graph that runs: checked before anything is trained, and once for each student."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import timm
from timm.layers import to_2tuple

from rsd.export.options import ExportOptions
from rsd.export.trace import trace
from rsd.machine.errors import UserError
from rsd.machine.unfinished import STATE, code_digests, software_versions
from rsd.models.make import ModelOptions, create
from rsd.sources.base import Source

CLASSES, CHANNELS = 10, 3  # known only once the images are read; neither decides whether a model can be exported


def check_exportable(student: ModelOptions, source: Source, options: ExportOptions, *, state: Path = STATE) -> None:
    """Export the student untrained. One that has passed is exported again only with other code or libraries.

    Args:
        state: a folder that git ignores; `exportable/` in it holds an empty file for each student that has passed.

    Raises:
        UserError: the student cannot be made for the source's images, cannot be exported, or its graph does not run.
    """
    side: int | None = getattr(source, "size", None)  # a source without one serves images as they are
    own = timm.get_pretrained_cfg(student.name)
    height, width = to_2tuple(side or student.args.get("img_size") or own.input_size[1:])  # type: ignore[union-attr]
    opset, ir_version = options.opset, options.ir_version
    inputs = {
        "student": [student.name, student.args, height, width],
        "file": [opset, ir_version],
        "code": {file: digest for file, digest in code_digests().items() if file.startswith(("rsd/export", "rsd/mod"))},
        "versions": software_versions() | {name: version(name) for name in ("onnx", "onnxruntime", "onnxscript")},
    }
    passed = state / "exportable" / hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    if passed.exists():
        return
    shape = (height, width, CHANNELS)
    try:
        model = create(student.model, classes=CLASSES, image_shape=shape)
    except UserError as error:
        if side is None:  # `distill` makes it for the images that there are
            return
        raise UserError(f"student: {error}") from error
    pixels = {"mean": [0.5] * CHANNELS, "std": [0.5] * CHANNELS}
    try:
        trace(model, **pixels, image_shape=shape, classes=CLASSES, opset=opset, ir_version=ir_version)
    except UserError as error:
        raise UserError(f"student.name: {student.name}: {error}") from error
    passed.parent.mkdir(parents=True, exist_ok=True)
    passed.touch()
