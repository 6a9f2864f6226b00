"""Why TensorRT does not take a graph, in one sentence: the node, its operator, and what helps."""

import re
from pathlib import Path
from typing import Any

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


def unparsed(parser: Any, onnx_path: Path, library: str) -> str:
    """The sentence for a graph that `parser`, a `trt.OnnxParser`, has refused; of several faults the first."""
    error = parser.get_error(0)
    operator, fault = error.node_operator(), _essence(error.desc())
    node = f" at node '{error.node_name()}' ({operator})" if operator else ""
    what = f"{operator} {error.code().name} {fault}"
    hint = next((hint for pattern, hint in HINTS if re.search(pattern, what)), OTHERWISE)
    more = f" (and {parser.num_errors - 1} more)" if parser.num_errors > 1 else ""
    return f"expected a graph that {library} takes, found a fault in {onnx_path}{node}: {fault}{more}; {hint}"


def _essence(text: str) -> str:
    """What matters of some lines of a C++ library: what the API complains of, else the first line."""
    usage = re.search(r"API Usage Error \((.*?)\.? In \w+ at ", text, re.S)
    essence = usage.group(1) if usage else (text.strip().splitlines() or ["no reason was given"])[0]
    # Checks of the parser that only return false say so.
    return "it is not supported" if essence == "false" else " ".join(essence.split())
