import json
import os

import huggingface_hub.constants
import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from rsd.machine.errors import UserError
from rsd.models.make import create
from rsd.sources.images import DatasetRecord
from rsd.teacher.origin import TeacherOptions, check_accuracy, head_names, load_checkpoint, teacher

ARGS = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
OPTIONS = TeacherOptions(name="resnet18", args=ARGS, recipe="any")
VIT = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}


def model(classes=3):
    return create(OPTIONS.model, classes=classes, image_shape=(16, 16, 1))


def timm_model(name="resnet18", classes=3, channels=1, args=ARGS):
    torch.manual_seed(1)
    return timm.create_model(name, num_classes=classes, in_chans=channels, **args).eval()


def data(classes=3, channels=1, side=16):
    return DatasetRecord(
        source="any",
        classes=[f"class {i}" for i in range(classes)],
        height=side,
        width=side,
        channels=channels,
        mean=[0.4] * channels,
        std=[0.2] * channels,
        counts={},
        checksums={},
    )


def options(source, path=None, **more):
    return TeacherOptions(**{"name": "resnet18", "args": ARGS, "source": source, "path": path, "recipe": "any"} | more)


def saved(path, net):
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, path)
    return path


def same(ours, theirs, *, but=()):
    found, expected = ours.state_dict(), theirs.state_dict()
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in expected if name not in but
    )


# --- checkpoints


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("wrap", ["safetensors", "plain", "model", "state_dict", "state_dict_ema"])
def test_checkpoints_as_they_are_found_in_the_wild_load(tmp_path, wrap, prefix):
    source, target = model(), model()
    state = {prefix + name: tensor.clone() for name, tensor in source.state_dict().items()}
    if wrap == "safetensors":
        save_file(state, path := tmp_path / "t.safetensors")
    else:
        other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        wrapped = {"state_dict": other, wrap: state, "epoch": 3, "arch": "resnet18"}  # EMA weights are preferred
        torch.save(state if wrap == "plain" else wrapped if wrap.endswith("ema") else {wrap: state}, tmp_path / "t.pth")
        path = tmp_path / "t.pth"
    load_checkpoint(target, path)
    assert same(target, source)


def test_a_checkpoint_of_other_classes_says_how_many_and_what_to_do(tmp_path):
    torch.save(model(classes=4).state_dict(), tmp_path / "t.pth")
    with pytest.raises(UserError, match=r"a head for 3 classes, as the data has, .*found one for 4; .*finetune"):
        load_checkpoint(model(), tmp_path / "t.pth")


def test_a_checkpoint_without_a_head_says_so(tmp_path):
    torch.save(timm_model(classes=0).state_dict(), tmp_path / "t.pth")
    with pytest.raises(UserError, match=r"a head for 3 classes, as the data has, .*, found none; .*finetune"):
        load_checkpoint(model(), tmp_path / "t.pth")


def test_a_checkpoint_of_another_model_names_what_does_not_fit(tmp_path):
    path = saved(tmp_path / "t.safetensors", timm_model(args=ARGS | {"channels": [8, 8, 8, 16]}, classes=4))
    with pytest.raises(UserError, match=r"do not fit the teacher: .*fc\.bias is \[4\] instead of \[3\]"):
        load_checkpoint(model(), path)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("/nonexistent/never",)


@pytest.mark.parametrize(
    "content",
    [b"rubbish", {"state_dict": Evil()}, {"state_dict": {"fc.bias": "text"}}, {}, [1, 2], torch.zeros(3)],
    ids=["rubbish", "code", "text", "empty", "list", "tensor"],
)
@pytest.mark.parametrize("source", ["file", "finetune"])
def test_a_file_that_cannot_be_read_safely_is_one_sentence(tmp_path, content, source):
    path = tmp_path / "t.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=r"cannot be read safely \(.+\)"):
        teacher(options(source, path), data())


def test_a_missing_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="found no such file; correct teacher.path"):
        load_checkpoint(model(), tmp_path / "none.pth")


# --- what is stated beside the weights


def test_a_file_is_taken_as_the_data_is_normalised_unless_a_record_beside_it_says_otherwise(tmp_path):
    path = saved(tmp_path / "model.safetensors", net := timm_model())
    found = teacher(options("file", path), data())
    assert same(found.model, net)
    assert (found.mean, found.std, found.input_size) == ([0.4], [0.2], None)
    stated = {"classes": data().classes, "mean": [0.5], "std": [0.3], "input_size": 24, "versions": {"timm": "1"}}
    (tmp_path / "model.json").write_text(json.dumps(stated))
    found = teacher(options("file", tmp_path), data())
    assert (found.mean, found.std, found.input_size) == ([0.5], [0.3], 24)
    assert teacher(options("file", path, input_size=32), data()).input_size == 32


@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        ({"classes": ["class 1", "class 0", "class 2"]}, "another order .class 0 is 'class 1' instead of 'class 0'"),
        ({"classes": ["class 0", "class 1"]}, "expected the data's 3 classes in .*, found 2 classes; "),
        ({"classes": ["class 0", "class 1", "cat"]}, "found 3 classes, such as 'cat', unknown to it"),
        ({"mean": [0.5]}, "as many values in mean as in std"),
        ({"mean": [0.5], "std": [0]}, r"std\.0: Input should be greater than 0"),
        ([], "found: Input should be an object"),
    ],
)
def test_a_record_that_contradicts_the_data_or_itself_is_one_sentence(tmp_path, stated, sentence):
    path = saved(tmp_path / "model.safetensors", timm_model())
    (tmp_path / "model.json").write_text(json.dumps(stated))
    with pytest.raises(UserError, match=sentence):
        teacher(options("file", path), data())


# --- timm's weights from a local file


def test_finetuning_keeps_all_weights_but_the_head_which_is_the_seeds(tmp_path):
    path = saved(tmp_path / "model.safetensors", net := timm_model(classes=7))
    torch.manual_seed(3)
    found = teacher(options("finetune", tmp_path), data())
    torch.manual_seed(3)
    fresh = model()
    head = head_names(fresh)
    assert head == ["fc.weight", "fc.bias"]
    assert same(found.model, net, but=head)
    assert all(torch.equal(found.model.state_dict()[name], fresh.state_dict()[name]) for name in head)
    assert found.mean == [pytest.approx((0.485 + 0.456 + 0.406) / 3)]
    assert found.std == [pytest.approx((0.229 + 0.224 + 0.225) / 3)]
    assert found.weights == teacher(options("finetune", path), data()).weights
    saved(path, timm_model(classes=8))
    assert found.weights != teacher(options("finetune", path), data()).weights


def test_finetuning_keeps_a_head_of_as_many_classes_and_takes_weights_without_one(tmp_path):
    path = saved(tmp_path / "model.safetensors", net := timm_model(classes=3))
    assert same(teacher(options("finetune", path), data()).model, net)
    path = saved(tmp_path / "model.safetensors", net := timm_model(classes=0))
    found = teacher(options("finetune", path), data()).model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("stem", [{}, {"stem_type": "deep", "stem_width": 4}])
def test_a_colour_teacher_sees_in_grey_what_it_saw_in_grey_pixels_of_three_channels(tmp_path, stem):
    path = saved(tmp_path / "model.safetensors", net := timm_model(channels=3, args=ARGS | stem))
    grey = torch.randn(4, 1, 16, 16)
    found = teacher(options("finetune", path, args=ARGS | stem), data()).model.eval()
    assert torch.allclose(found(grey), net(grey.expand(-1, 3, -1, -1)), atol=1e-5)
    colour = teacher(options("finetune", path, args=ARGS | stem), data(channels=3))
    assert same(colour.model, net)
    assert colour.mean == [0.485, 0.456, 0.406]


def test_a_transformer_of_another_image_size_keeps_all_but_its_positions(tmp_path):
    name = "vit_tiny_patch16_224"
    path = saved(tmp_path / "model.safetensors", net := timm_model(name, args=VIT | {"img_size": 16}))
    found = teacher(options("finetune", path, name=name, args=VIT | {"img_size": 32}, input_size=32), data())
    assert found.model.pos_embed.shape == (1, 65, 16)
    assert same(found.model, net, but=["pos_embed"])


def test_models_with_two_heads_get_two_new_ones(tmp_path):
    name, args = "deit_tiny_distilled_patch16_224", VIT | {"img_size": 16}
    path = saved(tmp_path / "model.safetensors", net := timm_model(name, classes=5, args=args))
    found = teacher(options("finetune", path, name=name, args=args), data()).model
    heads = ["head.weight", "head.bias", "head_dist.weight", "head_dist.bias"]
    assert head_names(found) == heads
    assert same(found, net, but=heads)
    with pytest.raises(UserError, match="a head for 3 classes, as the data has, .*found one for 5"):
        teacher(options("file", path, name=name, args=args), data())


def test_finetuning_from_weights_of_another_model_names_what_does_not_fit(tmp_path):
    path = saved(tmp_path / "model.safetensors", timm_model(args=ARGS | {"channels": [8, 8, 8, 16]}))
    with pytest.raises(UserError, match=r"do not fit the teacher 'resnet18' .*of another shape \(first: layer4\.0"):
        teacher(options("finetune", path), data())
    path = saved(tmp_path / "model.safetensors", timm_model("vit_tiny_patch16_224", args=VIT | {"img_size": 16}))
    with pytest.raises(UserError, match=r"missing \(first: bn1\.bias\); .* unknown \(first: blocks"):
        teacher(options("finetune", path), data())


# --- timm's hub, as far as its cache


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's cache as its client lays it out, without a network; `hub(repository, net)` puts weights into it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def put(name, net):
        folder = tmp_path / f"models--timm--{name}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
        saved(folder / "snapshots" / ("0" * 40) / "model.safetensors", net)

    return put


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k"])
def test_a_teacher_from_the_hub_is_that_teacher_with_its_own_normalisation(hub, name):
    hub("resnet18.a1_in1k", net := timm_model(classes=1000, channels=3))
    found = teacher(options("hub", name=name), data(classes=1000, channels=3))
    assert same(found.model, net)
    assert (found.mean, found.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    finetuned = teacher(options("finetune", name=name), data(classes=3))
    assert same(finetuned.model, net, but=["conv1.weight", "fc.weight", "fc.bias"])
    assert len(finetuned.weights or "") == 64


def test_a_hub_teacher_of_other_classes_is_refused_before_it_is_fetched(hub):
    with pytest.raises(UserError, match="a head for 3 classes, as the data has, found 1000 .*source finetune"):
        teacher(options("hub"), data())


@pytest.mark.parametrize("source", ["hub", "finetune"])
def test_without_a_network_one_sentence_says_what_to_do(hub, source):
    with pytest.raises(UserError, match="cannot be had .*set HF_HOME .*teacher.path with source finetune or file"):
        teacher(options(source), data(classes=1000, channels=3))


def test_args_that_the_hubs_weights_do_not_fit_are_named(hub):
    hub("resnet18.a1_in1k", timm_model(classes=1000, channels=3, args=ARGS | {"channels": [8, 8, 8, 16]}))
    with pytest.raises(UserError, match="leave the hub's weights of 'resnet18' fitting.*; change teacher.args"):
        teacher(options("finetune"), data())


# --- options


def test_a_teacher_below_the_stated_accuracy_stops_the_pipeline():
    check_accuracy(95.0, OPTIONS.model_copy(update={"min_top1": 95.0}))
    with pytest.raises(UserError, match=r"at least 95.10 % validation top-1, found 95.00 %"):
        check_accuracy(95.0, OPTIONS.model_copy(update={"min_top1": 95.1}))


@pytest.mark.parametrize("broken", [{"source": "file"}, {"source": "pretrain"}, {"source": "finetune"}])
def test_a_source_without_what_it_needs_is_refused(broken):
    with pytest.raises(ValidationError, match="found none"):
        TeacherOptions(name="resnet18", **broken)


@pytest.mark.parametrize("source", ["pretrain", "hub"])
def test_a_path_that_would_not_be_read_is_refused(source):
    with pytest.raises(ValidationError, match=f"expected no path with source '{source}', found t.pth"):
        options(source, "t.pth")


def test_a_tag_or_a_model_without_weights_is_refused_before_anything_runs():
    with pytest.raises(
        ValidationError, match=r"expected a tag that timm knows \(resnet18\.a1_in1k.*found 'resnet18\.x'"
    ):
        options("pretrain", name="resnet18.x")
    with pytest.raises(ValidationError, match="weights on timm's hub with source 'hub', found that '.*' has none"):
        options("hub", name="vit_base_patch16_xp_224")
