import huggingface_hub.constants
import pytest

from rsd.machine.errors import UserError
from tests.rsd.teacher.small import ARGS, data, options, same, saved, timm_model


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
def test_a_hub_teacher_keeps_weights_and_normalisation(hub, name):
    hub("resnet18.a1_in1k", net := timm_model(classes=1000, channels=3))
    start = options("hub", name=name).start(data(classes=1000, channels=3))
    assert same(start.model, net)
    assert start.preprocessing == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 224, "bicubic")
    finetuned = options("finetune", name=name).start(data(classes=3))
    assert same(finetuned.model, net, but=["conv1.weight", "fc.weight", "fc.bias"])
    assert len(finetuned.weights or "") == 64


def test_a_hub_teacher_of_other_classes_is_refused(hub):
    with pytest.raises(UserError, match="a head for 3 classes, as the data has, found 1000 .*source finetune"):
        options("hub").start(data())


@pytest.mark.parametrize("source", ["hub", "finetune"])
def test_no_network_is_one_sentence(hub, source):
    with pytest.raises(UserError, match="cannot be had .*set HF_HOME .*and give that folder as teacher.weights"):
        options(source).start(data(classes=1000, channels=3))


def test_args_that_do_not_fit_are_named(hub):
    hub("resnet18.a1_in1k", timm_model(classes=1000, channels=3, args=ARGS | {"channels": [8, 8, 8, 16]}))
    with pytest.raises(UserError, match="leave the hub's weights of 'resnet18' fitting.*; change teacher.args"):
        options("finetune").start(data())
