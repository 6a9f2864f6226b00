import json
import os
import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from rsd.machine.errors import UserError
from rsd.models.features import StagedOutputs
from rsd.models.make import ModelOptions, create
from rsd.models.pixels import PixelNormalize
from rsd.sources.images import LabelledImages
from rsd.teacher import store as module
from rsd.teacher.embed import write_store
from rsd.teacher.store import LiveTeacher, StoredTeacher, StoreHeader, ViewOptions, store_digests
from rsd.views.augment import AugmentOptions, views
from tests.junk import ARRAYS, DEEP, mutate

AUGMENT = AugmentOptions(shift=1, flip=True)
OPTIONS = ViewOptions(count=3, seed=5, batch_size=4)
IMAGES = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 1), dtype=np.uint8)
NORMALIZE = PixelNormalize([0.4], [0.3])
MADE_FROM = {"teacher": "t", "images": "i", "augmentation": "a", "views": "v"}


def teacher():
    torch.manual_seed(0)
    args = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 12]}
    return create(ModelOptions(name="resnet18", args=args), classes=4, image_shape=(16, 16, 1)).eval()


@pytest.fixture
def store(tmp_path):
    images = LabelledImages(IMAGES, np.arange(10) % 4, list("abcd"))
    write_store(
        tmp_path / "views", teacher(), NORMALIZE, images,
        augment=AUGMENT, options=OPTIONS, made_from=MADE_FROM, unfinished=tmp_path / "unfinished",
    )  # fmt: skip
    return tmp_path / "views"


def test_stored_and_live_outputs_of_a_view_agree(store):
    stored = StoredTeacher(store, made_from=MADE_FROM, device=torch.device("cpu"))
    live = LiveTeacher(teacher(), NORMALIZE)
    index = np.array([9, 2, 4])
    for number in range(3):
        view = np.full(3, number)
        raw = torch.from_numpy(views(IMAGES, index, AUGMENT, seed=5, view=view))
        for name in ("embedding", "logits"):
            ours, theirs = (getattr(teacher(raw, index, view), name) for teacher in (stored, live))
            assert ours.dtype == torch.float16
            assert torch.allclose(ours.float(), theirs, rtol=1e-3, atol=1e-3)


def test_a_store_of_other_inputs_is_refused(store):
    with pytest.raises(UserError, match="found one with other digests of augmentation, views in .*dvc repro embed"):
        StoredTeacher(store, made_from=MADE_FROM | {"augmentation": "o", "views": "o"}, device=torch.device("cpu"))


@pytest.mark.parametrize("name", ["embedding.npy", "logits.npy", "header.json"])
@pytest.mark.parametrize("left", [None, 0, 5, 150])
def test_a_damaged_store_is_one_sentence(store, name, left):
    if left is None:
        (store / name).unlink()
    else:
        os.truncate(store / name, left)
    with pytest.raises(UserError, match=f"whole view store in {store}, found it damaged .*; run `dvc repro embed`"):
        StoredTeacher(store, made_from=MADE_FROM, device=torch.device("cpu"))


def opened(store):
    return StoredTeacher(store, made_from=MADE_FROM, device=torch.device("cpu"))


@pytest.mark.parametrize("held", [1, 1 << 30], ids=["given back", "held"])
@pytest.mark.parametrize("size", [1, 2, 7, 200])
def test_rows_are_the_files_in_any_order(store, size, held, monkeypatch):
    monkeypatch.setattr(module, "RESIDENT_BYTES", held)
    stored, chance = opened(store), np.random.default_rng(size)
    batches = [(chance.integers(0, 10, size), chance.integers(0, 3, size)) for _ in range(6)]
    for number, (index, view) in enumerate(batches):
        for later in batches[number : number + number % 3]:  # none, one or two ahead, some of them a second time
            stored.prefetch(*later)
        answers = stored(torch.empty(0), index, view)
        for name in ("embedding", "logits"):
            whole = np.load(store / f"{name}.npy")
            assert np.array_equal(getattr(answers, name).numpy(), whole[view, index])


def test_numbers_beyond_the_store_are_refused(store):
    for index, view in ((10, 0), (0, 3)):
        with pytest.raises(ValueError, match="invalid entry"):
            opened(store)(torch.empty(0), np.array([index]), np.array([view]))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not count this process's files")
def test_a_large_store_takes_little_memory(tmp_path, monkeypatch):
    images, widths = 50_000, {"embedding": 2048, "logits": 1000}
    for name, width in widths.items():  # 300 MB of zeros, which take no room on the disk
        np.lib.format.open_memmap(tmp_path / f"{name}.npy", mode="w+", dtype=np.float16, shape=(1, images, width))
    header = StoreHeader(views=1, seed=0, images=images, made_from={}, embedding_width=2048, logits_width=1000)
    (tmp_path / "header.json").write_text(header.model_dump_json(exclude_none=True))
    monkeypatch.setattr(module, "RESIDENT_BYTES", 32 << 20)
    stored = StoredTeacher(tmp_path, made_from={}, device=torch.device("cpu"))
    before, most = resident_files(), 0
    for index in np.random.default_rng(0).permutation(images).reshape(-1, 250):
        stored(torch.empty(0), index, np.zeros_like(index))
        most = max(most, resident_files() - before)
    assert most < 64 << 20


def resident_files():
    """Bytes of mapped files that this process holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))


def test_a_malformed_header_ends_in_a_sentence(store):
    path = store / "header.json"
    whole = path.read_text()
    chance = random.Random(0)
    for _ in range(200):
        header = json.loads(whole)
        mutate(chance, header)
        path.write_text(json.dumps(header))
        with suppress(UserError):
            assert opened(store).logits.shape == (3, 10, 4)
    for content in (DEEP, b"\xff", b"3", b"[]"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="expected a whole view store"):
            opened(store)


@pytest.mark.parametrize("kind", ARRAYS)
def test_a_malformed_array_ends_in_a_sentence(store, kind):
    (store / "logits.npy").write_bytes(ARRAYS[kind])
    with pytest.raises(UserError, match="expected a whole view store"):
        opened(store)


def test_arrays_that_contradict_the_header_are_refused(store):
    np.save(store / "logits.npy", np.load(store / "logits.npy")[:, :9])
    with pytest.raises(UserError, match=r"logits.npy is \(3, 9, 4\), and \(3, 10, 4\) by the header"):
        StoredTeacher(store, made_from=MADE_FROM, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("change", "name"),
    [("teacher", "teacher"), ("dataset", "images"), ("augment", "augmentation"), ("options", "views")],
)
def test_each_input_has_a_digest_of_its_own(tmp_path, change, name):
    (tmp_path / "t").write_text("teacher")
    (tmp_path / "d").write_text("data")
    made_from = {"teacher": tmp_path / "t", "dataset": tmp_path / "d", "augment": AUGMENT, "options": OPTIONS}
    before = store_digests(**made_from)
    (tmp_path / "other").write_text("other")
    other = {
        "teacher": tmp_path / "other",
        "dataset": tmp_path / "other",
        "augment": AugmentOptions(),
        "options": ViewOptions(),
    }
    assert store_digests(**made_from) == before
    changed = store_digests(**{**made_from, change: other[change]})
    assert [name for name in before if changed[name] != before[name]] == [name]


def test_the_live_teacher_never_leaves_eval_mode():
    model = teacher().train()
    live = LiveTeacher(model, NORMALIZE)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    answers = live(torch.from_numpy(IMAGES), np.arange(10), np.zeros(10, int))
    assert not answers.embedding.requires_grad
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())  # batch norm statistics stand still


def test_the_live_teacher_gives_stages_on_request():
    raw, index = torch.from_numpy(IMAGES), np.arange(10)
    plain, staged = LiveTeacher(teacher(), NORMALIZE), LiveTeacher(teacher(), NORMALIZE, staged=True)
    answers = staged(raw, index, index)
    assert isinstance(answers, StagedOutputs)
    assert torch.equal(answers.embedding, plain(raw, index, index).embedding)
    assert [stage.map.shape[1] for stage in answers.stages] == [8, 8, 8, 12]
    assert not any(stage.map.requires_grad for stage in answers.stages)
