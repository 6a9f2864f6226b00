"""Typed, validated params: each section checked by its type, then against the others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from rsd import methods as distillers
from rsd.config.across import faults
from rsd.config.layers import Layers, layered, merged
from rsd.config.method_code import method_code
from rsd.config.section import checked, mapping, unknown_keys
from rsd.export.options import export_options
from rsd.export.student_gate import StudentGate
from rsd.export.tensorrt import EngineOptions
from rsd.machine.compute import ComputeOptions
from rsd.machine.errors import UserError, near
from rsd.measure.benchmark import BenchmarkOptions
from rsd.models.student import StudentOptions
from rsd.release.bundle import BundleOptions
from rsd.run.records import Choice, Watched
from rsd.sources.base import Source
from rsd.teacher.base import TeacherOptions
from rsd.teacher.store import ViewOptions
from rsd.training.recipe import Recipe

SECTIONS: dict[str, Any] = {
    "run": Choice,
    "data": Source,
    "teacher": TeacherOptions,
    "teacher_recipe": Recipe,
    "student": StudentOptions,
    "student_gate": StudentGate,
    "recipe": Recipe,
    "views": ViewOptions,
    "compute": ComputeOptions,
    "export": export_options(),
    "engine": EngineOptions,
    "benchmark": BenchmarkOptions,
    "bundle": BundleOptions,
}
"""The resolved sections, and the type that checks each."""

_WATCHED = ("data", "teacher", "student")  # may lie outside the project


def param_files(params: Path, conf: Path) -> dict[str, JsonValue]:
    """The files of out/params/ by name: sections, methods' sections in `method/`, their code. Errors as `resolve`."""
    resolved = resolve(params, conf)
    methods = resolved.pop("method")
    return {
        **{f"{name}.json": values for name, values in resolved.items()},
        **{f"method/{name}.json": values for name, values in methods.items()},
        **{f"code/{name}.py": method_code(name) for name in resolved["run"]["methods"]},
        "shipped.py": method_code(resolved["run"]["ships"]),
    }


def resolve(params: Path, conf: Path) -> dict[str, Any]:
    """The whole configuration as plain values.

    These are the sections of `SECTIONS`; `method.<name>` for each method; `augment` of the recipe; and `watched`, the
    paths outside the project that the source of images, the teacher and the student read.

    Args:
        params: params.yaml.
        conf: the folder with data/, pair/ and recipe/.

    Raises:
        UserError: everything that is wrong, one line each, with the key's path and the file it stands in.
    """
    errors: list[str] = []
    layers = layered(params, conf, errors)
    resolved: dict[str, Any] = {"teacher_recipe": None}  # stays None where the teacher is not trained here
    for name, values in layers.sections.items():
        kind, override = SECTIONS[name], layers.override.get(name)
        prefix = {"run": "", "student_gate": "student."}.get(name, f"{name}.")
        file = layers.files.get(name, params)
        resolved[name] = None if values is None else checked(kind, values, prefix, file, override, errors)
    # A section of its own, so that another number of epochs does not make another view store.
    resolved["augment"] = (resolved["recipe"] or {}).get("augment")
    watched = {name: SECTIONS[name].model_validate(resolved[name]).watched for name in _WATCHED if resolved[name]}
    resolved["watched"] = Watched(**watched).model_dump(mode="json")
    resolved["method"] = _methods(layers, resolved["views"], params, errors)
    errors += faults(resolved, layers, params)
    if errors:
        raise UserError(f"{len(errors)} to correct in the params:\n" + "\n".join(f"  {line}" for line in errors))
    return resolved


def _methods(layers: Layers, views: Any, file: Path, errors: list[str]) -> dict[str, Any]:
    """The sections of the methods, also of the user's own."""
    known, options = distillers.methods() + distillers.own_methods(), layers.method
    selection = layers.sections["run"]["methods"]
    names = [name for name in selection if isinstance(name, str)] if isinstance(selection, list) else []
    terms = {part: name for name in reversed(names) for part in distillers.parts(name)}
    if isinstance(selection, list) and "scratch" not in selection:
        errors.append(
            f"{file}: methods: expected scratch among them, found {selection}; a distilled student is judged "
            "beside its plainly trained twin"
        )
    errors += [
        f"{file}: methods: expected names out of {', '.join(known)}, found {name!r}{near(part, known)}"
        for part, name in terms.items()
        if part not in known
    ]
    errors += _sums_given_twice(names, file)
    errors += unknown_keys(options, set(known), "method.", file)
    resolved: dict[str, Any] = {}
    for name in dict.fromkeys(known):
        if name in options or name in terms:
            values = mapping(options.get(name), f"method.{name}", file, errors)
            try:
                kind = distillers.distiller(name)
                values = merged(values, kind.paper) if layers.paper else values
                resolved[name] = checked(kind.Options, values, f"method.{name}.", file, None, errors)
            except UserError as error:
                errors.append(f"{file}: methods: {error}")
    for name in names:
        parts = distillers.parts(name)
        if all(part in resolved for part in parts):
            try:
                kind = distillers.distiller(name)
            except UserError as error:  # of a sum; a method's own was told above
                errors.append(f"{file}: methods: {error}")
                continue
            if len(parts) > 1:
                resolved[name] = None if None in map(resolved.get, parts) else {part: resolved[part] for part in parts}
            try:
                kind.check_views(views["count"] if views else 0)
            except UserError as error:
                errors.append(f"{file}: views.count: {error}")
    return resolved


def _sums_given_twice(names: list[str], file: Path) -> Iterator[str]:
    sums: dict[str, str] = {}
    for name in names:
        first = sums.setdefault("+".join(sorted(distillers.parts(name))), name)
        if first != name:
            yield (
                f"{file}: methods: expected each sum of methods once, found {first!r} and {name!r}, which have the "
                "same parts; keep one of them"
            )
