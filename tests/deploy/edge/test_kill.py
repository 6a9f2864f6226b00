"""Killed at any line, a device is on the old or the new release, whole and usable, after `recover` or another command.

The command runs in a forked process that kills itself with SIGKILL before a given line of our package, or of `shutil`,
is executed. Nobody lists the steps: a first run looks at the disk before every line, and each line before which the
disk had changed is one to be killed at. At all others a kill would leave what it leaves at the line before.
"""

import gc
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rsd_edge
from rsd_edge import bundle as bundles
from rsd_edge import choices, timing
from rsd_edge.errors import EdgeError
from rsd_edge.model import Model
from rsd_edge.releases import Releases

from tests.bundles import packed
from tests.deploy.edge.device import works

pytestmark = pytest.mark.usefixtures("short_choices")

OURS = (str(Path(rsd_edge.__file__).parent), shutil.__file__)


def on_disk(root: Path) -> list[tuple[object, ...]]:
    """What a kill would leave: every name, with what tells one content from another."""
    entries: list[tuple[object, ...]] = [(str(root),)] if root.exists() else []
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            facts = os.lstat(path)
            target = os.readlink(path) if os.path.islink(path) else None
            entries.append((path, facts.st_ino, facts.st_size if name in files else 0, target))
    return sorted(entries, key=str)


def run(action: Callable[[], object], root: Path, kill_before: int | None = None) -> list[int] | None:
    """Run `action` in a process of its own; the lines, by number, before which the disk had changed.

    None if it was killed, before line `kill_before` of those that it executed.
    """
    reading, writing = os.pipe()
    gc.freeze()  # as `rsd_edge.child` does: a session that is garbage would wait for its threads in the child
    process = os.fork()
    if not process:
        lines, before, steps, owner = 0, on_disk(root), [1], os.getpid()

        def trace(frame, event, argument):
            nonlocal lines, before
            if os.getpid() != owner:  # the self-test's own process, which writes nothing
                return None
            if not frame.f_code.co_filename.startswith(OURS):
                return None
            if event == "line":
                lines += 1
                if lines == kill_before:
                    os.kill(os.getpid(), signal.SIGKILL)
                if kill_before is None and (now := on_disk(root)) != before:
                    before = now
                    steps.append(lines)
            return trace

        try:
            sys.settrace(trace)
            action()
            sys.settrace(None)
            with os.fdopen(writing, "w") as answer:
                json.dump([*steps, lines], answer)
        finally:
            os._exit(0)
    gc.unfreeze()
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    return [int(line) for line in json.loads(text)]


def current(root: Path, expected: set[str | None]) -> str | None:
    """The release that is current, which must be one of the expected, and infer."""
    folder = Releases(root).current()
    name = folder.name if folder else None
    assert name in expected
    if folder:
        model = Model.open(folder)
        logits = model.infer(np.load(folder / "golden" / "images.npy"))
        assert np.allclose(logits, np.load(folder / "golden" / "logits.fp32.onnxruntime.npy"), atol=1e-3)
    return name


def check(root: Path, expected: set[str | None], keys: list[Path]) -> str | None:
    """After `recover`: one of the expected releases is current, whole and infers, and nothing is left over."""
    releases = Releases(root)
    assert releases.status()["installed"] is not None
    assert releases.to_serve() is None or works(releases.to_serve())
    name = releases.recover(keys)
    assert current(root, expected) == name
    state = releases._state()
    assert state.pending is None
    assert {path.name for path in releases.folder.glob("*")} == state.installed.keys()
    left = {path.name.removesuffix(".json") for path in (root / choices.FOLDER).glob("*")}
    assert left <= state.installed.keys()
    if name:
        choice = choices.read(root, name, state.installed[name])
        assert choice
        assert (choice.precision, choice.threads) == ("fp32", 1)
    for release, digest in state.installed.items():
        bundles.check_installed(releases.folder / release, digest)
    return name


@pytest.fixture(autouse=True, scope="module")
def equal_times():
    """So that a command runs through the same lines each time, whatever the machine does meanwhile."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(timing, "in_turns", lambda ways, **_: {way: [0.001] * 3 for way in ways})
        yield


@pytest.fixture(scope="module")
def devices(shared, tmp_path_factory):
    """Devices before a command, each with the command and the releases that may be current after it."""
    folder = tmp_path_factory.mktemp("devices")
    keys = shared.keys
    for number in (1, 2, 3, 4):  # made now: a forked process would make them for itself alone
        shared.bundle(number)
    tar = packed(shared.bundle(2), folder / "tiny-2.tar")

    def device(name: str, *steps: Callable[[Releases], object]) -> Path:
        releases = Releases(folder / name)
        releases.root.mkdir()
        for step in steps:
            step(releases)
        return releases.root

    def install(number: int) -> Callable[[Releases], object]:
        return lambda releases: releases.install(shared.bundle(number), keys, keep=1)

    def activate(releases: Releases) -> object:
        return releases.activate(shared.keys, window=0, healthy=lambda release: True, keep=1)

    def roomy(releases: Releases) -> object:
        return releases.activate(shared.keys, keep=3)

    def on_trial(releases: Releases) -> None:
        state = releases._state()
        releases._try(state, keys, "tiny-2", 0, None)

    one, two = (install(1), activate), (install(2),)
    return {
        "the first install": (device("a"), install(1), {None}),
        "the first activate": (device("b", install(1)), activate, {None, "tiny-1"}),
        "install": (device("c", *one), install(2), {"tiny-1"}),
        "install of a tar file": (
            device("h", *one),
            lambda releases: releases.install(tar, keys, keep=1),
            {"tiny-1"},
        ),
        "activate": (device("d", *one, *two), activate, {"tiny-1", "tiny-2"}),
        "install that removes another": (device("e", *one, *two), install(3), {"tiny-1"}),
        "rollback": (
            device("f", *one, *two, roomy),
            lambda r: r.rollback(shared.keys, window=0, healthy=lambda release: True),
            {"tiny-1", "tiny-2"},
        ),
        "recover": (device("g", *one, *two, on_trial), lambda r: r.recover(shared.keys), {"tiny-1"}),
    }


COMMANDS = [
    "the first install",
    "the first activate",
    "install",
    "install of a tar file",
    "activate",
    "install that removes another",
    "rollback",
    "recover",
]


def killed(devices, shared, tmp_path, command, every, install=False):
    """Kill `command` at every so-manieth step; the releases that were current after it.

    The next command is to install another release if `install` is true, else `recover` and `command` again.
    """
    device, action, expected = devices[command]
    root = tmp_path / "device"

    def attempt(kill_before: int | None = None) -> list[int] | None:
        shutil.rmtree(root, ignore_errors=True)
        if any(device.iterdir()):  # else the command makes the folder itself
            shutil.copytree(device, root, symlinks=True)
        return run(lambda: action(Releases(root)), root, kill_before)

    steps = attempt()
    assert steps
    last = check(root, expected, shared.keys)
    outcomes = set()
    for step in steps[::every]:
        assert attempt(step) is None
        if install:
            Releases(root).install(shared.bundle(4), shared.keys, keep=1)
            outcomes.add(current(root, expected))
            check(root, expected, shared.keys)
            continue
        name = check(root, expected, shared.keys)
        outcomes.add(name)
        if command != "rollback" or name != last:  # that would go back further
            action(Releases(root))  # the command can be given again
        assert check(root, expected, shared.keys) == last
    return outcomes, len(steps)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "install of a tar file"])
def test_a_kill_at_some_steps_leaves_a_release(devices, shared, tmp_path, command):
    killed(devices, shared, tmp_path, command, every=8)


def test_the_first_install_survives_every_kill(shared, tmp_path):
    """Where no step is left out: from no folder at all to the first `state.json`."""
    root = tmp_path / "device"

    def install() -> None:
        with pytest.raises(EdgeError):
            Releases(root).install(tmp_path / "none", shared.keys)

    steps = run(install, root)
    assert steps
    for step in steps:
        shutil.rmtree(root, ignore_errors=True)
        assert run(install, root, step) is None
        check(root, {None}, shared.keys)
        shutil.rmtree(root)
        assert run(install, root, step) is None
        assert Releases(root).install(shared.bundle(1), shared.keys) == ("tiny-1", True)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_kill_at_every_step_leaves_a_release(devices, shared, tmp_path, command):
    outcomes, steps = killed(devices, shared, tmp_path, command, every=1)
    print(f"{command}: {steps} steps")
    assert outcomes == devices[command][2]


@pytest.mark.parametrize("command", ["the first activate", "activate", "rollback"])
def test_install_works_after_a_kill_at_some_steps(devices, shared, tmp_path, command):
    killed(devices, shared, tmp_path, command, every=4, install=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_install_works_after_a_kill_at_every_step(devices, shared, tmp_path, command):
    assert killed(devices, shared, tmp_path, command, every=1, install=True)[0] == devices[command][2]
