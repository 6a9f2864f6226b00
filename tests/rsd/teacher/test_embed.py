import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rsd.machine.errors import UserError
from rsd.machine.files import read_json
from rsd.models.make import ModelOptions, create
from rsd.models.outputs import outputs
from rsd.models.pixels import PixelNormalize
from rsd.sources.images import LabelledImages
from rsd.teacher import store
from rsd.teacher.embed import check_store, write_store
from rsd.teacher.store import StoreHeader, ViewOptions
from rsd.views.augment import AugmentOptions

AUGMENT = AugmentOptions(shift=1, flip=True)
OPTIONS = ViewOptions(count=3, seed=5, batch_size=4)
PIXELS = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 1), dtype=np.uint8)
IMAGES = LabelledImages(PIXELS, np.arange(10) % 4, list("abcd"))
NORMALIZE = PixelNormalize([0.4], [0.3])


def teacher():
    torch.manual_seed(0)
    args = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 12]}
    return create(ModelOptions(name="resnet18", args=args), classes=4, image_shape=(16, 16, 1)).eval()


def write(folder, *, model=None, options=OPTIONS, augment=AUGMENT, **more):
    return write_store(
        folder / "views", model or teacher(), NORMALIZE, IMAGES,
        augment=augment, options=options, made_from={"teacher": "t"}, unfinished=folder / "state" / "store", **more,
    )  # fmt: skip


def test_the_header_says_what_is_in_it(tmp_path):
    header = write(tmp_path)
    content = read_json(tmp_path / "views" / "header.json")
    assert header == StoreHeader.model_validate(content)
    top1 = content.pop("top1")
    assert content == {
        "views": 3,
        "seed": 5,
        "images": 10,
        "made_from": {"teacher": "t"},
        "embedding_width": 12,
        "logits_width": 4,
    }
    logits = np.load(tmp_path / "views" / "logits.npy")
    assert logits.shape == (3, 10, 4)
    assert top1 == pytest.approx(100 * (logits.argmax(axis=2) == IMAGES.labels).mean())
    assert sorted(os.listdir(tmp_path / "views")) == ["embedding.npy", "header.json", "logits.npy"]
    assert not (tmp_path / "state" / "store").exists()


def test_outputs_beyond_fp16_leave_no_store(tmp_path):
    loud = teacher()
    with torch.no_grad():
        loud.fc.weight.mul_(1e9)
    with pytest.raises(UserError, match="fit into fp16"):
        write(tmp_path, model=loud)
    assert not (tmp_path / "views").exists()


def test_without_views_only_a_header_is_written(tmp_path):
    write(tmp_path, options=OPTIONS.model_copy(update={"count": 0}))
    assert os.listdir(tmp_path / "views") == ["header.json"]


@pytest.mark.parametrize("augment", [AUGMENT, AugmentOptions(flip=True, mixup=0.8)], ids=["plain", "mixed"])
def test_a_store_killed_twice_has_the_same_bytes(tmp_path, augment):
    whole = tmp_path / "whole"
    whole.mkdir()
    write(whole, augment=augment)
    program = f"""
        import os, signal, pathlib
        from tests.rsd.teacher.test_embed import *
        from rsd.teacher import embed
        real, calls, allowed = embed.outputs, [], int(sys.argv[1])
        def outputs(*arguments):
            calls.append(1)
            if len(calls) > allowed:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)
        embed.outputs = outputs
        write(pathlib.Path({str(tmp_path)!r}), augment=AugmentOptions(**{augment.model_dump()!r}), save_seconds=0)
    """
    for allowed in ("2", "4"):
        command = [sys.executable, "-c", textwrap.dedent(program), allowed]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not (tmp_path / "views").exists()
    calls: list[int] = []
    watched = teacher()
    watched.conv1.register_forward_hook(lambda *_: calls.append(1))
    write(tmp_path, model=watched, augment=augment)
    assert len(calls) == 3 * 3 - 2 - 4  # nothing is done twice
    for name in ("embedding.npy", "logits.npy", "header.json"):
        assert (tmp_path / "views" / name).read_bytes() == (whole / "views" / name).read_bytes()


KILLED_AT_THE_END = """
import os, signal, sys
from pathlib import Path
from tests.rsd.teacher.test_embed import write
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
Path.rename = die
write(Path(sys.argv[1]))
"""


def test_a_kill_before_the_move_loses_nothing(tmp_path):
    command = [sys.executable, "-c", KILLED_AT_THE_END, str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "views").exists()
    deaf = teacher()
    deaf.conv1.register_forward_hook(lambda *_: pytest.fail("the teacher is asked again"))
    write(tmp_path, model=deaf)
    (tmp_path / "whole").mkdir()
    write(tmp_path / "whole")
    assert sorted(os.listdir(tmp_path / "views")) == ["embedding.npy", "header.json", "logits.npy"]
    for name in ("embedding.npy", "logits.npy", "header.json"):
        assert (tmp_path / "views" / name).read_bytes() == (tmp_path / "whole" / "views" / name).read_bytes()


def test_a_full_disk_stops_before_the_teacher_runs(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match="room for the view store .*found: No space left on device; free space, lower"):
        write(tmp_path)
    monkeypatch.undo()
    write(tmp_path)  # what was begun without room is not taken for an unfinished store


def test_a_small_disk_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=900))
    with pytest.raises(UserError, match=r"room for the view store \(0.0 MB\) in .*, found 0.0 MB; free space, lower"):
        write(tmp_path)
    assert not [*tmp_path.rglob("*.npy")]


def test_pages_given_back_keep_their_content(tmp_path, monkeypatch):
    (tmp_path / "whole").mkdir()
    write(tmp_path / "whole")
    monkeypatch.setattr(store, "RESIDENT_BYTES", 1)  # after every batch
    write(tmp_path)
    for name in ("embedding.npy", "logits.npy"):
        assert (tmp_path / "views" / name).read_bytes() == (tmp_path / "whole" / "views" / name).read_bytes()


def test_workers_write_the_same_store(tmp_path):
    for workers in (0, 2):
        (tmp_path / str(workers)).mkdir()
        write(tmp_path / str(workers), workers=workers)
    first, second = ((tmp_path / name / "views" / "embedding.npy").read_bytes() for name in "02")
    assert first == second


def test_mixed_views_are_stored_under_their_image(tmp_path):
    from rsd.views.mix import mixed_views

    augment = AugmentOptions(flip=True, mixup=0.8)
    write(tmp_path, augment=augment)
    index = np.array([7, 3])
    pixels, _ = mixed_views(PIXELS, IMAGES.labels, 4, index, augment, seed=5, view=np.array([2, 2]))
    expected = outputs(teacher(), NORMALIZE(torch.from_numpy(pixels)))
    stored = np.load(tmp_path / "views" / "embedding.npy")[2, index]
    assert np.allclose(stored, expected.embedding.detach().numpy(), rtol=1e-3, atol=1e-3)


def test_a_teacher_lost_on_stored_views_is_refused():
    def check(top1, validation_top1):
        header = StoreHeader(views=3, seed=0, images=10, made_from={}, top1=top1)
        check_store(header, classes=10, validation_top1=validation_top1)

    check(40.0, 98.0)
    check(None, 98.0)
    check(10.0, 19.0)
    with pytest.raises(UserError, match=r"at least 32.00 % on its stored views, found 31.00 %"):
        check(31.0, 98.0)
