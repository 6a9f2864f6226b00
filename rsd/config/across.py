"""What the checked sections ask of each other; each fault is a sentence with the key's path and the file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rsd import methods as distillers
from rsd.config.layers import Layers
from rsd.config.staged import not_staged
from rsd.export import precisions
from rsd.machine.errors import UserError, near
from rsd.training.recipe import Recipe, part_size


def faults(resolved: Mapping[str, Any], layers: Layers, params: Path) -> Iterator[str]:
    """Everything that does not fit together.

    Args:
        resolved: the sections, None for one that is faulty by itself; `method` has those of the methods.
        layers: what they were before they were checked.
        params: params.yaml.
    """
    yield from _of_stages(resolved, layers.files)
    for name in ("recipe", "teacher_recipe"):
        yield from _of_parts(name, resolved, layers.files.get(name, params))
    run = layers.sections["run"]
    methods = run["methods"] if isinstance(run["methods"], list) else []
    known = all(name in resolved["method"] for name in methods if name)  # else that is the fault
    if methods and known and run["ships"] not in methods:
        yield f"{params}: export.method: expected one of methods {methods}, found {run['ships']!r}"
    if isinstance(run["precisions"], list):
        yield from _of_precisions(run["precisions"], (resolved["export"] or {}).get("opset", 0), params)


def _of_stages(resolved: Mapping[str, Any], files: Mapping[str, Path]) -> Iterator[str]:
    """Models that a method cannot take apart."""
    methods = [name for name in (resolved["run"] or {}).get("methods", ()) if resolved["method"].get(name) is not None]
    models = {name: (part["name"], part["args"]) for name in ("student", "teacher") if (part := resolved[name])}
    for name, fault in not_staged(methods, models).items():
        yield f"{files[name]}: {name}.name: {fault}"


def _of_parts(name: str, resolved: Mapping[str, Any], file: Path) -> Iterator[str]:
    """What forbids sharing a recipe's batch out over processes and parts of an accumulation."""
    if not resolved[name] or not resolved["compute"]:
        return
    recipe = Recipe(**resolved[name])
    try:
        part_size(recipe, processes=resolved["compute"]["processes"])
    except UserError as error:
        yield f"{file}: {name}.batch_size: {error}"
    for method, options in resolved["method"].items() if name == "recipe" else ():
        kind = distillers.distiller(method)
        try:
            if options is not None and method in (resolved["run"] or {}).get("methods", ()):
                kind.check_accumulation(kind.Options(**options), recipe.accumulation)
        except UserError as error:
            yield f"{file}: {name}.accumulation: {error}"


def _of_precisions(selection: list[Any], opset: int, params: Path) -> Iterator[str]:
    """Precisions that are unknown, or cannot be written in this opset."""
    known = precisions.names()
    for name in selection:
        if name not in known:
            yield (f"{params}: precisions: expected names out of {', '.join(known)}, found {name!r}{near(name, known)}")
            continue
        largest, reason = precisions.get(name).largest_opset or (opset, "")
        if opset > largest:
            yield (
                f"{params}: export.opset: expected at most {largest} with {name} among the precisions, since {reason}, "
                f"found {opset}; lower it, or take {name} out of precisions"
            )
