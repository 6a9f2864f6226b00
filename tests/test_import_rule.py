"""Who may import whom, and that dvc.yaml lists the code a stage imports: no more, no less."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import rsd
from rsd import distillers

ROOT = Path(__file__).parents[1]
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
    found: set[Path] = set()
    waiting = list(start)
    while waiting:
        module = waiting.pop()
        parents = [module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)]
        file = file_of(module)
        waiting += [p for p in parents if (f := file_of(p)) and f not in found]
        if file and file not in found:
            found.add(file)
            if file != PUBLIC:
                waiting += [name for name in imported(file) if name.split(".")[0] in OURS]
    return {file for file in found if not is_bare(file)}


def test_importing_rsd_loads_and_defines_nothing_but_the_way_to_its_public_names():
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


def test_none_of_our_modules_takes_a_public_name_from_rsd_itself():
    public = {f"rsd.{name}" for name in rsd.__all__}
    for room in OURS:
        for file in (ROOT / room).rglob("*.py"):
            names = imported(file) & public
            assert not names, f"{file.relative_to(ROOT)} imports {sorted(names)}; import them where they are defined"


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


def test_no_training_module_imports_export_or_report():
    trained = [f"rsd.distillers.{name}" for name in distillers.methods()]
    for module in ["rsd.train", "rsd.views", "rsd.teacher", *trained]:
        names = {str(file.relative_to(ROOT)) for file in code_of(module)}
        assert not {name for name in names if name.startswith(("rsd/export", "rsd/report"))}, module


def stages() -> dict[str, dict]:
    content = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    return content["stages"]


def listed(stage: dict, method: str) -> set[Path]:
    """The Python files among a stage's deps; a folder stands for all in it."""
    files: set[Path] = set()
    for dep in stage["deps"]:
        # `params` copies the one file of each method to one place (tests/stages/test_own_method.py).
        dep = re.sub(r"out/params/code/\$\{(item|export)\.method\}", f"rsd/distillers/{method}", dep)
        path = ROOT / dep
        if dep.split("/")[0] in OURS:
            files |= set(path.rglob("*.py")) if path.is_dir() else {path}
    return {file for file in files if not is_bare(file)}


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_on_exactly_the_code_it_imports(name):
    stage = stages()[name]
    # `distill` and `export` import their method by name; `params` asks every method for its options.
    methods = distillers.methods() if name in ("distill", "export", "params") else []
    together = code_of(f"stages.{name}", *[f"rsd.distillers.{m}" for m in methods])
    union = set().union(*(listed(stage, m) for m in methods)) if methods else listed(stage, "")
    relative = lambda files: sorted(str(f.relative_to(ROOT)) for f in files)  # noqa: E731
    assert relative(union - together) == [], "listed but not imported"
    assert relative(together - union) == [], "imported but not listed"


def test_a_cell_of_distill_depends_on_no_other_methods_file():
    cells = {m: listed(stages()["distill"], m) for m in distillers.methods()}
    for method, files in cells.items():
        others = {f.stem for f in files if f.parent.name == "distillers"} - {"__init__", "base", method}
        assert not others


def test_every_stage_has_a_script_of_its_name_and_every_script_a_stage():
    scripts = {file.stem for file in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert scripts == set(stages())
    for name, stage in stages().items():
        assert stage["cmd"].startswith(f"python -m stages.{name}")
