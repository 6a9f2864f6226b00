"""One file per method: a `timm.task.TrainingTask` that wires a loss to a student and its teacher's outputs.

A method's name is its file's name. Nothing here imports them all, so that editing one method does not
retrain the students of another.
"""

import importlib
import pkgutil

from rsd.distillers.base import Distiller
from rsd.errors import UserError


def methods() -> list[str]:
    """Names of the methods there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def distiller(method: str) -> type[Distiller]:
    """The class of a method.

    Raises:
        UserError: no such method.
    """
    if method not in Distiller.registry:
        if method not in methods():
            raise UserError(f"expected a method out of {', '.join(methods())}, found '{method}'")
        importlib.import_module(f"{__name__}.{method}")
    return Distiller.registry[method]
