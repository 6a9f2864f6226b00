"""What `pip install` gives: one package, a command, and a sentence for each library that it leaves out."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from rsd.run import times
from tests.readme import block

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = importlib.metadata.packages_distributions()

BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What the build reads of a clone whose folder is named as the package."""
    folder = tmp_path_factory.mktemp("above") / "rsd"
    for name in ("rsd", "stages", "pipelines"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def built(clone: Path, hook: str, target: Path) -> Path:
    """The wheel that pip would install, unpacked."""
    subprocess.run([sys.executable, "-c", BUILD, hook, str(target)], cwd=clone, check=True, capture_output=True)
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target / "site")
    return target / "site"


def test_a_wheel_holds_one_package_with_its_data(clone, tmp_path):
    site = built(clone, "build_wheel", tmp_path)
    (info,) = site.glob("rsd-*.dist-info")
    assert {path.name for path in site.iterdir()} == {"rsd", info.name}
    expected = {path.relative_to(clone / "rsd") for path in (clone / "rsd").rglob("*") if path.is_file()}
    assert {path.relative_to(site / "rsd") for path in (site / "rsd").rglob("*") if path.is_file()} == expected
    assert {Path("py.typed"), Path("report/page.html")} <= expected
    assert (info / "entry_points.txt").read_text().split("\n")[:2] == ["[console_scripts]", "rsd = rsd.cli.main:main"]


WITHOUT_RSD = """
import site, sys
from pathlib import Path
sys.path = [folder for folder in sys.path if not (Path(folder) / "rsd" / "__init__.py").is_file()]
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in str(getattr(finder, "__module__", ""))]
"""
"""As if rsd were not installed where the tests run."""


def test_a_clone_named_rsd_hides_no_package(clone, tmp_path):
    site = built(clone, "build_editable", tmp_path)
    program = f"{WITHOUT_RSD}site.addsitedir({str(site)!r}); from rsd import AAD, __file__ as file; print(file)"
    answer = subprocess.check_output([sys.executable, "-c", program], cwd=clone.parent, text=True)
    assert answer == f"{clone / 'rsd' / '__init__.py'}\n"


def name_of(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def required(*requirements: str) -> set[str]:
    """The names of these distributions and of all that they bring; `rsd[EXTRA]` stands for the extra's."""
    names: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = name_of(requirement.name)
        if name in names or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        if name == "rsd":
            texts = [text for extra in requirement.extras for text in PROJECT["optional-dependencies"][extra]]
        else:
            names.add(name)
            texts = importlib.metadata.requires(name) or []
        waiting += map(Requirement, texts)
    return names


def modules(distributions: set[str]) -> set[str]:
    """Their top-level modules."""
    return {module for module, owners in MODULES.items() if distributions & set(map(name_of, owners))}


HARD = modules(required(*PROJECT["dependencies"]))
OURS = {"rsd", "stages", "pipelines"}
HIDE = """
import sys

class Hidden:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

HIDDEN = {*sys.argv.pop(1).split()}
sys.meta_path[:] = map(Hidden, sys.meta_path)
sys.path.insert(0, ".")
exec(sys.argv.pop(1))
"""


def without(hidden: set[str], program: str) -> subprocess.CompletedProcess[str]:
    """Run a program where these modules are not installed."""
    command = [sys.executable, "-c", HIDE, " ".join(hidden), program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


OWN_LOOP = """
import timm, torch
student = timm.create_model("test_vit", num_classes=4, img_size=32, patch_size=8)
teacher = timm.create_model("test_resnet", num_classes=4)
loader = [(torch.rand(8, 3, 32, 32), torch.arange(8) % 4)]
"""


@pytest.mark.parametrize("holding", ["import AAD", "import RSDDistiller"])
def test_ones_own_loop_needs_hard_requirements_only(holding):
    answer = without(set(MODULES) - HARD - OURS, OWN_LOOP + block("python", holding=holding))
    assert answer.returncode == 0, answer.stderr


def test_the_command_needs_hard_requirements_only():
    program = "import sys; sys.argv = ['rsd', '--version']; import rsd.__main__"
    assert without(set(MODULES) - HARD - OURS, program).returncode == 0


@pytest.mark.parametrize(
    ("extra", "program"),
    [
        ("pipeline", "import rsd.evaluation.accuracy"),
        ("pipeline", "import pipelines.reproduce"),
        ("data", "from rsd.sources.kinds.digits import Digits; Digits().load()"),
        ("export", "import rsd.export.trace"),
        ("report", "import rsd.report.page"),
        ("sign", "from pathlib import Path; from rsd.release.sign import verify; verify(Path('a'), Path('b'))"),
        ("dask", "from pipelines.sweep.places import on_dask; on_dask('local', 1).__enter__()"),
    ],
)
def test_a_missing_extra_is_a_sentence(extra, program):
    own = {Requirement(text).name for text in PROJECT["optional-dependencies"][extra]}
    answer = without(modules(set(map(name_of, own))) - HARD - OURS, program)
    assert answer.returncode == 1
    sentence = answer.stderr.splitlines()[-1]
    assert re.search(rf": expected the library \w+, found none; run `pip install 'rsd\[{extra}\]'`$", sentence)


@pytest.fixture
def made(tmp_path):
    """Runs a target of the Makefile where programs only say how they were called; their calls are the answer."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "deploy/edge/pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "dvc", "rsd"):
        program = tmp_path / ".venv" / "bin" / name
        program.write_text('#!/bin/sh\necho "$(basename $0) $@"\n')
        program.chmod(0o755)

    def make(target: str) -> list[str]:
        command = ["make", f"PYTHON={sys.executable}", target]
        done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
        return [line for line in done.stdout.splitlines() if line.split()[0] in ("python", "dvc", "rsd")]

    return make


def test_make_repro_installs_what_the_pipeline_needs(made, tmp_path):
    pip = "python -m pip install -c constraints.txt -e"
    first, *rest = made("repro")
    assert first == f"{pip} .[pipeline,openvino,engine]"
    assert rest == made("repro") == ["python -m pipelines.dvc_lock", "dvc repro", "rsd table"]
    [time] = times.read(tmp_path / times.FILE)
    assert time.stage == "install pipeline"


def test_other_targets_install_the_rest_on_top(made):
    made("repro")
    [pip] = made("install")
    extras = {"pipeline", "openvino", "engine", *re.findall(r"\w+", pip.partition("[")[2].partition("]")[0])}
    brought = {extra for text in PROJECT["optional-dependencies"]["pipeline"] for extra in Requirement(text).extras}
    assert extras | brought == set(PROJECT["optional-dependencies"])
    assert pip.endswith(" -e ./deploy/edge")
    assert made("install") == []


def optional_imports(file: Path) -> set[str]:
    """Top-level modules outside of the standard library and the hard requirements that a file imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).partition(".")[0])
    return names - HARD - set(sys.stdlib_module_names) - OURS


def extras_checked(file: Path) -> set[str]:
    """The extras that a file, or a package that it lies in, asks for by `needs`."""
    files = [file, *(folder / "__init__.py" for folder in file.relative_to(ROOT).parents if str(folder) != ".")]
    calls = [
        node for path in files for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.Call)
    ]
    return {ast.literal_eval(call.args[0]) for call in calls if getattr(call.func, "id", None) == "needs"}


KITS = ROOT / "rsd" / "measure" / "latency.py"  # runs on devices that have no pip package of ours


def test_every_optional_import_is_checked_by_its_extra():
    for file in {*(ROOT / "rsd").rglob("*.py")} - {KITS}:
        brought = modules(required(*[f"rsd[{extra}]" for extra in extras_checked(file)]))
        assert optional_imports(file) <= brought, file.relative_to(ROOT)
