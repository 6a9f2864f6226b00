"""Who may import whom, and that dvc.yaml lists the rooms a stage imports: no more, no less."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rsd
from rsd import methods
from rsd.machine.yaml_file import read_yaml

ROOT = Path(__file__).parents[1]
SEAMS = [ROOT / "rsd" / "export" / name for name in ("precisions", "runtimes")]
OURS = ("rsd", "stages", "pipelines", "benchmarks", "deploy")


def file_of(module: str) -> Path | None:
    path = ROOT / Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def imported(file: Path) -> set[str]:
    """Every module that a file imports anywhere in it, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import"
            assert node.module
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


PUBLIC = ROOT / "rsd" / "__init__.py"


def is_bare(file: Path) -> bool:
    """A package's `__init__.py` with a docstring only changes nothing for whoever imports the package.

    Nor does that of `rsd`, whose names are looked up when asked for: the two tests below hold that importing it
    loads nothing and that none of us asks.
    """
    if file == PUBLIC:
        return True
    return file.name == "__init__.py" and all(isinstance(n, ast.Expr) for n in ast.parse(file.read_text()).body)


def code_of(*start: str) -> set[Path]:
    """The project's files that these modules import, transitively, themselves included."""
    files: set[Path] = set()
    waiting = list(start)
    while waiting:
        module = waiting.pop()
        parents = [module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)]
        file = file_of(module)
        waiting += [p for p in parents if (f := file_of(p)) and f not in files]
        if file and file not in files:
            files.add(file)
            if file.parent in SEAMS and file.name == "__init__.py":  # it imports its files by their names
                waiting += [f"{module}.{other.stem}" for other in file.parent.glob("[!_]*.py")]
            if file != PUBLIC:
                waiting += [name for name in imported(file) if name.split(".")[0] in OURS]
            if file.name == "base.py":  # its kinds are found by name
                waiting += [f"{module.rpartition('.')[0]}.kinds.{kind.stem}" for kind in file.parent.glob("kinds/*.py")]
    return {file for file in files if not is_bare(file)}


def test_importing_rsd_loads_nothing_else():
    program = "import sys; before = {*sys.modules}; import rsd; print(*sorted({*sys.modules} - before))"
    loaded = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True).split()
    assert {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names) == {"rsd"}
    assert [name for name in loaded if name.startswith("rsd.")] == []
    for node in ast.parse(PUBLIC.read_text()).body:
        if isinstance(node, ast.If):
            assert ast.unparse(node.test) == "TYPE_CHECKING"
        elif isinstance(node, ast.Assign):
            assert ast.literal_eval(node.value)  # nothing is computed
        else:
            assert isinstance(node, ast.Expr | ast.ImportFrom | ast.FunctionDef), ast.unparse(node)


def test_our_modules_import_names_where_they_live():
    public = {f"rsd.{name}" for name in rsd.__all__}
    for room in OURS:
        for file in (ROOT / room).rglob("*.py"):
            names = imported(file) & public
            assert not names, f"{file.relative_to(ROOT)} imports {sorted(names)}; import them where they are defined"


ROOMS = (
    *("machine", "run", "sources", "views", "models", "methods", "teacher", "training", "evaluation", "export"),
    *("measure", "release", "report", "config", "cli"),
)
"""The rooms of `rsd` in the order in which the data walks through them; each imports those before it, and itself."""


def test_every_module_of_rsd_lies_in_a_room():
    folders = {path.name for path in (ROOT / "rsd").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(ROOMS)
    assert {path.name for path in (ROOT / "rsd").glob("*.py")} == {"__init__.py", "__main__.py", "losses.py"}


def test_no_module_bears_the_name_of_its_room():
    for file in (ROOT / "rsd").rglob("*.py"):
        room = file.relative_to(ROOT).parts[1]
        assert file.stem != room or room == "methods", file


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_above_it(room):
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    for file in (ROOT / "rsd" / room).rglob("*.py"):
        rooms = {name.split(".")[1] for name in imported(file) if name.startswith("rsd.")}
        assert rooms & set(ROOMS) <= allowed, f"{file.relative_to(ROOT)} imports {sorted(rooms - allowed)}"


FORBIDDEN = {
    "rsd": ("dvc", "prefect", "stages", "pipelines", "benchmarks"),
    "stages": ("dvc", "prefect", "pipelines", "benchmarks"),
    "pipelines": ("torch", "timm", "stages"),
    "deploy/edge": ("torch", "timm", "rsd", "dvc", "prefect", "stages", "pipelines"),
}


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_each_room_imports_only_what_it_may(folder):
    for file in (ROOT / folder).rglob("*.py"):
        wrong = {name for name in imported(file) if name.split(".")[0] in FORBIDDEN[folder]}
        assert not wrong, f"{file.relative_to(ROOT)} imports {sorted(wrong)}"


def test_yaml_is_read_in_one_dialect():
    for file in (file for folder in (*OURS, "tests") for file in (ROOT / folder).rglob("*.py")):
        pyyaml = re.search(r"^ *(import|from) yaml\b", file.read_text(), re.M)
        assert not pyyaml, f"{file.relative_to(ROOT)} imports PyYAML, whose dialect is not DVC's; take read_yaml"


def stages() -> dict[str, dict]:
    content = read_yaml(ROOT / "dvc.yaml")
    return content["stages"]


def rooms_listed(stage: dict) -> set[str]:
    """The rooms among a stage's deps; some files of a room stand for the room."""
    return {dep.split("/")[1] for dep in stage["deps"] if dep.startswith("rsd/")}


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_exactly_on_its_rooms(name):
    every_method = methods.methods() if name == "params" else []  # it asks every method for its options
    code = code_of(f"stages.{name}", *[f"rsd.methods.{method}" for method in every_method])
    rooms = {file.relative_to(ROOT / "rsd").parts[0] for file in code if file.is_relative_to(ROOT / "rsd")}
    assert sorted(rooms_listed(stages()[name])) == sorted(rooms)
    assert {"stages/__init__.py", f"stages/{name}.py"} <= set(stages()[name]["deps"])


@pytest.mark.parametrize("name", stages())
def test_a_stage_lists_every_file_it_imports(name):
    deps = [Path(dep) for dep in stages()[name]["deps"] if dep.startswith("rsd/")]
    for file in (file.relative_to(ROOT) for file in code_of(f"stages.{name}")):
        assert file.parts[0] != "rsd" or any(file.is_relative_to(dep) for dep in deps), file


def test_only_params_depends_on_the_folder_of_methods():
    assert [name for name, stage in stages().items() if "rsd/methods" in stage["deps"]] == ["params"]


def test_a_stage_lists_no_methods_file_but_scratch():
    files = {f"rsd/methods/{method}.py" for method in methods.methods()}
    listed = {name: files & set(stage["deps"]) for name, stage in stages().items()}
    assert {name: deps for name, deps in listed.items() if deps} == {"teacher": {"rsd/methods/scratch.py"}}


def test_stages_and_scripts_are_one_to_one():
    scripts = {file.stem for file in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert scripts == set(stages())
    for name, stage in stages().items():
        assert stage["cmd"].startswith(f"python -m stages.{name}")
