import os

import pytest
import torch
from safetensors.torch import save_file

from rsd.machine.errors import UserError
from rsd.models.checkpoint_file import load_checkpoint
from tests.rsd.teacher.small import ARGS, data, model, options, same, saved, timm_model


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("wrap", ["safetensors", "plain", "model", "state_dict", "state_dict_ema"])
def test_checkpoints_of_every_usual_form_load(tmp_path, wrap, prefix):
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


def test_a_head_of_other_classes_is_refused(tmp_path):
    torch.save(model(classes=4).state_dict(), tmp_path / "t.pth")
    with pytest.raises(UserError, match=r"a head for 3 classes, as the data has, .*found one for 4; .*finetune"):
        load_checkpoint(model(), tmp_path / "t.pth")


def test_a_checkpoint_without_a_head_is_refused(tmp_path):
    torch.save(timm_model(classes=0).state_dict(), tmp_path / "t.pth")
    with pytest.raises(UserError, match=r"a head for 3 classes, as the data has, .*, found none; .*finetune"):
        load_checkpoint(model(), tmp_path / "t.pth")


def test_weights_of_another_model_are_named(tmp_path):
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
def test_an_unsafe_file_is_one_sentence(tmp_path, content, source):
    path = tmp_path / "t.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=r"cannot be read safely \(.+\)"):
        options(source, path).start(data())


def test_a_missing_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="found no such file; give the path of a file"):
        load_checkpoint(model(), tmp_path / "none.pth")
