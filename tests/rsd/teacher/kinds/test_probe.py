import numpy as np
import pytest
import timm
import torch
from torch import nn

from rsd.machine.errors import UserError
from rsd.models.predict import predict
from rsd.sources.images import LabelledImages
from tests.rsd.teacher.small import ARGS, VIT, data, options, same, saved, saved_for_hub, timm_model

CLASSES = ["class 0", "class 1", "class 2"]
VIT_16 = VIT | {"img_size": 16}


def images(count, *, seed=0, channels=1, hidden=0):
    """Images that are brighter the higher their class; the last `hidden` have no label."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = 40 + 70 * labels[:, None, None, None] + generator.integers(0, 40, (count, 16, 16, channels))
    return LabelledImages(pixels.astype(np.uint8), np.where(np.arange(count) < count - hidden, labels, -1), CLASSES)


def fitted(teacher, train, validation, channels=1):
    start = teacher.start(data(channels=channels))
    return start, teacher.fit(start, train, validation, workers=0)


@pytest.mark.parametrize("classes", [0, 5, 3])
def test_the_probes_head_makes_the_teachers_logits(tmp_path, classes):
    saved_for_hub(tmp_path, net := timm_model(classes=classes), mean=[0.5], std=[0.5], input_size=[1, 24, 24])
    train, validation = images(30, hidden=9), images(21, seed=1)
    start, (judged, probe) = fitted(options("probe", tmp_path), train, validation)
    assert start.preprocessing == ([0.5], [0.5], 24, "bicubic")
    body = {name for name in net.state_dict() if not name.startswith("fc.")}
    assert all(torch.equal(start.model.state_dict()[name], net.state_dict()[name]) for name in body)
    logits = predict(start.model, start.preprocessing.module(), validation.images, batch_size=8).logits
    target = torch.from_numpy(validation.labels)
    assert judged.top1 == probe.top1 == 100 * float((logits.argmax(dim=1) == target).double().mean())
    assert judged.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, target)), rel=1e-4)
    assert (probe.labels, probe.select, probe.select_labels, probe.images) == (21, "validation", 21, 21)


def test_images_without_a_label_change_nothing(tmp_path):
    saved_for_hub(tmp_path, timm_model(classes=0))
    teacher = options("probe", tmp_path, input_size=16)
    train, validation = images(30, hidden=12), images(21, seed=1)
    start, known = fitted(teacher, train, validation)
    alone = LabelledImages(train.images[:18], train.labels[:18], CLASSES)
    other, same_known = fitted(teacher, alone, validation)
    assert same(start.model, other.model)
    assert known == same_known


def test_no_validation_label_enters_with_cross_validation(tmp_path):
    saved_for_hub(tmp_path, timm_model(classes=0))
    teacher = options("probe", tmp_path, input_size=16, select="cross_validation")
    train, validation = images(30), images(21, seed=1)
    start, known = fitted(teacher, train, validation)
    other, _ = fitted(teacher, train, validation._replace(labels=validation.labels[::-1].copy()))
    assert same(start.model, other.model)
    assert (known[1].select_labels, known[1].labels) == (30, 30)


def test_a_grey_vit_of_another_size_is_adapted(tmp_path):
    name = "vit_small_patch14_dinov2"
    net = timm_model(name, classes=0, channels=3, args=VIT | {"patch_size": 7, "img_size": 28})
    path = saved(tmp_path / "model.safetensors", net)
    for args, side in (({"img_size": 14}, 14), ({"img_size": 28, "dynamic_img_size": True}, 21)):
        values = VIT | {"patch_size": 7} | args
        teacher = options("probe", path, name=name, args=values, input_size=side)
        assert options("probe", path, name=name, args=values).start(data()).preprocessing.input_size == args["img_size"]
        start, (judged, _) = fitted(teacher, images(30), images(21, seed=1))
        assert start.preprocessing.input_size == side
        assert judged.top1 > 90
        assert same(start.model, net, but=["pos_embed", "patch_embed.proj.weight", "head.weight", "head.bias"]) is False
        assert torch.equal(start.model.blocks[0].attn.qkv.weight, net.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize(
    ("name", "args", "sentence"),
    [
        ("deit_tiny_distilled_patch16_224", VIT_16, "one classifier for source 'probe', found 2 in 'deit_tiny"),
        (
            "efficientvit_m0",
            {"img_size": 64},
            "one linear layer on its pooled embedding .* found other or more layers in 'eff",
        ),
    ],
)
def test_a_model_without_one_linear_classifier_is_refused(tmp_path, name, args, sentence):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=3, in_chans=1, **args)
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm1d)):
        nn.init.normal_(norm.get_buffer("running_mean"))
    path = saved(tmp_path / "model.safetensors", net)
    with pytest.raises(UserError, match=sentence):
        fitted(options("probe", path, name=name, args=args, input_size=args["img_size"]), images(6), images(6))


def test_labels_are_judged_before_any_embedding(tmp_path):
    saved_for_hub(tmp_path, timm_model(classes=0))
    teacher = options("probe", tmp_path, input_size=16)
    start = teacher.start(data())
    start.model.register_forward_hook(lambda *_: pytest.fail("the teacher is asked"))
    with pytest.raises(UserError, match="for each of the 3 classes"):
        teacher.fit(start, images(30, hidden=28), images(6), workers=0)


def test_a_warning_names_the_classifier_on_pixels(tmp_path):
    saved_for_hub(tmp_path, timm_model(classes=0))
    _, (_, probe) = fitted(options("probe", tmp_path, input_size=16), images(60), images(60, seed=1))
    assert probe.pixels_top1 == 100
    assert "a linear classifier on pixels" in (probe.warning or "")
    assert probe.model_copy(update={"beats_pixels": True}).warning is None
    assert "fitted to 60 labels" in probe.stated


def test_weights_of_another_model_are_named(tmp_path):
    path = saved(tmp_path / "model.safetensors", timm_model(args=ARGS | {"channels": [8, 8, 8, 16]}))
    with pytest.raises(UserError, match=r"do not fit the teacher 'resnet18'"):
        options("probe", path).start(data())
