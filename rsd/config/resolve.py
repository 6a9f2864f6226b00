"""Typed, validated params: named files of conf/ below, params.yaml above."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from rsd import methods as distillers
from rsd.config.method_code import method_code
from rsd.config.section import checked, kind_of, mapping, unknown_keys
from rsd.config.staged import not_staged
from rsd.export import precisions as known_precisions
from rsd.export.options import export_options
from rsd.export.student_gate import StudentGate
from rsd.export.tensorrt import EngineOptions
from rsd.machine.compute import ComputeOptions
from rsd.machine.errors import UserError, near
from rsd.machine.yaml_file import read_yaml
from rsd.measure.benchmark import BenchmarkOptions
from rsd.models.student import StudentOptions
from rsd.release.bundle import BundleOptions
from rsd.run.records import Choice, Watched
from rsd.sources.base import Source
from rsd.teacher.base import TeacherOptions
from rsd.teacher.store import ViewOptions
from rsd.training.recipe import Recipe, part_size

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

PAPER: dict[str, dict[str, JsonValue]] = {
    "data": {"hold_out": False},
    "student": {"weights": "none"},
    "recipe": {"select": "last"},
    "teacher_recipe": {"select": "last"},  # "best" would be picked on images that it was trained on
}
"""What `protocol: paper` sets above everything else, beside each method's own `Distiller.paper`: all training images,
students from random weights, and the last epoch."""

_OWN = ("views", "compute", "export", "engine", "benchmark", "bundle")  # written out in params.yaml itself
_NAMED = ("data", "teacher", "teacher_recipe", "student", "recipe")  # from conf/; `override` lies above
_WATCHED = ("data", "teacher", "student")  # may lie outside the project
_TOP = {"pair", "data", "recipe", "methods", "seeds", "precisions", "protocol", "method", "override", *_OWN}


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
    content = _read(params)
    errors = unknown_keys(content, _TOP, "", params)
    override = mapping(content.get("override"), "override", params, errors)
    errors += unknown_keys(override, set(_NAMED), "override.", params)
    override = {name: mapping(values, f"override.{name}", params, errors) for name, values in override.items()}

    pair_file, pair = _named(conf, "pair", content.get("pair"), errors, params)
    errors += unknown_keys(pair or {}, {"data", "recipe", "teacher", "student", "published"}, "", pair_file)
    names = {kind: content.get(kind) or (pair or {}).get(kind) for kind in ("data", "recipe")}
    files, sections = {"teacher": pair_file, "student": pair_file}, dict[str, Any]()
    for kind, name in names.items():
        unknown = name is None and pair is None  # the pair, which would name it, is said to be unknown already
        files[kind], sections[kind] = (params, None) if unknown else _named(conf, kind, name, errors, params)
    sections |= {
        "run": {kind: str(name) for kind, name in (names | {"pair": content.get("pair")}).items()}  # looked up above
        | {key: content.get(key) for key in ("methods", "seeds", "precisions")}
        | {key: content[key] for key in ("protocol",) if key in content},
        **{
            name: None if pair is None else mapping(pair.get(name), name, pair_file, errors)
            for name in ("teacher", "student")
        },
        **{name: mapping(content.get(name), name, params, errors) for name in _OWN},
    }
    for name in ("data", "teacher", "student", "recipe"):
        sections[name] = _merge(sections[name], override.get(name, {}))
    teacher_kind = kind_of(TeacherOptions, sections["teacher"])
    if teacher_kind and teacher_kind.trained and sections["teacher"].get("recipe"):
        files["teacher_recipe"], teacher_recipe = _named(
            conf, "recipe", sections["teacher"]["recipe"], errors, pair_file
        )
        sections["teacher_recipe"] = _merge(teacher_recipe, override.get("teacher_recipe", {}))
    method = mapping(content.get("method"), "method", params, errors)
    if content.get("protocol") == "paper":
        errors += _contradicted(override, PAPER, "override", params)
        sections |= {name: _merge(sections[name], values) for name, values in PAPER.items() if name in sections}

    if sections["bundle"].get("name") is None:  # of unknown data any name does, since they are the fault to name
        sections["bundle"] = sections["bundle"] | {"name": str(names["data"] or "data").lower().replace("/", "-")}
    # A section of its own, so that another gate does not train the students anew.
    student = sections["student"]
    sections["student_gate"] = {"min_top1": student.pop("min_top1")} if student and "min_top1" in student else {}
    files["student_gate"], override["student_gate"] = pair_file, override.get("student", {})
    sections["export"] = dict(sections["export"])
    sections["run"]["ships"] = sections["export"].pop("method", None)
    if sections["run"]["ships"] is None and isinstance(methods := sections["run"]["methods"], list) and methods:
        sections["run"]["ships"] = methods[-1]

    resolved: dict[str, Any] = {"teacher_recipe": None}  # stays None where the teacher is not trained here
    for name, values in sections.items():
        kind = SECTIONS[name]
        prefix = {"run": "", "student_gate": "student."}.get(name, f"{name}.")
        file = files.get(name, params)
        resolved[name] = None if values is None else checked(kind, values, prefix, file, override.get(name), errors)
    # A section of its own, so that another number of epochs does not make another view store.
    resolved["augment"] = (resolved["recipe"] or {}).get("augment")
    watched = {name: SECTIONS[name].model_validate(resolved[name]).watched for name in _WATCHED if resolved[name]}
    resolved["watched"] = Watched(**watched).model_dump(mode="json")
    paper = content.get("protocol") == "paper"
    resolved["method"] = _methods(method, sections["run"]["methods"], resolved["views"], params, errors, paper=paper)
    whole = [name for name in (resolved["run"] or {}).get("methods", ()) if resolved["method"].get(name) is not None]
    models = {name: (part["name"], part["args"]) for name in ("student", "teacher") if (part := resolved[name])}
    errors += [f"{files[name]}: {name}.name: {fault}" for name, fault in not_staged(whole, models).items()]
    for name in ("recipe", "teacher_recipe"):
        errors += _not_in_parts(name, resolved, files.get(name, params))
    ships, methods = sections["run"].get("ships"), sections["run"]["methods"]
    known_methods = isinstance(methods, list) and all(name in resolved["method"] for name in methods if name)
    if known_methods and ships not in methods:
        errors.append(f"{params}: export.method: expected one of methods {methods}, found {ships!r}")
    opset = (resolved["export"] or {}).get("opset", 0)
    known, precisions = known_precisions.names(), sections["run"]["precisions"]
    for name in precisions if isinstance(precisions, list) else ():
        if name not in known:
            errors.append(
                f"{params}: precisions: expected names out of {', '.join(known)}, found {name!r}{near(name, known)}"
            )
            continue
        largest, reason = known_precisions.get(name).largest_opset or (opset, "")
        if opset > largest:
            errors.append(
                f"{params}: export.opset: expected at most {largest} with {name} among the precisions, since {reason}, "
                f"found {opset}; lower it, or take {name} out of precisions"
            )
    if errors:
        raise UserError(f"{len(errors)} to correct in the params:\n" + "\n".join(f"  {line}" for line in errors))
    return resolved


def _methods(
    options: dict[str, Any], selection: Any, views: Any, file: Path, errors: list[str], *, paper: bool
) -> dict[str, Any]:
    """The sections of the methods, also of the user's own; `paper` lays the published protocol above them."""
    known = distillers.methods() + distillers.own_methods()
    selection = selection if isinstance(selection, list) else None
    names = [name for name in selection or [] if isinstance(name, str)]
    if selection is not None and "scratch" not in selection:
        errors.append(
            f"{file}: methods: expected scratch among them, found {selection}; a distilled student is judged "
            "beside its plainly trained twin"
        )
    terms = {part: name for name in reversed(names) for part in distillers.parts(name)}
    errors += [
        f"{file}: methods: expected names out of {', '.join(known)}, found {name!r}{near(part, known)}"
        for part, name in terms.items()
        if part not in known
    ]
    sums: dict[str, str] = {}
    for name in names:
        first = sums.setdefault("+".join(sorted(distillers.parts(name))), name)
        if first != name:
            errors.append(
                f"{file}: methods: expected each sum of methods once, found {first!r} and {name!r}, which have the "
                "same parts; keep one of them"
            )
    errors += unknown_keys(options, set(known), "method.", file)
    resolved: dict[str, Any] = {}
    for name in dict.fromkeys(known):
        if name in options or name in terms:
            values = mapping(options.get(name), f"method.{name}", file, errors)
            try:
                kind = distillers.distiller(name)
                values = _merge(values, kind.paper) if paper else values
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


def _not_in_parts(name: str, resolved: Mapping[str, Any], file: Path) -> list[str]:
    """What forbids sharing a recipe's batch out over processes and parts of an accumulation."""
    if not resolved[name] or not resolved["compute"]:
        return []
    recipe, errors = Recipe(**resolved[name]), []
    try:
        part_size(recipe, processes=resolved["compute"]["processes"])
    except UserError as error:
        errors.append(f"{file}: {name}.batch_size: {error}")
    for method, options in resolved["method"].items() if name == "recipe" else ():
        kind = distillers.distiller(method)
        try:
            if options is not None and method in (resolved["run"] or {}).get("methods", ()):
                kind.check_accumulation(kind.Options(**options), recipe.accumulation)
        except UserError as error:
            errors.append(f"{file}: {name}.accumulation: {error}")
    return errors


def _contradicted(above: Mapping[str, Any], paper: Mapping[str, Any], path: str, file: Path) -> list[str]:
    """What an override asks for against the paper's protocol: nobody could say which of the two is meant."""
    errors = []
    for key, value in paper.items():
        if isinstance(value, dict):
            below = above.get(key)
            errors += _contradicted(below if isinstance(below, dict) else {}, value, f"{path}.{key}", file)
        elif key in above and above[key] != value:
            errors.append(
                f"{file}: {path}.{key}: expected {value!r}, which protocol 'paper' sets, found {above[key]!r}; "
                "take it out of override, or set protocol to ours"
            )
    return errors


def _named(conf: Path, kind: str, name: Any, errors: list[str], named_in: Path) -> tuple[Path, dict[str, Any] | None]:
    """The file of a named choice, such as conf/pair/digits/resnet-vit.yaml, and its content; None: there is none."""
    folder = conf / kind
    known = sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))
    file = folder / f"{name}.yaml"
    if name in known:
        return file, _read(file)
    errors.append(
        f"{named_in}: {kind}: expected a name out of {folder} ({', '.join(known)}), found {name!r}{near(name, known)}"
    )
    return file, None


def _merge(below: dict[str, Any] | None, above: dict[str, Any]) -> Any:
    """`above` laid over `below`, mapping by mapping; any other value replaces. Over nothing lies nothing."""
    if below is None:
        return None
    merged = dict(below)
    for key, value in above.items():
        nested = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _merge(below[key], value) if nested else value
    return merged


def _read(file: Path) -> dict[str, Any]:
    content = read_yaml(file)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"expected keys and values in {file}, found {type(content).__name__}")
    return content
