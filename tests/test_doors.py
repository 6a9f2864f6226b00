"""What crosses a door has a type: no public function and no field of `rsd` and `stages` is a mapping to anything."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from rsd.run import names

ROOT = Path(__file__).parents[1]
FREE = re.compile(r"\b(dict|Mapping|MutableMapping)\[\w+, Any\]")
_UNCHECKED = "a part of params.yaml before its check, which does not leave the room"
UNTYPED = {
    "rsd/config/across.py: faults": "the values of params.yaml; the same that `resolve` gives",
    "rsd/config/layers.py: Layers.method": _UNCHECKED,
    "rsd/config/layers.py: Layers.override": _UNCHECKED,
    "rsd/config/layers.py: Layers.sections": _UNCHECKED,
    "rsd/config/layers.py: merged": _UNCHECKED,
    "rsd/config/resolve.py: resolve": "the values of params.yaml; a stage takes param_files instead",
    "rsd/config/section.py: mapping": "a part of params.yaml before its check",
    "rsd/methods/base.py: Distiller.get_task_state": "the signature is timm's",
    "rsd/methods/base.py: Distiller.load_task_state": "the signature is timm's",
    "rsd/models/make.py: ModelOptions.args": "keyword arguments of timm's models",
    "rsd/training/checkpoint.py: load": "states as torch gives them",
    "rsd/training/resume.py: TrainingState.best": "a checkpoint's content, checked when it is read",
    "rsd/training/stepper.py: Stepper.load": "states as torch gives them",
    "rsd/training/stepper.py: Stepper.state": "states as torch gives them",
}
"""Why these must be free."""


def annotations(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.expr]]:
    """The names of public functions, methods and fields, each with every annotation of its own."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from annotations(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name.endswith("__")):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            for annotation in (node.returns, *(argument.annotation for argument in arguments)):
                if annotation:
                    yield prefix + node.name, annotation
        elif prefix and isinstance(node, ast.AnnAssign) and not ast.unparse(node.target).startswith("_"):
            yield prefix + ast.unparse(node.target), node.annotation


def test_no_free_mapping_crosses_a_door():
    free = {
        f"{file.relative_to(ROOT)}: {name}"
        for room in ("rsd", "stages")
        for file in sorted((ROOT / room).rglob("*.py"))
        for name, annotation in annotations(ast.parse(file.read_text()).body)
        if FREE.search(ast.unparse(annotation))
    }
    assert free == set(UNTYPED), "give it a type: a record of rsd/run, a TypedDict, dict[str, float] ..."


FOLDERS = {"params", "teacher", "students", "evaluate", "export", "convert", "engines", "benchmark", "bundle"}
RECORDS = "".join(file.read_text() for file in sorted((ROOT / "rsd" / "run" / "records").glob("*.py")))
FILES = {*re.findall(r"[a-z]+\.json(?=\")", RECORDS)} | {
    name for key, name in vars(names).items() if key.isupper() and "." in name
}


OF_A_KIT = {"rsd/cli/budget.py", "rsd/measure/budget/runner.py"}
"""Their `latency.json` is the answer of a kit, which is no file of a run."""


def spelled(file: Path) -> Iterator[str]:
    """The file names and paths of a run in a module's strings; sentences may name a file."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not re.search(r"\s", node.value):
            first, *rest = node.value.split("/")
            if FILES & {first, *rest} or (rest and first in FOLDERS):
                yield f"{file.relative_to(ROOT)}:{node.lineno} {node.value}"


def test_only_the_run_spells_its_files():
    modules = [file for room in ("rsd", "stages") for file in (ROOT / room).rglob("*.py")]
    others = [file for file in modules if not file.is_relative_to(ROOT / "rsd" / "run")]
    others = [file for file in others if str(file.relative_to(ROOT)) not in OF_A_KIT]
    assert [place for file in sorted(others) for place in spelled(file)] == []
