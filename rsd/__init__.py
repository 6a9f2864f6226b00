"""Redundancy suppression distillation: a strong vision model's skill in a small one of another architecture.

What someone else's training loop needs is here by name, and imported when it is first asked for.
"""

from importlib import import_module
from os import environ
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsd.methods.base import Setting
    from rsd.methods.rsd import AAD, RSDDistiller, RSDOptions, rsd_loss, rsd_terms
    from rsd.models.outputs import Outputs, outputs

# From 1.29 on ONNX Runtime tells Microsoft about models and machine unless this was set before it is imported.
environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

__all__ = ["AAD", "Outputs", "RSDDistiller", "RSDOptions", "Setting", "outputs", "rsd_loss", "rsd_terms"]

_HOMES = {
    "AAD": "rsd.methods.rsd",
    "Outputs": "rsd.models.outputs",
    "RSDDistiller": "rsd.methods.rsd",
    "RSDOptions": "rsd.methods.rsd",
    "Setting": "rsd.methods.base",
    "outputs": "rsd.models.outputs",
    "rsd_loss": "rsd.methods.rsd",
    "rsd_terms": "rsd.methods.rsd",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
