"""One file per precision: its options, its gate, and how it is made of the exported graph.

A precision's name is its file's name, and `precisions` of params.yaml takes every name that there is.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsd.machine.errors import UserError
from rsd.machine.modules import module_names

if TYPE_CHECKING:
    from rsd.export.precisions.base import Precision


def names() -> list[str]:
    """All that there are."""
    return module_names(Path(__file__).parent)


def get(name: str) -> "Precision[Any]":
    """What the file of this name holds as `PRECISION`; UserError if there is no such file."""
    if name not in names():
        raise UserError(f"expected a precision out of {', '.join(names())}, found {name!r}")
    return importlib.import_module(f"{__name__}.{name}").PRECISION
