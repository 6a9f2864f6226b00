"""Why TensorRT does not take or build a graph, in one sentence: what is at fault, and what helps."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsd.machine.errors import UserError

# What the parser says (with the operator in front) and what helps; the first that fits is printed.
HINTS = [
    (r"^DequantizeLinear .*\bInt32\b", "quantise with float biases (ONNX Runtime's QuantizeBias=False)"),
    (r"zero point", "quantise symmetrically, with every zero point 0"),
    (r"type UInt8", "cast the uint8 pixels to float before any other operation"),
    (r"[Pp]lugin|UNSUPPORTED_NODE\b", "it has no such operator: export with another opset, or choose another student"),
    (r"UNSUPPORTED_NODE_DATATYPE", "export in another precision"),
    (r"UNSUPPORTED_NODE_(SHAPE|DYNAMIC)", "make every dimension but the batch fixed"),
]
OTHERWISE = "export with another opset, or choose another student"


class RefusedGraphError(UserError):
    """The library cannot build this graph, on no machine: there is no engine of it."""


def unparsed(parser: Any, onnx_path: Path, library: str) -> RefusedGraphError:
    """The error for a graph that `parser`, a `trt.OnnxParser`, has refused; of several faults the first."""
    error = parser.get_error(0)
    operator, fault = error.node_operator(), _essence(error.desc())
    node = f" at node '{error.node_name()}' ({operator})" if operator else ""
    what = f"{operator} {error.code().name} {fault}"
    hint = next((hint for pattern, hint in HINTS if re.search(pattern, what)), OTHERWISE)
    more = f" (and {parser.num_errors - 1} more)" if parser.num_errors > 1 else ""
    return RefusedGraphError(
        f"expected a graph that {library} takes, found a fault in {onnx_path}{node}: {fault}{more}; {hint}"
    )


def unbuilt(messages: Sequence[str], onnx_path: Path, library: str) -> RefusedGraphError | None:
    """The error for a graph that was parsed but not built, by the logger's messages; None if the machine may be why."""
    faults = [message for message in messages if message.startswith("ERROR") and "not supported" in message]
    if not faults:
        return None
    sentence = re.search(r"([^.()]*\bnot supported\b[^.()]*)", faults[-1])
    assert sentence is not None
    return RefusedGraphError(
        f"expected a graph that {library} builds, found a fault in {onnx_path}: {sentence[1].strip()}; {OTHERWISE}"
    )


def _essence(text: str) -> str:
    """What matters of some lines of a C++ library: what the API complains of, else the first line."""
    usage = re.search(r"API Usage Error \((.*?)\.? In \w+ at ", text, re.S)
    essence = usage.group(1) if usage else (text.strip().splitlines() or ["no reason was given"])[0]
    # Checks of the parser that only return false say so.
    return "it is not supported" if essence == "false" else " ".join(essence.split())
