"""PyTorch itself as rows of a benchmark: what the exported files are to be compared with."""

import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from rsd.machine.errors import first_line
from rsd.measure.latency import Candidate, Infer, image, untimed
from rsd.models.pixels import RawPixels
from rsd.run.records import Latency

# Its compiler asks for the CUDA toolkit, and warns where there is one but no GPU; no model is compiled for a GPU here.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def baseline(
    model: nn.Module,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    name: str,
    image_shape: tuple[int, int, int],
    threads: Sequence[int],
    compiled: bool = True,
) -> list[Candidate | Latency]:
    """The same work as the exported graph, pixels to logits at batch 1, eager and compiled.

    Eager runs with each number of `threads`; the compiled model with one, because the compiler writes the number of
    threads into its code. Compiling happens here, before anything is timed; where it cannot be done the row says why.

    Args:
        model: in eval mode.
        mean, std: per channel, of pixels in [0, 1].
        name: what the rows call the model.
        image_shape: (height, width, channels).
        compiled: whether to compile the model, which takes up to a minute.
    """
    plain = RawPixels(model, mean, std).eval()
    eager: list[Candidate | Latency] = [
        Candidate(untimed(name, "fp32", "pytorch", count), partial(_session, plain, count, image_shape))
        for count in threads
    ]
    if not compiled:
        return eager
    row = untimed(name, "fp32", "pytorch compiled", 1)
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if not shutil.which(compiler):
        reason = f"torch.compile needs a C++ compiler, and there is no {compiler} here"
        return [*eager, Latency(**row, status=f"not measured: {reason}")]
    try:
        faster = torch.compile(plain)
        with _session(faster, 1, image_shape) as infer:
            infer()
    except Exception as error:  # the compiler's exceptions have no public type in common
        reason = f"torch.compile failed here ({first_line(error)[:200]})"
        return [*eager, Latency(**row, status=f"not measured: {reason}")]
    return [*eager, Candidate(row, partial(_session, faster, 1, image_shape))]


@contextmanager
def _session(model: Any, threads: int, image_shape: tuple[int, int, int]) -> Iterator[Infer]:
    pixels = torch.from_numpy(image((1, *image_shape)))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield partial(model, pixels)
    finally:
        torch.set_num_threads(before)
