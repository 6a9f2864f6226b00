"""The code of a method: its own file and what that imports of other methods' files."""

import shutil
from pathlib import Path

import pytest

from rsd import methods
from rsd.config.method_code import method_code


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A copy of the package's methods, to be edited; a user's own go to `methods/` beside it."""
    shutil.copytree(Path(methods.__file__).parent, tmp_path / "package")
    (tmp_path / "methods").mkdir()
    monkeypatch.setattr(methods, "__file__", str(tmp_path / "package" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def holders(files: Path, edited: str, *, among: list[str]) -> set[str]:
    """The methods whose code is another after an edit of a file."""
    before = {name: method_code(name) for name in among}
    (files / edited).write_text((files / edited).read_text() + "edited = True\n")
    return {name for name in among if method_code(name) != before[name]}


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("kd", {"kd"}),
        ("scratch", {"scratch"}),
        ("rsd", {"rsd", "ofa"}),
        ("_linear_embeddings", {"cc", "crd"}),
        ("_sum", set()),
        ("base", set()),
        ("__init__", set()),
    ],
)
def test_an_edit_shows_in_the_methods_importing_it(files, file, expected):
    assert holders(files, f"package/{file}.py", among=methods.methods()) == expected


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("kd", {"kd+dkd", "rsd+kd"}),
        ("rsd", {"rsd+kd", "cc+ofa"}),
        ("_sum", {"kd+dkd", "rsd+kd", "cc+ofa"}),
        ("scratch", set()),
    ],
)
def test_a_sums_code_is_its_parts_code(files, file, expected):
    assert holders(files, f"package/{file}.py", among=["kd+dkd", "rsd+kd", "cc+ofa"]) == expected


@pytest.mark.parametrize(
    "statement",
    [
        "from rsd.methods.ofa import OFADistiller",
        "import rsd.methods.ofa",
        "from rsd.methods import ofa",
        "from rsd.losses import ofa_loss",
        "import rsd.losses",
        "from rsd import losses",
        "def late():\n    from rsd.methods.ofa import GRID",
        "from methods._helper import helper",
    ],
)
def test_an_own_method_holds_what_it_imports_indirectly(files, statement):
    (files / "methods" / "mine.py").write_text(statement + "\n")
    (files / "methods" / "_helper.py").write_text("from rsd.methods.ofa import ofa_loss as helper\n")
    assert holders(files, "package/rsd.py", among=["kd", "mine"]) == {"mine"}


@pytest.mark.parametrize("statement", ["from .kd import kd_loss", "from . import kd"])
def test_a_relative_import_counts_too(files, statement):
    (files / "package" / "new.py").write_text(statement + "\n")
    assert holders(files, "package/kd.py", among=["new", "rsd"]) == {"new"}


def test_a_handed_on_name_brings_its_file_only(files):
    (files / "methods" / "mine.py").write_text("from rsd.losses import kd_loss\nfrom rsd import Outputs\n")
    assert holders(files, "package/rsd.py", among=["mine"]) == set()
    assert holders(files, "package/kd.py", among=["mine"]) == {"mine"}


def test_the_own_file_comes_first_each_file_once(files):
    (files / "methods" / "mine.py").write_text("from rsd.methods.kd import kd_loss\nfrom rsd.methods import kd, cc\n")
    headings = [line for line in method_code("mine").splitlines() if line.startswith("# ") and line.endswith(".py")]
    shared = ["_batches", "_linear_embeddings", "cc", "kd"]
    assert headings == ["# methods/mine.py", *(f"# rsd/methods/{name}.py" for name in shared)]
