import json
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rsd.machine.errors import UserError
from rsd.machine.files import sha256, write_json
from rsd.machine.revision import git_revision
from rsd.machine.yaml_file import read_yaml
from rsd.release import sign
from rsd.release.state import digest
from rsd.run.paths import Run
from tests.bundles import Workshop, edit
from tests.command import rsd
from tests.rsd.run.small import DEVICE, evaluate, index, student, whole_run


@pytest.fixture
def workshop(tmp_path):
    return Workshop(tmp_path)


def test_a_signed_copy_verifies_and_the_bundle_stays(workshop):
    bundle = workshop.unsigned()
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    signed = workshop.sign(bundle)
    sign.verify(signed, workshop.public)
    assert json.loads((signed / "manifest.json").read_text())["signed"] is True
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before


def test_signing_twice_changes_only_the_signature(workshop, tmp_path):
    bundle = workshop.unsigned()
    for name in ("one", "two"):
        sign.sign(bundle, tmp_path / name, workshop.key)
    one, two = (
        {str(p.relative_to(f)): sha256(p) for p in f.rglob("*") if p.is_file()}
        for f in (tmp_path / "one", tmp_path / "two")
    )
    assert {name for name in one if one[name] != two[name]} <= {"model.sig"}
    assert one.keys() == two.keys()


def test_the_private_key_is_private_and_never_overwritten(workshop):
    assert stat.S_IMODE(workshop.key.stat().st_mode) == 0o600
    with pytest.raises(UserError, match="found one; choose another name"):
        sign.make_key(workshop.key.with_suffix(""))


@pytest.mark.parametrize("mark", [".git", ".dvc", "dvc.yaml"])
def test_a_key_in_a_repository_is_refused(workshop, tmp_path, mark):
    project = tmp_path / "project"
    (project / "below").mkdir(parents=True)
    (project / mark).mkdir()
    with pytest.raises(UserError, match="outside of every repository"):
        sign.make_key(project / "below" / "key")
    assert list((project / "below").iterdir()) == []
    key = project / "below" / "key.pem"
    key.write_bytes(workshop.key.read_bytes())
    with pytest.raises(UserError, match="outside of every repository"):
        sign.sign(workshop.unsigned(), tmp_path / "signed", key)
    link = tmp_path / "link.pem"
    link.symlink_to(key)
    with pytest.raises(UserError, match="outside of every repository"):
        sign.sign(workshop.unsigned(), tmp_path / "signed", link)
    assert not (tmp_path / "signed").exists()


def test_a_key_in_the_bundle_is_refused(workshop, tmp_path):
    bundle = workshop.unsigned()
    key = bundle / "golden" / "key.pem"
    key.write_bytes(workshop.key.read_bytes())
    with pytest.raises(UserError, match="outside of every repository and bundle"):
        sign.sign(bundle, tmp_path / "signed", key)
    facts = {"bytes": key.stat().st_size, "sha256": sha256(key)}
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["golden/key.pem"] = facts
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="found one in golden/key.pem"):
        sign.sign(bundle, tmp_path / "signed", workshop.key)
    assert not (tmp_path / "signed").exists()


def test_a_bundle_unlike_its_manifest_is_not_signed(workshop, tmp_path):
    bundle = workshop.unsigned()
    (bundle / "extra").touch()
    with pytest.raises(UserError, match="another set"):
        sign.sign(bundle, tmp_path / "signed", workshop.key)
    (bundle / "extra").unlink()
    (bundle / "labels.json").write_text("[]")
    with pytest.raises(UserError, match="found it changed"):
        sign.sign(bundle, tmp_path / "signed", workshop.key)
    with pytest.raises(UserError, match="expected the manifest of a bundle"):
        sign.sign(tmp_path / "nothing", tmp_path / "signed", workshop.key)


def test_no_key_and_no_free_place_are_refused(workshop, tmp_path):
    bundle = workshop.unsigned()
    with pytest.raises(UserError, match="found no file"):
        sign.sign(bundle, tmp_path / "signed", tmp_path / "none.pem")
    with pytest.raises(UserError, match="expected an unencrypted ECDSA key"):
        sign.sign(bundle, tmp_path / "signed", workshop.public)
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="choose another place"):
        sign.sign(bundle, tmp_path / "taken", workshop.key)


def test_unsigned_and_foreign_bundles_do_not_verify(workshop, tmp_path):
    bundle = workshop.unsigned()
    with pytest.raises(UserError, match="found no model.sig"):
        sign.verify(bundle, workshop.public)
    _, other = sign.make_key(tmp_path / "secret" / "two")
    with pytest.raises(UserError, match="Key mismatch"):
        sign.verify(workshop.sign(bundle), other)


@pytest.fixture
def project(workshop, tmp_path, monkeypatch):
    """A project with its bundle right after `dvc repro`: dvc.lock is not committed yet."""
    folder = tmp_path / "project"
    run = whole_run(folder / "out")
    (folder / ".gitignore").write_text("/out/\n")
    (folder / "params.yaml").write_text("seeds: [0]\n")
    write_json(run.params / "bundle.json", {"release": 1})
    run.write(DEVICE)
    monkeypatch.chdir(folder)
    for command in ("init -q", "config user.email a@b", "config user.name a", "add -A", "commit -qm first"):
        subprocess.run(["git", *command.split()], check=True)
    shutil.copytree(workshop.unsigned(), folder / "out" / "bundle")
    (folder / "dvc.lock").write_text(json.dumps({"stages": lock_of(folder)}))
    return folder


GRAPH = read_yaml(Path(__file__).parents[3] / "dvc.yaml")["stages"]
ITEMS = [{"method": method, "seed": 0, "precision": "fp32"} for method in ("scratch", "rsd")]
ITEMS += [{"method": "rsd", "seed": 0, "precision": "int8"}]


def lock_of(project: Path) -> dict[str, Any]:
    """What DVC writes after a run of the real graph: digests of what lies in `out/`."""
    stages: dict[str, Any] = {}
    for name, stage in GRAPH.items():
        for item in ITEMS if "matrix" in stage else [{}]:
            cell = "@".join(
                [name, *("-".join(str(item[key]) for key in stage.get("matrix", {})),) * ("matrix" in stage)]
            )
            stages[cell] = {
                kind: [
                    {"path": path, "md5": digest(project / path)}
                    for entry in stage.get(kind, [])
                    if (path := filled(entry, item)).startswith("out/") and (project / path).exists()
                ]
                for kind in ("deps", "outs")
            }
    stages["params"]["params"] = {"params.yaml": {"seeds": [0]}}
    cores = json.loads((project / "out" / "device.json").read_text())["cpu"]["logical_cores"]
    stages["convert@fp32"]["params"] = {"out/device.json": {"cpu.logical_cores": cores}}
    return stages


def filled(text: str, item: dict[str, Any]) -> str:
    return re.sub(r"\$\{item\.(\w+)\}", lambda match: str(item[match[1]]), text)


def change_lock(change):
    """As another run would, and commit it."""
    lock = json.loads(Path("dvc.lock").read_text())
    change(lock["stages"])
    Path("dvc.lock").write_text(json.dumps(lock))
    commit("another run")


def rerun(*names):
    """What dvc.lock says after these stages have run again on what lies in `out/` now."""
    new = lock_of(Path())
    change_lock(lambda stages: stages.update({name: new[name] for name in names}))


def another_student():
    """`dvc exp run -S method.rsd.weight=0.3 evaluate`, and a commit: the bundle is still of the old student."""
    run = Run("out")
    run.write(student(run, "rsd", "other"))
    index(run)
    evaluate(run)
    rerun("distill@rsd-0", "students", "evaluate")


def another_release():
    """`bundle.release` is 2 by now, and `dvc repro params` has run."""
    Path("params.yaml").write_text("seeds: [0]\nbundle: {release: 2}\n")
    Path("out/params/bundle.json").write_text('{"release": 2}')
    new = lock_of(Path())["params"] | {"params": {"params.yaml": {"seeds": [0], "bundle": {"release": 2}}}}
    change_lock(lambda stages: stages.update({"params": new}))


def another_engine():
    Path("out/engines/int8/engine.json").write_text("{}")
    rerun("engine@int8")


def commit(message):
    subprocess.run(["git", "add", "-A"], check=True)
    subprocess.run(["git", "commit", "-qm", message], check=True)


def signed_by_command(workshop, capsys, *options):
    """What the command prints, or the sentence that it ends with."""
    target = workshop.folder / "release"
    sentence = rsd("sign", "bundle", "out/bundle", str(target), "--key", str(workshop.key), *options)
    return sentence or capsys.readouterr().out


def test_a_release_names_its_commit(workshop, project, capsys):
    refused = signed_by_command(workshop, capsys)
    assert refused.startswith("error: expected everything committed that the bundle was made from, found dvc.lock")
    commit("release 1")
    revision = git_revision()
    output = signed_by_command(workshop, capsys)
    assert output == f"{workshop.folder / 'release'}: tiny release 1, signed, of commit {revision}\n"
    assert json.loads((workshop.folder / "release" / "manifest.json").read_text())["origin"]["git_revision"] == revision
    sign.verify(workshop.folder / "release", workshop.public)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda: Path("new.py").touch(), "found new.py changed or new"),
        (lambda: change_lock(lambda stages: stages.clear()), "found that it has not run"),
        (another_student, "expected the out/shipped.json that the stage bundle read, found another"),
        (another_release, "expected the out/params/bundle.json that the stage bundle read, found another"),
        (another_engine, "expected the out/engines that the stage bundle read, found another"),
        (
            lambda: edit(Path("out/bundle/manifest.json"), lambda manifest: manifest.update(p99_ms=1)),
            "expected the out/bundle that the stage bundle wrote, found another",
        ),
        (
            lambda: (Path("params.yaml").write_text("seeds: [0, 1]"), commit("edited")),
            "expected params.yaml as the stage params read it, found that it has changed since",
        ),
        (
            lambda: Path("out/export/export.json").write_text("{}"),
            "expected the out/export/export.json that the stage bundle read, found another",
        ),
        (lambda: shutil.rmtree(".git"), "found no git repository"),
    ],
)
def test_what_no_commit_holds_needs_allow_dirty(workshop, project, capsys, change, sentence):
    commit("release 1")
    change()
    assert sentence in signed_by_command(workshop, capsys)
    assert not (workshop.folder / "release").exists()
    assert signed_by_command(workshop, capsys, "--allow-dirty").endswith("signed, of no commit\n")
    assert json.loads((workshop.folder / "release" / "manifest.json").read_text())["origin"]["git_revision"] is None


def test_the_advice_mends_stale_stages_without_force(workshop, project, capsys):
    commit("release 1")
    another_student()
    refused = signed_by_command(workshop, capsys)
    assert "run `dvc repro bundle` and commit" in refused
    assert " -f" not in refused
