"""Killed at any line, a device is on the old or the new release, whole and usable, after `recover`.

The command runs in a forked process that kills itself with SIGKILL before a given line of our package, or of `shutil`,
is executed. All lines that a run executes are tried, one after the other; nobody has to list them.
"""

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
from rsd_edge.model import Model
from rsd_edge.releases import Releases

OURS = (str(Path(rsd_edge.__file__).parent), shutil.__file__)


def run(action: Callable[[], object], kill_before: int) -> int | None:
    """Run `action` in a process of its own; how many lines it has executed, or None if it was killed."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        lines = 0

        def trace(frame, event, argument):
            nonlocal lines
            if not frame.f_code.co_filename.startswith(OURS):
                return None
            if event == "line":
                lines += 1
                if lines == kill_before:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            sys.settrace(trace)
            action()
            sys.settrace(None)
            os.write(writing, str(lines).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    return int(said)


def check(root: Path, expected: set[str | None]) -> str | None:
    """After `recover`: one of the expected releases is current, whole and infers, and nothing is left over."""
    releases = Releases(root)
    found = releases.recover()
    current = releases.current()
    assert found in expected
    assert (current.name if current else None) == found
    if current:
        model = Model.open(current)
        logits = model.infer(np.load(current / "golden" / "images.npy"))
        assert np.allclose(logits, np.load(current / "golden" / "logits.fp32.npy"), atol=1e-3)
    state = releases._state()
    assert state.pending is None
    assert {path.name for path in releases.folder.glob("*")} == state.installed.keys()
    for release, digest in state.installed.items():
        bundles.check_installed(releases.folder / release, digest)
    return found


@pytest.fixture(scope="module")
def devices(shared, tmp_path_factory):
    """Devices before a command, each with the command and the releases that may be current after it."""
    folder = tmp_path_factory.mktemp("devices")
    keys = shared.keys

    def device(name: str, *steps: Callable[[Releases], object]) -> Path:
        releases = Releases(folder / name)
        releases.root.mkdir()
        for step in steps:
            step(releases)
        return releases.root

    def install(number: int) -> Callable[[Releases], object]:
        return lambda releases: releases.install(shared.bundle(number), keys, keep=1)

    def activate(releases: Releases) -> object:
        return releases.activate(window=0, healthy=lambda release: True, keep=1)

    def roomy(releases: Releases) -> object:
        return releases.activate(keep=3)

    def on_trial(releases: Releases) -> None:
        state = releases._state()
        releases._try(state, "tiny-2", 0, None)

    one, two = (install(1), activate), (install(2),)
    return {
        "the first install": (device("a"), install(1), {None}),
        "the first activate": (device("b", install(1)), activate, {None, "tiny-1"}),
        "install": (device("c", *one), install(2), {"tiny-1"}),
        "activate": (device("d", *one, *two), activate, {"tiny-1", "tiny-2"}),
        "install that removes another": (device("e", *one, *two), install(3), {"tiny-1"}),
        "rollback": (
            device("f", *one, *two, roomy),
            lambda r: r.rollback(window=0, healthy=lambda release: True),
            {"tiny-1", "tiny-2"},
        ),
        "recover": (device("g", *one, *two, on_trial), lambda r: r.recover(), {"tiny-1"}),
    }


COMMANDS = [
    "the first install",
    "the first activate",
    "install",
    "activate",
    "install that removes another",
    "rollback",
    "recover",
]


def killed_at(devices, tmp_path, command, step):
    device, action, expected = devices[command]

    def attempt(kill_before: int) -> tuple[Path, int | None]:
        root = tmp_path / "device"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(device, root, symlinks=True)
        return root, run(lambda: action(Releases(root)), kill_before)

    root, lines = attempt(-1)
    assert lines
    last = check(root, expected)
    seen = set()
    for kill_before in range(1, lines + 1, step or max(lines // 12, 1)):
        root, executed = attempt(kill_before)
        assert executed is None
        found = check(root, expected)
        seen.add(found)
        if command != "rollback" or found != last:  # that would go back further
            action(Releases(root))  # the command can be given again
        assert check(root, expected) == last
    return seen


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_some_lines_it_is_on_the_old_or_the_new_release(devices, tmp_path, command):
    killed_at(devices, tmp_path, command, None)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_every_line_it_is_on_the_old_or_the_new_release(devices, tmp_path, command):
    seen = killed_at(devices, tmp_path, command, 1)
    assert seen == devices[command][2]
