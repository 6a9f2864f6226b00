"""The sections of a run before they are checked: named files of conf/ below, params.yaml above, the paper on top."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import JsonValue

from rsd.config.section import kind_of, mapping, unknown_keys
from rsd.machine.errors import UserError, near
from rsd.machine.yaml_file import read_yaml
from rsd.teacher.base import TeacherOptions

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
_TOP = {"pair", "data", "recipe", "methods", "seeds", "precisions", "protocol", "method", "override", *_OWN}
_PAIR = {"data", "recipe", "teacher", "student", "published"}


class Layers(NamedTuple):
    """What params.yaml and the files that it names ask for."""

    sections: dict[str, Any]
    """By name; None where the file that would hold the section is unknown."""
    files: dict[str, Path]
    """Where a section stands; one that is not among them stands in params.yaml."""
    override: dict[str, dict[str, Any]]
    """What params.yaml sets above a section."""
    method: dict[str, Any]
    """The methods' sections by name."""
    paper: bool
    """Whether the protocol is the paper's."""


def layered(params: Path, conf: Path, errors: list[str]) -> Layers:
    """The sections as they stand in the files; what is wrong with these is added to `errors`.

    Args:
        params: params.yaml.
        conf: the folder with data/, pair/ and recipe/.
    """
    content = _read(params)
    errors += unknown_keys(content, _TOP, "", params)
    override = mapping(content.get("override"), "override", params, errors)
    errors += unknown_keys(override, set(_NAMED), "override.", params)
    override = {name: mapping(values, f"override.{name}", params, errors) for name, values in override.items()}
    sections, files = _from_files(content, params, conf, errors)
    for name in ("data", "teacher", "student", "recipe"):
        sections[name] = merged(sections[name], override.get(name, {}))
    kind = kind_of(TeacherOptions, sections["teacher"])
    if kind and kind.trained and (recipe := sections["teacher"].get("recipe")):
        files["teacher_recipe"], values = _named(conf, "recipe", recipe, errors, files["teacher"])
        sections["teacher_recipe"] = merged(values, override.get("teacher_recipe", {}))
    method = mapping(content.get("method"), "method", params, errors)
    paper = content.get("protocol") == "paper"
    if paper:
        errors += _contradicted(override, PAPER, "override", params)
        sections |= {name: merged(sections[name], values) for name, values in PAPER.items() if name in sections}
    _set_apart(sections)
    files["student_gate"], override["student_gate"] = files["student"], override.get("student", {})
    return Layers(sections, files, override, method, paper)


def _from_files(
    content: dict[str, Any], params: Path, conf: Path, errors: list[str]
) -> tuple[dict[str, Any], dict[str, Path]]:
    """The sections of the files that params.yaml names, and its own; and the file of each of the former."""
    pair_file, pair = _named(conf, "pair", content.get("pair"), errors, params)
    errors += unknown_keys(pair or {}, _PAIR, "", pair_file)
    names = {kind: content.get(kind) or (pair or {}).get(kind) for kind in ("data", "recipe")}
    files, sections = {"teacher": pair_file, "student": pair_file}, dict[str, Any]()
    for kind, name in names.items():
        unknown = name is None and pair is None  # the pair, which would name it, is said to be unknown already
        files[kind], sections[kind] = (params, None) if unknown else _named(conf, kind, name, errors, params)
    sections["run"] = {
        **{kind: str(name) for kind, name in (names | {"pair": content.get("pair")}).items()},  # looked up above
        **{key: content.get(key) for key in ("methods", "seeds", "precisions")},
        **{key: content[key] for key in ("protocol",) if key in content},
    }
    for name in ("teacher", "student"):
        sections[name] = None if pair is None else mapping(pair.get(name), name, pair_file, errors)
    return sections | {name: mapping(content.get(name), name, params, errors) for name in _OWN}, files


def _set_apart(sections: dict[str, Any]) -> None:
    """Move what one stage reads out of the section of another, and name what params.yaml may leave unnamed."""
    run, student = sections["run"], sections["student"]
    if sections["bundle"].get("name") is None:
        sections["bundle"] = sections["bundle"] | {"name": run["data"].lower().replace("/", "-")}
    # Another gate does not train the students anew.
    sections["student_gate"] = {"min_top1": student.pop("min_top1")} if student and "min_top1" in student else {}
    sections["export"] = dict(sections["export"])
    run["ships"] = sections["export"].pop("method", None)
    if run["ships"] is None and isinstance(run["methods"], list) and run["methods"]:
        run["ships"] = run["methods"][-1]


def merged(below: dict[str, Any] | None, above: dict[str, Any]) -> Any:
    """`above` laid over `below`, mapping by mapping; any other value replaces. Over nothing lies nothing."""
    if below is None:
        return None
    result = dict(below)
    for key, value in above.items():
        nested = isinstance(value, dict) and isinstance(below.get(key), dict)
        result[key] = merged(below[key], value) if nested else value
    return result


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


def _read(file: Path) -> dict[str, Any]:
    content = read_yaml(file)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"expected keys and values in {file}, found {type(content).__name__}")
    return content
