import os

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from rsd.errors import UserError
from rsd.models import create
from rsd.teacher import TeacherOptions, check_accuracy, load_checkpoint

OPTIONS = TeacherOptions(name="resnet18", args={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}, recipe="any")


def model(classes=3):
    return create(OPTIONS.model, classes=classes, image_shape=(16, 16, 1))


@pytest.mark.parametrize("wrap", ["plain", "safetensors", "state_dict", "model", "ddp", "compiled"])
def test_checkpoints_as_they_are_found_in_the_wild_load(tmp_path, wrap):
    source, target = model(), model()
    state = {k: v.clone() for k, v in source.state_dict().items()}
    path = tmp_path / ("t.safetensors" if wrap == "safetensors" else "t.pth")
    if wrap == "safetensors":
        save_file(state, path)
    else:
        prefix = {"ddp": "module.", "compiled": "_orig_mod."}.get(wrap, "")
        state = {prefix + k: v for k, v in state.items()}
        torch.save({wrap: state} if wrap in ("state_dict", "model") else state, path)
    load_checkpoint(target, path)
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())


def test_a_checkpoint_of_other_classes_is_one_sentence(tmp_path):
    torch.save(model(classes=4).state_dict(), tmp_path / "t.pth")
    with pytest.raises(UserError, match=r"do not fit the teacher: .*fc.bias is \[4\] instead of \[3\]"):
        load_checkpoint(model(), tmp_path / "t.pth")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("/nonexistent/never",)


@pytest.mark.parametrize("content", [b"rubbish", None])
def test_a_file_that_cannot_be_read_safely_is_one_sentence(tmp_path, content):
    path = tmp_path / "t.pth"
    if content is None:
        torch.save({"state_dict": Evil()}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read safely"):
        load_checkpoint(model(), path)


def test_a_missing_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="found no such file; correct teacher.path"):
        load_checkpoint(model(), tmp_path / "none.pth")


def test_a_teacher_below_the_stated_accuracy_stops_the_pipeline():
    check_accuracy(95.0, OPTIONS.model_copy(update={"min_top1": 95.0}))
    with pytest.raises(UserError, match=r"at least 95.10 % validation top-1, found 95.00 %"):
        check_accuracy(95.0, OPTIONS.model_copy(update={"min_top1": 95.1}))


@pytest.mark.parametrize("broken", [{"source": "file"}, {"source": "pretrain"}])
def test_a_source_without_what_it_needs_is_refused(broken):
    with pytest.raises(ValidationError, match="found none"):
        TeacherOptions(name="resnet18", **broken)
