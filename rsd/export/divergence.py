"""Where two forms of one model part: every value between pixels and logits of both, compared in order."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rsd.export.runtimes.onnxruntime import session_of

Values = Mapping[str, NDArray[np.floating]]  # what was computed on the way, by name, in the order of computation


class Divergence(NamedTuple):
    """The first value that strays, or the one that strays most where none exceeds the tolerance."""

    value: str
    share: float
    """The largest difference, as a share of the value's range; infinite where it is not finite."""
    after: str | None
    """The last value before it that both have and that agrees."""
    beyond: bool
    """Whether it exceeds the tolerance."""


def first_divergence(reference: Values, values: Values, tolerance: float) -> Divergence | None:
    """Compare values of one name in the order of `values`; None if nothing differs at all.

    Args:
        tolerance: largest difference that is none, as a share of a value's range.
    """
    after, worst = None, None
    for name, value in values.items():
        if name not in reference or reference[name].shape != value.shape or not value.size:
            continue
        share = _share(np.asarray(reference[name], np.float64), np.asarray(value, np.float64))
        if share > tolerance:
            return Divergence(name, share, after, beyond=True)
        if share > 0 and (worst is None or share > worst.share):
            worst = Divergence(name, share, after, beyond=False)
        after = name
    return worst


def strays(reference: Values, values: Values) -> dict[str, float]:
    """How far each common value lies from the reference, in the reference's order.

    Returns:
        Root mean square of the difference, as a share of the reference's standard deviation; a value that is the same
        everywhere, or not finite, is left out.
    """
    errors = {}
    for name, value in reference.items():
        if name in values and values[name].shape == value.shape:
            exact, other = np.asarray(value, np.float64), np.asarray(values[name], np.float64)
            spread = float(exact.std()) if exact.size else 0.0
            error = float(np.sqrt(np.square(other - exact).mean())) / spread if spread else float("nan")
            if np.isfinite(error):
                errors[name] = error
    return errors


def _share(reference: NDArray[np.float64], value: NDArray[np.float64]) -> float:
    difference = np.abs(value - reference)[np.isfinite(reference)]
    if not difference.size:
        return 0.0
    if not np.isfinite(difference).all():
        return float("inf")
    span = max(float(np.ptp(reference[np.isfinite(reference)])), float(np.abs(reference).max()))
    return float(difference.max()) / span if span else float(difference.max() > 0)


def graph_values(proto: onnx.ModelProto, images: NDArray[np.uint8]) -> dict[str, NDArray[np.floating]]:
    """Every float value of an ONNX graph for raw images `[N, H, W, C]`, as written: ONNX Runtime changes nothing."""
    return listening(proto)(images)


def listening(proto: onnx.ModelProto) -> Callable[[NDArray[np.uint8]], dict[str, NDArray[np.floating]]]:
    """The graph, opened once; the answer is `graph_values` of one batch.

    A CPU has few fp16 kernels: ONNX Runtime computes most nodes in float32, and where two follow each other it drops
    the rounding to fp16 between them, overflow included. An Identity between the two keeps it.
    """
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    types = {value.name: value for value in proto.graph.value_info}
    kinds = {name: value.type.tensor_type.elem_type for name, value in types.items()}
    order = [name for node in proto.graph.node for name in node.output]
    own = [output.name for output in proto.graph.output]
    names = [name for name in order if kinds.get(name) in (TensorProto.FLOAT, TensorProto.FLOAT16) and name not in own]
    exposed.graph.output.extend(types[name] for name in names)
    rounded = []
    for node in exposed.graph.node:
        for index, name in enumerate(node.output):
            if kinds.get(name) == TensorProto.FLOAT16:
                node.output[index] = f"{name}_before_rounding"
                rounded.append(helper.make_node("Identity", [node.output[index]], [name]))
    exposed.graph.node.extend(rounded)
    session = session_of(exposed.SerializeToString(), optimised=False)

    def values_of(images: NDArray[np.uint8]) -> dict[str, NDArray[np.floating]]:
        values = dict(zip(names + own, session.run(names + own, {"image": images}), strict=True))
        return {name: values[name] for name in order if name in values}

    return values_of


def in_words(
    divergence: Divergence | None, proto: onnx.ModelProto | None = None, named: Mapping[str, str] | None = None
) -> str:
    """A clause for the sentence of a failed gate.

    Args:
        proto: the graph whose node made the value; None for a part of a PyTorch model.
        named: of `parts`.
    """
    if divergence is None:
        return "no value on the way differs as the graph is written: the fault is in how the runtime optimises it"
    node = next((n for n in (proto.graph.node if proto else ()) if divergence.value in n.output), None)
    place = f"node '{node.name}' ({node.op_type})" if node else f"'{divergence.value}'"
    if named and divergence.value in named:
        place += f", {named[divergence.value]} in PyTorch"
    share = divergence.share
    size = "is not finite" if share == float("inf") else f"differs by {100 * share:.3g} % of its range"
    if not divergence.beyond:
        return f"no single node parts them; most strays {place}, whose output {size}"
    after = f"; all before agree up to '{divergence.after}'" if divergence.after else ""
    return f"the first node where the two part is {place}, whose output {size}{after}"
