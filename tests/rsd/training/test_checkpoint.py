import json
import os
import random
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from rsd.machine import unfinished
from rsd.machine.errors import UserError
from rsd.training import checkpoint
from rsd.training.resume import TrainingState

ROOT = Path(__file__).parents[3]


def test_what_is_saved_comes_back(tmp_path):
    state = {"t": torch.arange(3), "rows": [{"a": 1.5}], "nested": {"x": [1, "b"]}}
    checkpoint.save(tmp_path / "run" / "d" / "c.pt", state)
    again = checkpoint.load(tmp_path / "run" / "d" / "c.pt")
    assert again is not None
    assert torch.equal(again.pop("t"), state.pop("t"))  # type: ignore[arg-type]
    assert again == state
    assert checkpoint.load(tmp_path / "none.pt") is None


def test_changed_inputs_never_find_the_old_state(tmp_path):
    first = unfinished.state_file("rsd-0", {"weight": 0.1}, root=tmp_path)
    checkpoint.save(first, {})
    assert unfinished.state_file("rsd-0", {"weight": 0.1}, root=tmp_path) == first
    assert first.is_file()
    second = unfinished.state_file("rsd-0", {"weight": 0.2}, root=tmp_path)
    assert second != first
    assert not first.exists()  # and it is not kept for ever


def test_changed_code_never_finds_the_old_state(tmp_path, monkeypatch):
    first = unfinished.state_file("rsd-0", {}, root=tmp_path)
    monkeypatch.setattr(unfinished, "code_digests", lambda: {"rsd/methods/rsd.py": "other"})
    assert unfinished.state_file("rsd-0", {}, root=tmp_path) != first


@pytest.mark.parametrize("library", ["torch", "torchvision", "timm", "numpy", "pillow"])
def test_another_library_version_never_finds_the_old_state(tmp_path, monkeypatch, library):
    first = unfinished.state_file("rsd-0", {}, root=tmp_path)
    monkeypatch.setattr(unfinished, "version", lambda name: "other" if name == library else version(name))
    assert unfinished.state_file("rsd-0", {}, root=tmp_path) != first


def test_the_code_digest_covers_the_projects_loaded_modules():
    program = "import json, rsd.training.checkpoint; from rsd.machine.unfinished import code_digests as digests; "
    program += "print(json.dumps([*digests()]))"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", program], cwd=ROOT))
    assert {"rsd/training/checkpoint.py", "rsd/machine/files.py"} <= set(loaded)
    assert "rsd/training/loop.py" not in loaded
    # `python -m stages.x` is `__main__` in sys.modules, and counts by its file all the same.
    code = "import sys; from rsd.machine import unfinished; sys.modules['__main__'].__file__ = 'stages/distill.py'; "
    digests = subprocess.check_output([sys.executable, "-c", code + "print([*unfinished.code_digests()])"], cwd=ROOT)
    assert b"stages/distill.py" in digests


def test_other_runs_are_left_alone(tmp_path):
    other = unfinished.state_file("rsd-1", {}, root=tmp_path)
    checkpoint.save(other, {})
    mine = unfinished.state_file("rsd-0", {}, root=tmp_path)
    checkpoint.save(mine, {})
    unfinished.forget(mine)
    assert not mine.exists()
    assert other.is_file()


HOLDER = """
import os, sys, time
from pathlib import Path
from typing import Any
from rsd.machine import unfinished
from rsd.training import checkpoint
from rsd.training.resume import TrainingState
for run in sys.argv[2:]:
    unfinished.state_file(run, {}, root=Path(sys.argv[1]))
child = os.fork()  # as a training's data workers are
if child:
    print(child, flush=True)
time.sleep(600)
"""


@contextmanager
def held(root, *runs):
    """Another process that is at these runs; yields it and the number of its child."""
    command = [sys.executable, "-c", HOLDER, str(root), *runs]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        child = int(holder.stdout.readline())
        try:
            yield holder, child
        finally:
            holder.kill()
            os.kill(child, signal.SIGKILL)


def test_another_processs_run_is_left_alone(tmp_path):
    state = tmp_path / "rsd-0" / "digest" / "checkpoint.pt"
    with held(tmp_path, "rsd-0") as (holder, child):
        checkpoint.save(state, {})
        with pytest.raises(UserError, match=rf"no other process at the run 'rsd-0'.*found process {holder.pid} on "):
            unfinished.state_file("rsd-0", {}, root=tmp_path)
        assert state.is_file()
        unfinished.state_file("rsd-1", {}, root=tmp_path)
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # lives on, and is in nobody's way
        mine = unfinished.state_file("rsd-0", {}, root=tmp_path)
        assert not state.exists()
    unfinished.forget(mine)
    with held(tmp_path, "rsd-0"):
        pass


class Evil:
    def __reduce__(self):
        return os.mkdir, ("/nonexistent/never",)


def test_a_checkpoint_cannot_run_code(tmp_path):
    torch.save({"x": Evil()}, tmp_path / "c.pt")
    with pytest.raises(UserError, match="Weights only load failed"):
        checkpoint.load(tmp_path / "c.pt")


@pytest.mark.parametrize("left", [0, 3, 700, 3000])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, left):
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"weights": torch.zeros(1000)})
    os.truncate(path, left)
    with pytest.raises(UserError, match=f"whole checkpoint in {path}, found .*; remove it and run the same command"):
        checkpoint.load(path)


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from typing import Any
from rsd.machine import unfinished
from rsd.training import checkpoint
from rsd.training.resume import TrainingState
from rsd.machine.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as a full disk: the write fails, the process lives
path = Path(sys.argv[1])
checkpoint.save(path, {"weights": torch.arange(10)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(path, {"weights": torch.zeros(1_000_000)})
except UserError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    path = tmp_path / "run" / "d" / "checkpoint.pt"
    message = subprocess.check_output([sys.executable, "-c", FULL_DISK, str(path)], cwd=ROOT, text=True)
    assert message.startswith(f"expected to write the checkpoint {path}, found: ")
    assert "free space and run the same command again: training goes on from the last checkpoint" in message
    saved = checkpoint.load(path)
    assert saved is not None
    assert torch.equal(saved["weights"], torch.arange(10))
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]  # nothing half-written takes the room


def test_no_space_left_is_named(tmp_path, monkeypatch):
    def full(state, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="found: No space left on device; free space.*it starts afresh"):
        checkpoint.save(tmp_path / "c.pt", {})
    assert not list(tmp_path.iterdir())


def test_any_wrong_byte_is_a_sentence_or_harmless(tmp_path):
    path = tmp_path / "c.pt"
    state = {"t": torch.arange(300), "rows": [{"a": 1.5}], "nested": {"x": [1, "b"]}}
    checkpoint.save(path, state)
    whole = path.read_bytes()
    chance = random.Random(0)
    for _ in range(300):
        content = bytearray(whole)
        content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content)
        with suppress(UserError):
            assert isinstance(checkpoint.load(path), dict)
    for kind in ([1], 3, "text", torch.zeros(3), None):
        torch.save(kind, path)
        with pytest.raises(UserError, match="expected a whole checkpoint in .*remove it and run"):
            checkpoint.load(path)


def test_a_progress_of_another_kind_is_refused(tmp_path):
    row = {"epoch": 1.0, "validation_top1": 50.0}
    best = {"row": row, "weights": {"student": {}, "scaffold": {}}}
    whole: dict[str, Any] = {"history": [row], "best": best, "times": [row], "done": 1, "sums": {}, "seconds": 1.0}
    TrainingState(**whole).check(steps=4, epochs=3)
    faults: tuple[dict[str, Any], ...] = (
        {"history": [row] * 4, "times": [row] * 4}, {"times": []}, {"done": 4}, {"done": -1}, {"done": "1"},
        {"history": [{"epoch": "1"}]}, {"history": 3}, {"best": {}}, {"best": {"row": row}}, {"best": 7},
        {"best": {"row": row, "weights": {}}},
    )  # fmt: skip
    for fault in faults:
        with pytest.raises(UserError, match="expected a whole checkpoint"), checkpoint.whole(tmp_path):
            TrainingState(**(whole | fault)).check(steps=4, epochs=3)
