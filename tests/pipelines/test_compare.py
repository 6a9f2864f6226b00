"""Runs of a small DVC project that were recorded without being run: their outputs are written and committed to DVC."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import compare
from rsd.machine.errors import UserError
from rsd.run.records import BundleRecord, Origin
from tests.rsd.report.conftest import DEVICE, write, write_records
from tests.rsd.run.small import evaluate, index, student, whole_run

OUTS = ("evaluate", "students", "convert", "engines", "benchmark", "params", "device.json", "data/test", "bundle")


class Recorded:
    """The project, with the runs `main` (a branch), `longer` (a tag on an older commit) and `exp-strong`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.do("git", "init", "-q", "-b", "main")
        self.do("git", "config", "user.name", "t")
        self.do("git", "config", "user.email", "t@example.org")
        self.do("dvc", "init", "-q")
        (path / "dvc.yaml").write_text(
            json.dumps({"stages": {"run": {"cmd": "false", "outs": [f"out/{name}" for name in OUTS]}}})
        )
        (path / "rsd").mkdir()
        (path / "rsd" / "losses.py").write_text("first = 1\n")
        self.do("git", "add", "-A")
        self.do("git", "commit", "-qm", "nothing was run")
        self.do("git", "tag", "empty")
        self.record(epochs=24)
        self.do("git", "tag", "longer")
        (path / "rsd" / "losses.py").write_text("first = 2\n")
        self.record(epochs=12)
        self.record(epochs=12, weight=0.2, experiment="exp-strong")

    def record(self, *, epochs: int, weight: float = 0.1, experiment: str | None = None) -> None:
        """Make a run's outputs, and keep them in DVC and in a commit, or in an experiment that is not applied."""
        out = self.path / "out"
        shutil.rmtree(out, ignore_errors=True)
        write_records(out, epochs=epochs)
        write(out / "params" / "method" / "rsd.json", {"weight": weight})
        write(out / "params" / "recipe.json", {"epochs": epochs})
        write(out / "bundle" / "manifest.json", {"release": 1})
        write(out / "data" / "test" / "labels.json", [1, 2, 3])
        (out / "data" / "test" / "images.npy").unlink()  # they depend on the epochs
        self.do("dvc", "commit", "-q", "-f")
        self.do("git", "add", "-A")
        if experiment is None:
            self.do("git", "commit", "-qm", f"{epochs} epochs")
            return
        self.do("dvc", "exp", "save", "-q", "-f", "-n", experiment)
        self.do("git", "reset", "-q", "--hard")
        self.do("dvc", "checkout", "-q", "--force")

    def commit(self, tag: str) -> None:
        """Keep the outputs as they lie in DVC and in a commit."""
        self.do("dvc", "commit", "-q", "-f")
        self.do("git", "add", "-A")
        self.do("git", "commit", "-qm", tag)
        self.do("git", "tag", tag)

    def do(self, *command: str) -> str:
        program = [sys.executable, "-m", "dvc"] if command[0] == "dvc" else [command[0]]
        done = subprocess.run([*program, *command[1:]], cwd=self.path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def state(self) -> dict[str, str]:
        """Every file of the workspace by its digest, and what git says of it."""
        files = [file for file in sorted(self.path.rglob("*")) if file.is_file()]
        records = {
            str(file.relative_to(self.path)): hashlib.md5(file.read_bytes()).hexdigest()
            for file in files
            if not {".git", ".dvc"} & set(file.relative_to(self.path).parts)
        }
        return records | {"git": self.do("git", "status", "--porcelain"), "HEAD": self.do("git", "rev-parse", "HEAD")}

    def forget(self) -> None:
        """Empty the cache and, but for what git holds, the workspace."""
        shutil.rmtree(self.path / ".dvc" / "cache", ignore_errors=True)
        shutil.rmtree(self.path / "out")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    with pytest.MonkeyPatch.context() as patch:
        # DVC remembers the lists of folders there, past the death of its cache.
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("site")))
        yield Recorded(tmp_path_factory.mktemp("compare") / "project")


@pytest.fixture
def copy(recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """One that may be spoilt."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    shutil.copytree(recorded.path, tmp_path / "project", symlinks=True)
    project = Recorded.__new__(Recorded)
    project.path = tmp_path / "project"
    return project


def test_every_kind_of_revision_is_compared(recorded, tmp_path):
    before = recorded.state()
    page = tmp_path / "page.html"
    compare.compare(recorded.path, ["main", "longer", "exp-strong", "workspace"], page)
    assert recorded.state() == before
    html = page.read_text()
    for words in ("main and 3 other runs", "recipe.epochs", "method.rsd.weight", "0.2", "exp-strong"):
        assert words in html
    assert "Code differs between main and longer: rsd/losses.py." in html


def test_a_run_is_what_its_revision_recorded(recorded):
    commit = compare.commit_of(recorded.path, "longer")
    run = compare.run(recorded.path, "longer", commit)
    assert run.records.curves is not None
    assert run.records.curves["epoch"].max() == 24
    assert run.bundle_bytes == (recorded.path / "out" / "bundle" / "manifest.json").stat().st_size
    main = compare.run(recorded.path, "main", compare.commit_of(recorded.path, "main"))
    assert main.test_data == run.test_data is not None
    strong = compare.run(recorded.path, "exp-strong", compare.commit_of(recorded.path, "exp-strong"))
    assert strong.records.params["method.rsd"] == {"weight": 0.2}
    assert compare.run(recorded.path, "workspace", None).records.params["method.rsd"] == {"weight": 0.1}


def test_a_cell_stopped_at_evaluate_shows_no_files(copy, tmp_path):
    shutil.rmtree(copy.path / "out")
    run = whole_run(copy.path / "out")
    write(run.device_file, DEVICE)
    write(run.data / "test" / "labels.json", [1, 2, 3])
    digests = run.digests("evaluate/models.json", "export/export.json")
    run.write(BundleRecord(origin=Origin(made_from=run.shipped().made_from | digests)))
    copy.commit("whole")
    run.write(student(run, "rsd", "trained anew"))
    index(run)
    evaluate(run)
    copy.commit("cell")

    whole, cell = (compare.run(copy.path, name, compare.commit_of(copy.path, name)) for name in ("whole", "cell"))

    assert len(whole.records.exports) == 2
    assert whole.records.benchmark is not None
    assert whole.bundle_bytes == (copy.path / "out" / "bundle" / "manifest.json").stat().st_size
    assert cell.records.evaluation.of("rsd-0") is not None
    assert (cell.records.shipped, cell.records.exports, cell.records.benchmark) == (None, [], None)
    assert cell.bundle_bytes is None
    page = tmp_path / "page.html"
    compare.compare(copy.path, ["whole", "cell"], page)
    assert " are left out: students/rsd-0/model.safetensors is another by now; run `dvc repro`" in page.read_text()


@pytest.mark.parametrize(
    ("name", "near"),
    [("mian", "did you mean main?"), ("exp-stron", "did you mean exp-strong?"), ("zzz", "`dvc exp list` show")],
)
def test_an_unknown_revision_is_named_with_near_ones(recorded, tmp_path, name, near):
    with pytest.raises(UserError, match=f"found '{name}', which is none; .*{near}"):
        compare.compare(recorded.path, ["main", name], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("names", [["main"], ["main", "main"]])
def test_one_revision_is_not_a_comparison(recorded, tmp_path, names):
    with pytest.raises(UserError, match="two different revisions"):
        compare.compare(recorded.path, names, tmp_path / "page.html")


def test_a_revision_where_nothing_was_run_says_so(recorded, tmp_path):
    with pytest.raises(UserError, match="expected an evaluated run at empty, found none; check it out and run"):
        compare.compare(recorded.path, ["main", "empty"], tmp_path / "page.html")


def test_missing_records_are_named_with_a_remedy(copy, tmp_path):
    copy.forget()
    with pytest.raises(UserError, match="found no out/evaluate/.*json, .* and .* more; run `dvc fetch"):
        compare.compare(copy.path, ["main", "longer"], tmp_path / "page.html")


def test_the_default_remotes_records_are_read(copy, tmp_path):
    copy.do("dvc", "remote", "add", "-q", "-d", "store", str(tmp_path / "store"))
    for revision in ("longer", "main"):  # which do not know of the remote, as they are older than it
        copy.do("git", "checkout", "-q", revision)
        copy.do("dvc", "push", "-q")
    copy.forget()
    compare.compare(copy.path, ["main", "longer"], tmp_path / "page.html")
    assert not (copy.path / "out").exists()


def test_a_command_that_fails_says_one_sentence(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(compare.__file__).parents[1])}
    command = [sys.executable, "-m", "pipelines.compare", "main", "other"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: expected a DVC project in ")
    assert len(done.stderr.splitlines()) == 1
