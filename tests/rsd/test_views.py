import numpy as np
import pytest
import torch

from rsd.data.augment import AugmentOptions, views
from rsd.data.images import LabelledImages
from rsd.embed import write_store
from rsd.errors import UserError
from rsd.features import StagedOutputs
from rsd.models import ModelOptions, PixelNormalize, create
from rsd.views import LiveTeacher, StoredTeacher, ViewOptions, store_digest

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
    images = LabelledImages(IMAGES, np.arange(10) % 4, list("abcd"))
    write_store(
        tmp_path / "views", teacher(), NORMALIZE, images,
        augment=AUGMENT, options=OPTIONS, digest="d", unfinished=tmp_path / "unfinished",
    )  # fmt: skip
    return tmp_path / "views"


def test_the_store_says_what_the_live_teacher_says_of_the_same_view(store):
    stored = StoredTeacher(store, digest="d", device=torch.device("cpu"))
    live = LiveTeacher(teacher(), NORMALIZE)
    index = np.array([9, 2, 4])
    for number in range(3):
        view = np.full(3, number)
        raw = torch.from_numpy(views(IMAGES, index, AUGMENT, seed=5, view=view))
        for name in ("embedding", "logits"):
            ours, theirs = (getattr(teacher(raw, index, view), name) for teacher in (stored, live))
            assert ours.dtype == torch.float16
            assert torch.allclose(ours.float(), theirs, rtol=1e-3, atol=1e-3)


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


def test_the_live_teacher_never_leaves_eval_mode():
    model = teacher().train()
    live = LiveTeacher(model, NORMALIZE)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    told = live(torch.from_numpy(IMAGES), np.arange(10), np.zeros(10, int))
    assert not told.embedding.requires_grad
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())  # batch norm statistics stand still


def test_the_live_teacher_tells_its_stages_where_they_are_asked_for():
    raw, index = torch.from_numpy(IMAGES), np.arange(10)
    plain, staged = LiveTeacher(teacher(), NORMALIZE), LiveTeacher(teacher(), NORMALIZE, staged=True)
    told = staged(raw, index, index)
    assert isinstance(told, StagedOutputs)
    assert torch.equal(told.embedding, plain(raw, index, index).embedding)
    assert [stage.map.shape[1] for stage in told.stages] == [8, 8, 8, 12]
    assert not any(stage.map.requires_grad for stage in told.stages)
