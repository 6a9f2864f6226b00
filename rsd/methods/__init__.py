"""One file per method: its options, its loss, and the `timm.task.TrainingTask` that joins it to student and teacher.

A method's name is its file's name. This file imports no method, so that an edit of one does not retrain the students
of another. What several methods share lies in `base.py` and in files that start with an underscore. A user's own
methods lie in the project's folder `methods/`, one file each.
"""

import importlib
import sys
import traceback
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from rsd.machine.errors import UserError
from rsd.machine.modules import module_names
from rsd.methods.base import Distiller

OWN = Path("methods")  # a user's own methods, in the folder where stages are started


def methods() -> list[str]:
    """Names of the methods of this package."""
    return module_names(Path(__file__).parent)


def own_methods() -> list[str]:
    """Names of the methods in `OWN`."""
    return module_names(OWN)


def source(method: str) -> Path:
    """The file of a method, whether or not it exists."""
    return OWN / f"{method}.py" if method in own_methods() else Path(__file__).with_name(f"{method}.py")


def parts(method: str) -> list[str]:
    """The methods that a sum such as `rsd+kd` adds up; of any other method, itself."""
    return method.split("+")


def distiller(method: str) -> type[Distiller]:
    """The class of a method, or of a sum of methods; this runs the methods' files.

    Raises:
        UserError: no such method; one of the user's own whose file cannot be imported, does not define it, or has the
            name of another; or a sum that names a method twice, or `scratch`, which adds nothing.
    """
    if "+" in method:
        return _of_sum(method)
    package, own = methods(), own_methods()
    if method in own and method in (*package, "teacher"):
        raise UserError(
            f"expected a name of its own for the method in {source(method)}, found '{method}', which means something "
            "else already; rename the file, and the method in it"
        )
    if method not in Distiller.registry:
        if method in package:
            importlib.import_module(f"{__name__}.{method}")
        elif method in own:
            _import_own(method)
        else:
            raise UserError(f"expected a method out of {', '.join([*package, *own])}, found '{method}'")
    return Distiller.registry[method]


def _of_sum(method: str) -> type[Distiller]:
    names = parts(method)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"expected each method of a sum once, found '{method}'; name {', '.join(repeated)} once, and set its "
            "weight in its section"
        )
    if "scratch" in names:
        others = "+".join(name for name in names if name != "scratch")
        raise UserError(f"expected methods that add a term to the loss, found '{method}'; write '{others}'")
    kinds = [distiller(name) for name in names]
    if method not in Distiller.registry:
        # By its name, like a method: an edit of sums retrains sums only.
        importlib.import_module(f"{__name__}._sum").sum_of(kinds)
    return Distiller.registry[method]


def _import_own(method: str) -> None:
    file = source(method).resolve()
    spec = spec_from_file_location(f"{OWN}.{method}", file)
    assert spec is not None  # its name ends in .py
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where rsd.machine.unfinished looks for the loaded code
    fault = None
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f" (line {lines[-1]})" if lines else ""
        fault = UserError(
            f"expected a method in {source(method)}, found {type(error).__name__}: {error}{where}; correct the file"
        )
        fault.__cause__ = error
    defined = {name for name, kind in Distiller.registry.items() if kind.__module__ == spec.name}
    if not fault and (method not in Distiller.registry or defined - {method}):
        fault = UserError(
            f"expected {source(method)} to define the method '{method}' and no other, as "
            f'`class ...(Distiller, method="{method}")`, found {", ".join(sorted(defined)) or "none"}; '
            "correct the file, or rename it"
        )
    if fault:
        del sys.modules[spec.name]
        for name in defined:
            del Distiller.registry[name]
        raise fault
