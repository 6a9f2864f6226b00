import numpy as np
import pytest
from pydantic import ValidationError

from rsd.machine.errors import UserError
from rsd.models.preprocessing import Preprocessing
from rsd.teacher.base import TeacherOptions
from tests.rsd.teacher.small import data, options

FED = Preprocessing([0.4], [0.2])
LABELS = np.repeat([0, 1, 2], [50, 30, 20])


def test_a_teacher_below_min_top1_stops_the_pipeline():
    options("pretrain", min_top1=95.0).check_accuracy(95.0, LABELS, FED)
    with pytest.raises(UserError, match=r"at least 95.10 % top-1, found 95.00 %.*mean 0.4, std 0.2: correct teacher"):
        options("pretrain", min_top1=95.1).check_accuracy(95.0, LABELS, FED)


def test_by_default_a_teacher_beats_one_class():
    teacher = options("pretrain")
    teacher.check_accuracy(65.0, LABELS, FED)
    with pytest.raises(UserError, match=r"a better top-1 than 50.00 %.*found 55.00 % of 100 .*it was fed images"):
        teacher.check_accuracy(55.0, LABELS, FED)
    options("pretrain", min_top1=0).check_accuracy(55.0, LABELS, FED)


def test_a_probe_at_chance_wants_other_things():
    with pytest.raises(UserError, match="found 50.00 % .*; label more images; take a teacher that has learned"):
        options("probe", "t.pth").check_accuracy(50.0, LABELS, FED)


def test_mean_and_std_come_together():
    for half in ({"mean": [0.5]}, {"std": [0.5]}, {"mean": [0.5], "std": [0.5] * 3}):
        with pytest.raises(ValidationError, match="expected mean and std, with as many values"):
            options("pretrain", **half)
    assert options("pretrain", mean=[0.5], std=[0.3]).start(data()).preprocessing[:2] == ([0.5], [0.3])


@pytest.mark.parametrize(("kind", "key"), [("file", "weights"), ("pretrain", "recipe"), ("finetune", "recipe")])
def test_a_kind_refuses_a_missing_key(kind, key):
    with pytest.raises(ValidationError, match=f"{key}\n  Field required"):
        TeacherOptions.model_validate({"name": "resnet18", "source": kind})


@pytest.mark.parametrize("kind", ["pretrain", "hub"])
def test_a_kind_refuses_weights_it_ignores(kind):
    with pytest.raises(ValidationError, match="weights\n  Extra inputs are not permitted"):
        options(kind, "t.pth")


def test_only_trained_kinds_say_so():
    trained = {kind for kind in TeacherOptions.names() if TeacherOptions.named(kind).trained}
    assert trained == {"pretrain", "finetune"}


def test_a_tag_or_model_without_weights_is_refused():
    with pytest.raises(
        ValidationError, match=r"expected a tag that timm knows \(resnet18\.a1_in1k.*found 'resnet18\.x'"
    ):
        options("pretrain", name="resnet18.x")
    with pytest.raises(ValidationError, match="weights on timm's hub with source 'hub', found that '.*' has none"):
        options("hub", name="vit_base_patch16_xp_224")
