"""Every value of a model between pixels and logits, as PyTorch computes it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class _Listening(torch.fx.Interpreter):
    """Runs a traced module and keeps every float tensor under the name that the exporter gave it."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, NDArray[np.floating]] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(result, Tensor) and result.is_floating_point():
            self.values[n.name] = result.numpy()
        return result


@torch.no_grad()
def torch_values(program: torch.export.ExportedProgram, images: NDArray[np.uint8]) -> dict[str, NDArray[np.floating]]:
    """Every float value of the same model in PyTorch, under the names of the graph that was made from it."""
    listening = _Listening(program.module())
    logits = listening.run(torch.from_numpy(images))
    last = logits[0] if isinstance(logits, tuple | list) else logits
    return {**listening.values, "logits": last.numpy()}


@torch.no_grad()
def module_values(model: nn.Module, run: Callable[[], Any]) -> dict[str, NDArray[np.floating]]:
    """The output of every part of `model` by its name while `run()` uses it, in the order of their ends."""
    values: dict[str, NDArray[np.floating]] = {}

    def listen(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                values[name] = output.float().cpu().numpy()

        return keep

    handles = [part.register_forward_hook(listen(name)) for name, part in model.named_modules() if name]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return values


def parts(program: torch.export.ExportedProgram) -> dict[str, str]:
    """Which part of the PyTorch model each value comes from, such as `blocks.0.attn.qkv`."""
    named = {}
    for node in program.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack and isinstance(node.meta.get("val"), Tensor):
            path = str(next(reversed(stack.values()))[0])
            named[node.name] = path.removeprefix("model").removeprefix(".") or "the model itself"
    return named
