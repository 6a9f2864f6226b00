"""A model as files of several precisions, without any gate: for what is timed, not shipped."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from rsd.export import precisions
from rsd.export.graph import checked, save
from rsd.export.options import ExportOptions
from rsd.export.runtimes import MAIN
from rsd.export.trace import trace
from rsd.sources.images import ArrayImages, Images

NOISE = 32  # images of noise to calibrate with


def write_files(
    model: nn.Module,
    paths: Mapping[str, Path],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    image_shape: tuple[int, int, int],
    classes: int,
    calibration: Images | None = None,
    opset: int = ExportOptions.model_fields["opset"].default,
    ir_version: int = ExportOptions.model_fields["ir_version"].default,
    metadata: dict[str, str] | None = None,
    runs_on: str = MAIN,
) -> None:
    """Trace `model` once and write a checked file per precision; the same arguments give the same bytes.

    Args:
        paths: precision -> its file.
        mean, std: per channel, of pixels scaled to 0..1.
        image_shape: (H, W, C).
        calibration: images for int8, uint8 `[N, H, W, C]`; noise if None.
        runs_on: the runtime that the files are for.

    Raises:
        UserError: as `rsd.export.trace.trace` and `rsd.export.graph.save`; the model does not fit a precision.
    """
    if calibration is None:
        calibration = ArrayImages(np.random.default_rng(0).integers(0, 256, (NOISE, *image_shape), np.uint8))
    traced = trace(
        model, mean=mean, std=std, image_shape=image_shape, classes=classes, opset=opset, ir_version=ir_version
    )
    for name, path in paths.items():
        kind = precisions.get(name)
        graph = kind.graph(traced.proto, kind.section(), calibration, runs_on=runs_on)
        save(checked(graph), path, metadata=metadata or {})
