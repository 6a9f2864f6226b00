"""The Update Module as Mender calls it, state by state; and by the real client, where that is installed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from rsd_edge.releases import Releases

from tests.bundles import packed
from tests.deploy.edge.serving import process

MODULE = Path(__file__).parents[3] / "deploy" / "mender" / "rsd-edge"
RSD_EDGE = Path(sys.executable).parent / "rsd-edge"
slow = pytest.mark.slow


class Device:
    """A device with release 1, or none; `run` makes Mender's calls."""

    def __init__(self, folder: Path, shared, first: Path | None) -> None:
        self.folder, self.releases = folder, Releases(folder / "device")
        if first:
            self.releases.install(first, shared.keys)
            self.releases.activate(shared.keys)
        self.keys = shared.pinned
        self.configure("http://127.0.0.1:1")

    def configure(self, server: str, program: Path = RSD_EDGE) -> None:
        (self.folder / "mender.conf").write_text(
            f"RSD_EDGE={program}\nROOT={self.releases.root}\nKEYS={self.keys}\nSERVER={server}\nWINDOW=1\n"
        )

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "RSD_EDGE_MENDER_CONF": str(self.folder / "mender.conf")}

    @property
    def current(self) -> str | None:
        return self.releases.status()["current"]

    def tree(self, *files: Path) -> Path:
        """The folder that Mender gives to a module (its "File API")."""
        tree = self.folder / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        for part in ("files", "tmp", "header"):
            (tree / part).mkdir(parents=True)
        for name, content in (("version", "3"), ("artifact_name", "tiny-1"), ("device_type", "edge")):
            (tree / name).write_text(content)
        for file in files:
            shutil.copy(file, tree / "files")
        return tree

    def call(self, state: str, tree: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([MODULE, state, tree], cwd=tree, env=self.environment, capture_output=True, text=True)

    def deploy(self, *files: Path, fail_at: str = "") -> list[str]:
        """A deployment from the states' order in Mender's documentation; the states that were run.

        Mender itself fails before the state `fail_at`, as when it cannot reach its server.
        """
        tree, run = self.tree(*files), []
        assert self.call("SupportsRollback", tree).stdout == "Yes\n"
        for state in ("Download", "ArtifactInstall", "NeedsArtifactReboot", "ArtifactCommit"):
            run.append(state)
            done = self.call(state, tree)
            if state == "NeedsArtifactReboot":
                assert done.stdout == "No\n"
            if done.returncode or state == fail_at:
                run += self.back(tree)
                break
        run.append("Cleanup")
        assert self.call("Cleanup", tree).returncode == 0
        return run

    def back(self, tree: Path) -> list[str]:
        states = ["ArtifactRollback", "ArtifactFailure"]
        for state in states:
            done = self.call(state, tree)
            assert done.returncode == 0, done.stderr
        return states


@pytest.fixture
def device(shared, tmp_path):
    return Device(tmp_path, shared, shared.bundle(1))


@pytest.fixture
def tar(shared, tmp_path):
    return packed(shared.bundle(2), tmp_path / "tiny-2.tar")


GOOD = ["Download", "ArtifactInstall", "NeedsArtifactReboot", "ArtifactCommit"]
BACK = ["ArtifactRollback", "ArtifactFailure", "Cleanup"]


def test_unknown_states_succeed_silently(device):
    for state in ("ProvidePayloadFileSizes", "SupportsAugmentedArtifacts", "ArtifactVerifyReboot", "Tomorrow", ""):
        done = device.call(state, device.tree())
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("files", [0, 2])
def test_an_artifact_must_be_one_file(device, tar, tmp_path, files):
    (tmp_path / "other").touch()
    done = device.call("ArtifactInstall", device.tree(*[tar, tmp_path / "other"][:files]))
    assert done.returncode == 1
    assert done.stderr.startswith("error: expected one file, the tar of a signed bundle, found ")


@slow
def test_a_repeated_deployment_changes_nothing(device, tar):
    with process(device.releases.root) as (address, _):
        device.configure(f"http://{address}")
        assert device.deploy(tar) == [*GOOD, "Cleanup"]
        assert device.current == "tiny-2"
        assert device.deploy(tar) == [*GOOD, "Cleanup"]
        assert device.current == "tiny-2"
        # Mender gives the second one up: what was there before is what it has brought.
        assert device.deploy(tar, fail_at="NeedsArtifactReboot") == [*GOOD[:3], *BACK]
        assert device.current == "tiny-2"


@slow
def test_a_deployment_given_up_after_the_switch_returns(device, tar):
    with process(device.releases.root) as (address, _):
        device.configure(f"http://{address}")
        assert device.deploy(tar, fail_at="ArtifactCommit") == [*GOOD, *BACK]
        assert device.current == "tiny-1"
        assert device.releases.status()["good"] == ["tiny-1"]


@slow
def test_an_unhealthy_or_unsigned_release_changes_nothing(device, shared, tar, tmp_path):
    assert device.deploy(tar) == [*GOOD[:2], *BACK]  # no server
    assert device.current == "tiny-1"
    unsigned = packed(shared.unsigned(3), tmp_path / "tiny-3.tar")
    assert device.deploy(unsigned) == [*GOOD[:2], *BACK]
    assert device.current == "tiny-1"


@slow
def test_only_the_current_release_is_committed(device, tar):
    with process(device.releases.root) as (address, _):
        device.configure(f"http://{address}")
        tree = device.tree(tar)
        assert device.call("ArtifactInstall", tree).returncode == 0
        device.releases.rollback([*device.keys.glob("*.pub")], window=0)
        done = device.call("ArtifactCommit", tree)
        assert (done.returncode, done.stderr) == (1, "error: expected tiny-2 to be current, found tiny-1\n")
        device.back(tree)
        assert device.current == "tiny-1"


@slow
def test_giving_up_a_first_release_is_an_error(shared, tar, tmp_path):
    device = Device(tmp_path, shared, None)
    device.releases.install(shared.bundle(2), shared.keys)
    device.releases.activate(shared.keys)
    tree = device.tree(tar)
    for name, content in (("release", "tiny-2\n"), ("before", "\n")):
        (tree / "tmp" / name).write_text(content)
    done = device.call("ArtifactRollback", tree)
    assert done.returncode == 1
    assert "expected an earlier good release to go back to" in done.stderr


@slow
@pytest.mark.parametrize("call", range(1, 7))
def test_a_kill_around_any_command_goes_back(device, tar, call):
    """Odd calls are killed before a command of ArtifactInstall, even ones after it: install, status, activate."""
    killer = device.folder / "killer"
    killer.write_text(
        f'#!/bin/sh\necho >>{device.folder}/calls; n=$(wc -l <{device.folder}/calls)\n'
        f'[ $((2 * n - 1)) = {call} ] && kill -s KILL 0\n{RSD_EDGE} "$@" || exit 1\n'
        f'[ $((2 * n)) = {call} ] && kill -s KILL 0\nexit 0\n'
    )  # fmt: skip
    killer.chmod(0o755)
    with process(device.releases.root) as (address, _):
        device.configure(f"http://{address}", killer)
        tree = device.tree(tar)
        assert group(device, "ArtifactInstall", tree).wait(60) == -signal.SIGKILL
        device.configure(f"http://{address}")
        device.releases.recover([*device.keys.glob("*.pub")])  # the unit, at its start
        assert device.current == ("tiny-2" if call == 6 else "tiny-1")
        device.back(tree)
        assert device.current == "tiny-1"
        assert device.deploy(tar) == [*GOOD, "Cleanup"]
        assert device.current == "tiny-2"


@slow
def test_killed_while_it_is_watched_it_goes_back(device, tar):
    """No server: it waits through its window. The module alone is killed, so rsd-edge goes on without it."""
    tree = device.tree(tar)
    for whole in (False, True):
        started = group(device, "ArtifactInstall", tree)
        deadline = time.monotonic() + 60
        while device.releases.status()["pending"] != "tiny-2":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (os.killpg if whole else os.kill)(started.pid, signal.SIGKILL)
        started.wait()
        device.back(tree)
        assert device.current == "tiny-1"
        assert device.releases.status()["pending"] is None


def group(device: Device, state: str, tree: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([MODULE, state, tree], cwd=tree, env=device.environment, start_new_session=True)


def missing() -> str | None:
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        return "only root may give Mender other folders than its own"
    absent = [name for name in ("mender", "mender-artifact") if not shutil.which(name)]
    return f"no {absent[0]} here: `apt-get install mender-client mender-artifact`" if absent else None


@slow
@pytest.mark.skipif(bool(reason := missing()), reason=str(reason))
def test_the_real_client_installs_rolls_back_and_commits(device, tar, tmp_path):
    write = ["write", "module-image", "--type", "rsd-edge", "--device-type", "edge", "--artifact-name", "tiny-2"]
    artifact = tmp_path / "tiny-2.mender"
    subprocess.run(["mender-artifact", *write, "--file", tar, "--output-path", artifact], check=True)
    for folder in ("modules", "etc", "data"):
        (tmp_path / folder).mkdir()
    shutil.copy(MODULE, tmp_path / "modules")
    (tmp_path / "etc" / "mender.conf").write_text("{}")
    (tmp_path / "etc" / "artifact_info").write_text("artifact_name=none\n")
    (tmp_path / "data" / "device_type").write_text("device_type=edge\n")
    mounted = (
        f"mount --bind {tmp_path}/modules /usr/share/mender/modules/v3 && mount --bind {tmp_path}/etc /etc/mender && "
        f'exec mender --no-syslog --data {tmp_path}/data "$@"'
    )

    def mender(*arguments: str | Path, status: int = 0) -> str:
        command: Sequence[str | Path] = ["unshare", "--mount", "sh", "-c", mounted, "sh", *arguments]
        done = subprocess.run(command, env=device.environment, capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    mender("install", artifact, status=1)  # no server: not healthy
    assert device.current == "tiny-1"
    with process(device.releases.root) as (address, _):
        device.configure(f"http://{address}")
        mender("install", artifact)
        assert device.current == "tiny-2"
        mender("rollback")
        assert device.current == "tiny-1"
        mender("install", artifact)
        mender("commit")
        assert device.current == "tiny-2"
        assert mender("show-artifact").strip() == "tiny-2"
