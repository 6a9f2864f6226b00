"""Whether timm can take the student and the teacher apart, for the methods that compare feature maps."""

from collections.abc import Iterable, Mapping
from typing import Any

import timm
import torch
from pydantic import JsonValue
from timm.layers import to_2tuple

from rsd import methods as distillers
from rsd.machine.errors import UserError
from rsd.models.features import stage_shapes


def not_staged(methods: Iterable[str], models: Mapping[str, tuple[str, Mapping[str, JsonValue]]]) -> dict[str, str]:
    """`student` or `teacher` -> why a method cannot take it apart; `models` has timm's name and arguments of each."""
    kinds = [distillers.distiller(method) for method in methods]
    needs = {"student": any(kind.staged for kind in kinds), "teacher": any("stages" in kind.needs for kind in kinds)}
    faults = {}
    for name in (name for name, is_needed in needs.items() if is_needed and name in models):
        try:
            _take_apart(*models[name])
        except UserError as error:
            faults[name] = str(error)
    return faults


@torch.no_grad()
def _take_apart(name: str, args: Mapping[str, JsonValue]) -> None:
    """Take a model apart without weights or arithmetic, at its own image size, since that of the data may be unknown.

    A model that cannot be run so is not judged: `distill` makes it with the data's images.

    Raises:
        UserError: timm cannot take the model apart into four stages.
    """
    try:
        with torch.device("meta"):
            arguments: dict[str, Any] = dict(args)
            model: Any = timm.create_model(name, **arguments).eval()
            channels, *size = model.pretrained_cfg["input_size"]
            height, width = to_2tuple(args.get("img_size") or size)
            model.forward_features(torch.empty(1, channels, height, width))
    except Exception:  # of whatever class the model's code stumbles over
        return
    stage_shapes(model, (height, width, channels))
