"""The files of a new run: checked before the first is written."""

import csv
import io
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from rsd.config.resolve import resolve
from rsd.config.section import checked
from rsd.machine.compute import ComputeOptions
from rsd.machine.errors import UserError
from rsd.machine.extras import needs
from rsd.machine.files import written_aside
from rsd.machine.yaml_file import read_yaml
from rsd.sources.label_file import HEADER, Row

PARAMS, CONF = Path("params.yaml"), Path("conf")
ParamValue = str | int | list[str] | list[int] | dict[str, str] | None  # a value in params.yaml
KINDS = ("data", "pair", "recipe")


def check_place(name: str, *, force: bool) -> None:
    """UserError for a folder that is no clone of the project and, without `force`, for a name that is taken."""
    if missing := [name for name in ("dvc.yaml", str(PARAMS), str(CONF)) if not Path(name).exists()]:
        raise UserError(
            f"expected a clone of the project in the present folder, found no {missing[0]}; change to its folder"
        )
    files = [*(CONF / "data").glob(f"{name}.csv"), *(CONF / kind / f"{name}.yaml" for kind in KINDS)]
    taken = [str(file) for file in files if file.exists()]
    if taken and not force:
        raise UserError(
            f"expected a new name, found {', '.join(taken)}; give another by --name, or write over them by --force"
        )


def read_compute() -> ComputeOptions:
    """How this project computes, by its params.yaml; UserError where the file or its section is faulty."""
    content, errors = read_yaml(PARAMS), list[str]()
    section = content.get("compute") or {} if isinstance(content, dict) else {}
    values = checked(ComputeOptions, section, "compute.", PARAMS, None, errors)
    if errors:
        raise UserError(f"expected a valid section, found {'; '.join(errors)}; correct it")
    return ComputeOptions(**values)


def write_files(texts: Mapping[Path, str], params: Mapping[str, ParamValue]) -> list[str]:
    """Write the files and change lines of params.yaml, whose other lines and comments stay; what changed there.

    Args:
        texts: file -> content.
        params: dotted key of params.yaml -> value.

    Raises:
        UserError: together they are no valid params; nothing is written then.
    """
    text, changes = changed_params(PARAMS.read_text(encoding="utf-8"), params)
    texts = {**texts, PARAMS: text}
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder)
        shutil.copytree(CONF, trial / CONF)
        for file, content in texts.items():
            (trial / file).parent.mkdir(parents=True, exist_ok=True)
            (trial / file).write_text(content, encoding="utf-8")
        try:
            resolve(trial / PARAMS, trial / CONF)
        except UserError as error:
            raise UserError(str(error).replace(f"{trial}/", "")) from error
    for file, content in texts.items():
        with written_aside(file) as aside:
            aside.write_text(content, encoding="utf-8")
    return changes


def changed_params(text: str, values: Mapping[str, ParamValue]) -> tuple[str, list[str]]:
    """The text of params.yaml with other values, and each change in words."""
    needs("pipeline", "ruamel")
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.representer import RoundTripRepresenter

    class Representer(RoundTripRepresenter):
        """Writes null as null; ruamel leaves it out."""

    Representer.add_representer(type(None), lambda own, _: own.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml = YAML()
    yaml.Representer = Representer
    yaml.preserve_quotes = True
    yaml.width = 1_000
    content = yaml.load(text)
    changes = []
    for key, value in values.items():
        *sections, name = key.split(".")
        section = content
        for part in sections:
            section = section.setdefault(part, CommentedMap())
        old = section.get(name)
        if old == value:
            continue
        changes.append(f"{key}: {_shown(old)} -> {_shown(value)}")
        if isinstance(old, list) and isinstance(value, list):
            old[:] = value  # the list keeps its form
        else:
            section[name] = value
    out = io.StringIO()
    yaml.dump(content, out)
    return out.getvalue(), changes


def _shown(value: ParamValue) -> str:
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, list) else json.dumps(value)


def table_text(rows: Iterable[Row]) -> str:
    """A table of labels as the source of images reads it."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(HEADER)
    table.writerows((row.path, row.name) for row in rows)
    return out.getvalue()
