"""An ONNX graph, checked, and written to a file that holds nothing else."""

import copy
import re
import sys
from pathlib import Path

import numpy as np
import onnx
from google.protobuf import text_format
from onnx import helper

from rsd.export.runtimes.onnxruntime import OnnxSession
from rsd.machine.errors import UserError, first_line
from rsd.machine.files import written_aside


def checked(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the shapes and types of all its values; UserError where onnx's own full check finds a fault."""
    proto = copy.deepcopy(proto)
    # Written anew by shape inference, with the types of this graph.
    del proto.graph.value_info[:]
    try:
        onnx.checker.check_model(proto, full_check=True)
        return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(
            f"expected a valid ONNX graph, found a fault: {first_line(error)}; choose another opset or precision"
        ) from error


def check_runs(content: bytes) -> None:
    """Load a graph and give it one black image; UserError where ONNX Runtime refuses."""
    try:
        session = OnnxSession(content)
        session.logits(np.zeros((1, *session.shape), np.uint8))
    except Exception as error:  # onnxruntime raises types of its own, which it does not export
        raise UserError(
            f"expected a graph that ONNX Runtime loads and runs, found a fault: {first_line(error)}; choose another "
            "opset, IR version or precision"
        ) from error


def save(proto: onnx.ModelProto, path: Path, *, metadata: dict[str, str]) -> None:
    """Write a checked graph, once ONNX Runtime has run it.

    Args:
        metadata: put into the file's `metadata_props`; texts only, JSON for what is not a text.

    Raises:
        UserError: the file would hold a path of this machine, or ONNX Runtime does not run it.
    """
    proto = copy.deepcopy(proto)
    helper.set_model_props(proto, dict(sorted(metadata.items())))
    _refuse_paths(proto)
    content = proto.SerializeToString(deterministic=True)
    check_runs(content)
    with written_aside(path) as aside:
        aside.write_bytes(content)


def _refuse_paths(proto: onnx.ModelProto) -> None:
    """No folder of this machine may be named anywhere in the file."""
    skeleton = copy.deepcopy(proto)
    for tensor in skeleton.graph.initializer:
        tensor.ClearField("raw_data")  # weights are no text
    text = text_format.MessageToString(skeleton, as_utf8=True).replace("\\n", "\n")
    for folder in (Path.cwd(), Path.home(), Path(sys.prefix), Path(__file__).resolve().parents[2]):
        # Whole components: where a machine works in /app, neither "fruit/apple" nor "fruit/app" is a path of it.
        named = rf"(?<![\w.-]){re.escape(str(folder))}(?![\w.-])"
        if folder != Path(folder.anchor) and re.search(named, text):
            raise UserError(
                f"expected no path of this machine in the exported file, found {folder}; take it out of the metadata"
            )
