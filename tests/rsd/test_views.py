import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from rsd.data.augment import AugmentOptions, views
from rsd.errors import UserError
from rsd.features import StagedOutputs
from rsd.files import read_json
from rsd.models import ModelOptions, PixelNormalize, create
from rsd.views import LiveTeacher, StoredTeacher, ViewOptions, store_digest, write_store

AUGMENT = AugmentOptions(shift=1, flip=True)
OPTIONS = ViewOptions(count=3, seed=5, batch_size=4)
IMAGES = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 1), dtype=np.uint8)
NORMALIZE = PixelNormalize([0.4], [0.3])


def teacher():
    torch.manual_seed(0)
    args = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 12]}
    return create(ModelOptions(name="resnet18", args=args), classes=4, image_shape=(16, 16, 1)).eval()


@pytest.fixture
def store(tmp_path):
    write_store(tmp_path / "views", teacher(), NORMALIZE, IMAGES, augment=AUGMENT, options=OPTIONS, digest="d")
    return tmp_path / "views"


def test_the_store_says_what_the_live_teacher_says_of_the_same_view(store):
    stored = StoredTeacher(store, digest="d", device=torch.device("cpu"))
    live = LiveTeacher(teacher(), NORMALIZE)
    index = np.array([9, 2, 4])
    for view in range(3):
        raw = torch.from_numpy(views(IMAGES, index, AUGMENT, seed=5, view=view))
        for name in ("embedding", "logits"):
            ours, theirs = (getattr(teacher(raw, index, view), name) for teacher in (stored, live))
            assert ours.dtype == torch.float16
            assert torch.allclose(ours.float(), theirs, rtol=1e-3, atol=1e-3)


def test_the_header_says_what_is_in_it(store):
    header = read_json(store / "header.json")
    assert header == {"views": 3, "seed": 5, "images": 10, "digest": "d", "embedding_width": 12, "logits_width": 4}
    assert np.load(store / "embedding.npy").shape == (3, 10, 12)


def test_a_foreign_store_is_refused(store):
    with pytest.raises(UserError, match="made from this teacher, these images and this augmentation"):
        StoredTeacher(store, digest="other", device=torch.device("cpu"))


@pytest.mark.parametrize("change", ["teacher", "dataset", "augment", "options"])
def test_the_digest_changes_with_all_that_a_store_is_made_from(tmp_path, change):
    (tmp_path / "t").write_text("teacher")
    (tmp_path / "d").write_text("data")
    made_from = {"teacher": tmp_path / "t", "dataset": tmp_path / "d", "augment": AUGMENT, "options": OPTIONS}
    before = store_digest(**made_from)
    (tmp_path / "other").write_text("other")
    other = {
        "teacher": tmp_path / "other",
        "dataset": tmp_path / "other",
        "augment": AugmentOptions(),
        "options": ViewOptions(),
    }
    assert store_digest(**made_from) == before
    assert store_digest(**{**made_from, change: other[change]}) != before


def test_outputs_beyond_fp16_are_refused_and_leave_no_store(tmp_path):
    loud = teacher()
    with torch.no_grad():
        loud.fc.weight.mul_(1e9)
    with pytest.raises(UserError, match="fit into fp16"):
        write_store(tmp_path / "views", loud, NORMALIZE, IMAGES, augment=AUGMENT, options=OPTIONS, digest="d")
    assert os.listdir(tmp_path) == []


def test_killed_while_embedding_leaves_no_store(tmp_path):
    program = f"""
        import os, signal, pathlib
        from tests.rsd.test_views import *
        from rsd import views
        real, calls = views.outputs, iter(range(9))
        def outputs(*arguments):
            if next(calls) == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)
        views.outputs = outputs
        write_store(pathlib.Path({str(tmp_path / "views")!r}), teacher(), NORMALIZE, IMAGES, augment=AUGMENT,
                    options=OPTIONS, digest="d")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (tmp_path / "views").exists()


def test_no_views_is_an_empty_store_with_a_header(tmp_path):
    options = OPTIONS.model_copy(update={"count": 0})
    write_store(tmp_path / "views", teacher(), NORMALIZE, IMAGES, augment=AUGMENT, options=options, digest="d")
    assert os.listdir(tmp_path / "views") == ["header.json"]


def test_the_live_teacher_never_leaves_eval_mode():
    model = teacher().train()
    live = LiveTeacher(model, NORMALIZE)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    told = live(torch.from_numpy(IMAGES), np.arange(10), 0)
    assert not told.embedding.requires_grad
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())  # batch norm statistics stand still


def test_the_live_teacher_tells_its_stages_where_they_are_asked_for():
    raw, index = torch.from_numpy(IMAGES), np.arange(10)
    plain, staged = LiveTeacher(teacher(), NORMALIZE), LiveTeacher(teacher(), NORMALIZE, staged=True)
    told = staged(raw, index, 0)
    assert isinstance(told, StagedOutputs)
    assert torch.equal(told.embedding, plain(raw, index, 0).embedding)
    assert [stage.map.shape[1] for stage in told.stages] == [8, 8, 8, 12]
    assert not any(stage.map.requires_grad for stage in told.stages)
