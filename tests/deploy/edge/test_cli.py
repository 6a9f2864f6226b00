"""The command as it is typed: one line of output, or one sentence and exit status 1."""

import ast
import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rsd_edge
from rsd_edge import cli

from tests.bundles import packed
from tests.deploy.edge.device import contents, lose_state, works
from tests.deploy.edge.serving import Tiny, always, ask, process, served, until

pytestmark = pytest.mark.usefixtures("short_choices")

SOURCE = Path(rsd_edge.__file__).parent
UNITS = SOURCE.parents[1] / "systemd"


def run(capsys, *arguments, status=0):
    try:
        cli.main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else 1
    out, err = capsys.readouterr()
    assert code == status, err
    return err if status else out


@pytest.fixture
def at(shared, tmp_path):
    return ["--root", tmp_path / "device", "--keys", shared.pinned]


def test_commands_lead_from_signed_bundle_to_prediction(shared, at, capsys, tmp_path):
    assert "tiny-1: signed by a pinned key" in run(capsys, *at, "verify", shared.first)
    assert "tiny-1: signed by a pinned key" in run(capsys, *at, "verify", packed(shared.first, tmp_path / "one.tar"))
    assert "tiny-1: installed" in run(capsys, *at, "install", shared.first)
    assert "tiny-1: was installed already" in run(capsys, *at, "install", shared.first)
    assert "was installed already; `rsd-edge activate` makes it current" in run(capsys, *at, "install", shared.first)
    assert "tiny-1: current and good" in run(capsys, *at, "activate")
    assert run(capsys, *at, "install", shared.first) == "tiny-1: was installed already; it is current\n"
    run(capsys, *at, "install", shared.second)
    run(capsys, *at, "activate", "tiny-2")
    assert "tiny-1: current again" in run(capsys, *at, "rollback")
    assert "tiny-1: current" in run(capsys, *at, "recover")
    assert json.loads(run(capsys, *at, "status", "--json"))["current"] == "tiny-1"
    assert re.search("fp(32|16) in ONNX Runtime +[12] .* chosen: the fastest", run(capsys, *at, "status"))
    image = shared.first / "golden" / "files" / "wide.jpg"
    assert "wide.jpg: " in run(capsys, *at, "predict", image, "--top", 1)
    assert "p99" in run(capsys, *at, "bench", "--samples", 20)


def test_activate_without_a_server_says_it_was_unwatched(shared, at, capsys):
    with served(always(Tiny(release=2))) as address:
        for bundle, options, expected in (
            (shared.first, [], True),
            (shared.second, ["--server", f"http://{address}"], False),
        ):
            run(capsys, *at, "install", bundle)
            output = run(capsys, *at, "activate", "--window", "0.1", *options)
            assert ("not watched: with --server http" in output) == expected
        assert "not watched" in run(capsys, *at, "rollback")


def test_recover_on_a_read_only_disk_warns(shared, at, capsys, monkeypatch):
    def read_only(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    run(capsys, *at, "install", shared.first)
    with monkeypatch.context() as patched:
        patched.setattr("rsd_edge.disk.locked", read_only)
        output = run(capsys, *at, "recover", status=1)
        assert output.startswith("error: expected to repair ")
        assert "Read-only file system" in output
    run(capsys, *at, "activate")
    monkeypatch.setattr("rsd_edge.disk.locked", read_only)
    assert run(capsys, *at, "recover") == "tiny-1: current\n"


def test_recover_warns_of_a_dropped_key(shared, at, workshop, releases, capsys):
    releases.install(shared.bundle(1), shared.keys)
    releases.activate(shared.keys)
    cli.main([str(argument) for argument in [*at[:3], workshop.pinned, "recover"]])
    out, err = capsys.readouterr()
    assert out == "tiny-1: current\n"
    assert err.startswith("warning: tiny-1 is served on, but it would not be taken again: expected a signature of one")


def on_a_full_disk(at, *arguments):
    """Run a command that cannot write a byte to any file."""
    return subprocess.run(
        [sys.executable, "-m", "rsd_edge", *map(str, [*at, *arguments])],
        env=os.environ | {"PYTHONPATH": str(SOURCE.parent)}, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )  # fmt: skip


@pytest.mark.parametrize(
    "trouble", ["none", "a trial", "a lost state", "a lost copy", "a damaged key", "a lost choice"]
)
def test_recover_serves_what_is_whole_without_writing(shared, at, releases, tmp_path, trouble):
    for number in (1, 2):
        releases.install(shared.bundle(number), shared.keys)
        releases.activate(shared.keys)
    if trouble == "a trial":
        releases._try(releases._state(), shared.keys, "tiny-1", 0, None)
    elif trouble in ("a lost state", "a damaged key"):
        lose_state(releases, b"{")
    elif trouble == "a lost copy":
        (releases.root / "state.copy.json").unlink()
    elif trouble == "a lost choice":
        shutil.rmtree(releases.root / "choices")
    if trouble == "a damaged key":
        (tmp_path / "keys").mkdir()
        (tmp_path / "keys" / "x.pub").write_text("no key")
        at = [*at[:3], tmp_path / "keys"]
    done = on_a_full_disk(at, "recover")
    assert (done.returncode, done.stdout) == (0, "tiny-2: current\n"), done.stderr
    assert ("warning: expected" in done.stderr) == (trouble != "none")
    assert releases.to_serve().name == "tiny-2"
    assert works(releases.to_serve())


def test_recover_on_a_full_disk_serves_nothing_damaged(shared, at, releases):
    releases.install(shared.bundle(1), shared.keys)
    releases.activate(shared.keys)
    (releases.current() / "labels.json").write_text("x")
    done = on_a_full_disk(at, "recover")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: expected to repair")


@pytest.fixture
def damaged(shared, releases):
    """A device with three good releases of which the last two are damaged."""
    for number in (1, 2, 3):
        releases.install(shared.bundle(number), shared.keys)
        releases.activate(shared.keys)
    for number in (2, 3):
        (releases.folder / f"tiny-{number}" / "labels.json").write_text('["a", "b", "d"]')
    return releases


def test_recover_on_a_full_disk_falls_back(at, damaged):
    before = contents(damaged.root)
    done = on_a_full_disk(at, "recover")
    assert (done.returncode, done.stdout) == (0, "tiny-1: current\n"), done.stderr
    assert "warning: tiny-3 is damaged; tiny-1 is served instead" in done.stderr
    assert contents(damaged.root).items() >= before.items()


def test_a_damaged_release_is_not_served(shared, damaged):
    with process(damaged.root, keys=shared.pinned) as (address, _):
        assert json.loads(ask(address, "GET", "/v1/status")[2])["release"] == 1
        damaged.install(shared.bundle(3), shared.keys)
        until(lambda: json.loads(ask(address, "GET", "/v1/status")[2])["release"] == 3)


def test_a_dropped_key_s_release_replaces_no_other(at, damaged, workshop):
    done = on_a_full_disk([*at[:3], workshop.pinned], "recover")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: expected to repair")


def test_errors_are_one_sentence_and_status_1(shared, at, capsys, tmp_path):
    for arguments in (
        ["verify", tmp_path],
        ["install", tmp_path / "none"],
        ["activate"],
        ["activate", "--server", "ftp://x"],
        ["rollback"],
        ["predict", tmp_path / "x.png"],
        ["bench"],
    ):
        output = run(capsys, *at, *arguments, status=1)
        assert output.startswith("error: expected ")
        assert output.count("\n") == 1, output
    run(capsys, *at, "install", shared.first)
    run(capsys, *at, "activate")
    (tmp_path / "x.png").write_text("no image")
    image = shared.first / "golden" / "files" / "wide.jpg"
    with pytest.raises(SystemExit, match="1"):
        cli.main([str(a) for a in [*at, "predict", tmp_path / "x.png", image]])
    out, err = capsys.readouterr()
    assert "x.png: expected a JPEG, PNG" in err
    assert "wide.jpg: " in out  # one bad image does not keep the others


HEAVY = {"numpy", "PIL", "onnxruntime", "cryptography", "uvicorn", "starlette", "prometheus_client", "openvino"}


def test_only_declared_libraries_are_imported_and_late(tmp_path):
    program = f"import sys; from rsd_edge.cli import main; main(sys.argv[1:]);print(sorted({HEAVY} & {{*sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", program, "--root", str(tmp_path), "status"],
        env=os.environ | {"PYTHONPATH": str(SOURCE.parent)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.endswith("[]\n")
    allowed = {*HEAVY, "h11", "rsd_edge", *sys.stdlib_module_names}
    for file in SOURCE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(), feature_version=(3, 10))):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, file
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] in allowed, file


@pytest.mark.parametrize("module", ["rsd_edge.model", "rsd.export.parity"])
def test_the_runtime_is_told_to_tell_nobody(tmp_path, module):
    """ONNX Runtime names the machine in a file of the home folder before it sends anything; without it, it does not."""
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    for program in (f"import {module}", "import onnxruntime"):
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)
        traces = [path.name for path in tmp_path.rglob("*onnxruntime*")]
        assert bool(traces) == (program == "import onnxruntime"), traces


def unit() -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    for line in (UNITS / "rsd-edge.service").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            sections.setdefault(key, []).append(value)
    return sections


def test_the_unit_recovers_before_it_serves():
    sections = unit()
    parser = cli._parser()
    for command in [*sections["ExecStartPre"], *sections["ExecStart"]]:
        parser.parse_args(command.lstrip("+").split()[1:])
    assert sections["ExecStartPre"][0].endswith("rsd-edge recover")
    assert " serve" in sections["ExecStart"][0]
    assert sections["NoNewPrivileges"] == ["yes"]
    assert sections["ProtectSystem"] == ["strict"]


def with_token() -> str:
    """The unit with the lines for a token no longer commented out, and without those that they replace."""
    text = (UNITS / "rsd-edge.service").read_text()
    return text.replace("# LoadCredential=", "LoadCredential=").replace("# ExecStart=", "ExecStart=")


def test_the_unit_takes_a_token_as_a_credential():
    lines = with_token().splitlines()
    place = lines.index("LoadCredential=token:/etc/rsd-edge/token")
    assert lines[place + 1] == "ExecStart="  # else there would be two
    arguments = cli._parser().parse_args(lines[place + 2].split()[1:])
    assert str(arguments.token_file) == "%d/token"


@pytest.mark.skipif(not Path("/usr/bin/systemd-analyze").exists(), reason="no systemd-analyze here")
@pytest.mark.parametrize("token", [False, True])
def test_systemd_finds_no_fault_in_the_unit(tmp_path, token):
    text = with_token() if token else (UNITS / "rsd-edge.service").read_text()
    text = text.replace("/opt/rsd-edge/bin/rsd-edge", "/bin/true")
    (tmp_path / "rsd-edge.service").write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "rsd-edge.service")], capture_output=True, text=True
    )
    assert "rsd-edge.service" not in done.stderr, done.stderr


@pytest.mark.skipif(not Path("/usr/bin/systemd-analyze").exists(), reason="no systemd-analyze here")
def test_systemd_rates_the_unit_s_exposure_as_ok():
    """On its scale from 0 (nothing) to 10 (all); the threshold is in tenths."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNITS / "rsd-edge.service")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
