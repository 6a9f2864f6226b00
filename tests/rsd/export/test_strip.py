from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from torch import nn

from rsd.export.ladder import Ladder
from rsd.export.parity import MaxDifference
from rsd.export.strip import AsTrained, judge_stripped
from rsd.machine.errors import UserError
from rsd.machine.files import write_json
from rsd.methods import distiller
from rsd.methods.base import Setting
from rsd.models.features import stage_shapes
from rsd.models.folder import save_trained
from rsd.models.make import ModelOptions, create
from rsd.models.pixels import PixelNormalize
from rsd.models.predict import predict
from rsd.run.paths import Run
from rsd.run.records import Section, StudentRecord
from rsd.sources.images import LabelledImages
from tests.rsd.export.conftest import MEAN, STD, lively
from tests.rsd.models.small import dataset
from tests.rsd.run import small

VIT: dict[str, Any] = {
    "name": "vit_tiny_patch16_224",
    "args": {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2},
}
RESNET: dict[str, Any] = {"name": "resnet18", "args": {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]}}
EXACT = MaxDifference("stripped", 0.0)
DATA = dataset(classes=10)


def trained(
    folder: Path, method: str, student: nn.Module | None = None, shape: tuple[int, int, int] = (16, 16, 1)
) -> tuple[StudentRecord, Path]:
    """What `distill` and `teacher` would have written for this method, untrained.

    Args:
        student: of ten classes; None: a small ViT.
        shape: of the images, `(H, W, C)`.
    """
    run = Run(folder)
    kind = distiller(method)
    options = kind.Options().model_dump()
    write_json(run.params / "method" / f"{method}.json", options)
    record = small.student(run, method, "s").model_copy(update={"options": Section(options)})
    run.write(record)
    student = student or lively(create(ModelOptions(**VIT), classes=10, image_shape=shape))
    teacher = lively(create(ModelOptions(**RESNET), classes=10, image_shape=shape))
    data = dataset(shape[0], shape[2], classes=10)
    for model, place in ((student, record.folder), (teacher, run.teacher_folder)):
        save_trained(place, model, model.state_dict(), data, mean=MEAN * shape[2], std=STD * shape[2])
    shapes = stage_shapes(teacher, shape) if kind.staged else None
    task = kind(student, Setting(64, shapes, image_shape=shape, image_count=100))
    state = task.get_task_state().get("projection", {})
    save_file(
        {f"projection.{k}": v.clone() for k, v in state.items()}, record.weights.with_name("scaffold.safetensors")
    )
    return record, run.teacher_folder


@pytest.mark.parametrize("method", ["scratch", "rsd", "kd", "cc", "crd", "fitnet", "ofa"])
def test_a_stripped_student_gives_exactly_the_same_logits(tmp_path, images, method):
    student, teacher = trained(tmp_path, method)
    within = AsTrained(student, teacher, image_count=100)
    model = create(ModelOptions(**VIT), classes=10, image_shape=(16, 16, 1)).eval()
    model.load_state_dict(load_file(student.weights))
    split = LabelledImages(images, np.zeros(64, np.int64), DATA.classes)
    normalize = PixelNormalize(MEAN, STD)
    ladder = Ladder(predict(model, normalize, images, batch_size=64).logits.numpy(), split)
    assert judge_stripped(ladder, EXACT, model, normalize, within).max_difference == 0
    assert np.ptp(ladder.expected) > 0.1


def test_a_changed_student_is_refused_with_its_part(tmp_path, images):
    student, teacher = trained(tmp_path, "rsd")
    within = AsTrained(student, teacher, image_count=100)
    model = create(ModelOptions(**VIT), classes=10, image_shape=(16, 16, 1)).eval()
    state = load_file(student.weights)
    state["blocks.2.mlp.fc1.bias"] += 1e-3
    model.load_state_dict(state)
    split = LabelledImages(images, np.zeros(64, np.int64), DATA.classes)
    with pytest.raises(UserError, match=r"^the stripped student differs .* is 'blocks\.2\.mlp\.fc1', whose output"):
        judge_stripped(Ladder(np.zeros((64, 10), np.float32), split), EXACT, model, PixelNormalize(MEAN, STD), within)
