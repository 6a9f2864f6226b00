import pytest
import torch

from rsd.machine.errors import UserError
from rsd.models.checkpoint_file import head_names
from tests.rsd.teacher.small import ARGS, VIT, data, model, options, same, saved, saved_for_hub, timm_model


def test_finetuning_draws_a_new_head_only(tmp_path):
    path = saved(tmp_path / "model.safetensors", net := timm_model(classes=7))
    torch.manual_seed(3)
    start = options("finetune", tmp_path).start(data())
    torch.manual_seed(3)
    fresh = model()
    head = head_names(fresh)
    assert head == ["fc.weight", "fc.bias"]
    assert same(start.model, net, but=head)
    assert all(torch.equal(start.model.state_dict()[name], fresh.state_dict()[name]) for name in head)
    assert start.preprocessing.mean == [pytest.approx((0.485 + 0.456 + 0.406) / 3)]
    assert start.preprocessing.std == [pytest.approx((0.229 + 0.224 + 0.225) / 3)]
    assert start.weights == options("finetune", path).start(data()).weights
    saved(path, timm_model(classes=8))
    assert start.weights != options("finetune", path).start(data()).weights


def test_finetuning_starts_from_its_weights_pixels(tmp_path):
    saved_for_hub(tmp_path, timm_model(), input_size=[1, 24, 24], mean=[0.5], std=[0.5])
    assert options("finetune", tmp_path).start(data()).preprocessing[:3] == ([0.5], [0.5], None)


def test_finetuning_keeps_a_head_that_fits(tmp_path):
    path = saved(tmp_path / "model.safetensors", net := timm_model(classes=3))
    assert same(options("finetune", path).start(data()).model, net)
    path = saved(tmp_path / "model.safetensors", net := timm_model(classes=0))
    state = options("finetune", path).start(data()).model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("stem", [{}, {"stem_type": "deep", "stem_width": 4}])
def test_a_colour_teacher_is_adapted_to_grey(tmp_path, stem):
    path = saved(tmp_path / "model.safetensors", net := timm_model(channels=3, args=ARGS | stem))
    grey = torch.randn(4, 1, 16, 16)
    teacher = options("finetune", path, args=ARGS | stem).start(data()).model.eval()
    assert torch.allclose(teacher(grey), net(grey.expand(-1, 3, -1, -1)), atol=1e-5)
    colour = options("finetune", path, args=ARGS | stem).start(data(channels=3))
    assert same(colour.model, net)
    assert colour.preprocessing.mean == [0.485, 0.456, 0.406]


def test_another_image_size_changes_only_the_positions(tmp_path):
    name = "vit_tiny_patch16_224"
    path = saved(tmp_path / "model.safetensors", net := timm_model(name, args=VIT | {"img_size": 16}))
    start = options("finetune", path, name=name, args=VIT | {"img_size": 32}, input_size=32).start(data())
    assert start.model.pos_embed.shape == (1, 65, 16)
    assert same(start.model, net, but=["pos_embed"])


def test_models_with_two_heads_get_two_new_ones(tmp_path):
    name, args = "deit_tiny_distilled_patch16_224", VIT | {"img_size": 16}
    path = saved(tmp_path / "model.safetensors", net := timm_model(name, classes=5, args=args))
    teacher = options("finetune", path, name=name, args=args).start(data()).model
    heads = ["head.weight", "head.bias", "head_dist.weight", "head_dist.bias"]
    assert head_names(teacher) == heads
    assert same(teacher, net, but=heads)
    with pytest.raises(UserError, match="a head for 3 classes, as the data has, .*found one for 5"):
        options("file", path, name=name, args=args).start(data())


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = saved(tmp_path / "model.safetensors", timm_model(args=ARGS | {"channels": [8, 8, 8, 16]}))
    with pytest.raises(UserError, match=r"do not fit the teacher 'resnet18' .*of another shape \(first: layer4\.0"):
        options("finetune", path).start(data())
    path = saved(tmp_path / "model.safetensors", timm_model("vit_tiny_patch16_224", args=VIT | {"img_size": 16}))
    with pytest.raises(UserError, match=r"missing \(first: bn1\.bias\); .* unknown \(first: blocks"):
        options("finetune", path).start(data())
