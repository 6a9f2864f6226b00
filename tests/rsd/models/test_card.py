"""The model card beside a student, in the hub's format."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from rsd.models.card import student_card
from rsd.models.folder import load_trained, save_trained
from rsd.models.make import create
from rsd.run.paths import Run
from rsd.run.records import Model, Section, StartingWeights, StudentRecord
from rsd.sources.images import ArrayImages
from tests.rsd.models.small import STUDENTS, awake, dataset
from tests.rsd.run import small


def record(method: str = "rsd", model: str = "resnet18") -> StudentRecord:
    return StudentRecord(
        **small.TRAINED | {"model": Model(name=model)},
        method=method,
        seed=3,
        options={"weight": 0.1, "gamma": None},
        recipe={"epochs": 4, "augment": {"flip": True}},
        compute={},
        views=2,
        extra_parameters=7,
        effective_batch_size=4,
        steps=8,
        validation={"top1": 87.654321, "loss": 0.5, "epoch": 1},
        weights_sha256="0",
        made_from={} if method == "scratch" else {"teacher/model.safetensors": "t"},
    )


def test_the_hub_reads_the_card(tmp_path):
    text = str(student_card(record(), small.teacher(), dataset()))
    (tmp_path / "README.md").write_text(text)

    card = ModelCard.load(tmp_path / "README.md")

    assert card.data.library_name == "timm"
    assert card.data.datasets == ["digits"]
    assert card.data.metrics == ["accuracy"]
    assert card.data.tags == ["image-classification", "knowledge-distillation", "rsd"]
    (result,) = card.data.eval_results
    assert (result.dataset_split, result.metric_type, result.metric_value) == ("validation", "accuracy", 0.8765)
    assert str(card) == text


def test_it_names_method_teacher_data_and_figures():
    text = str(student_card(record(), small.teacher(), dataset()))

    for fact in (
        "# rsd-3",
        "validation | 87.65 %",
        "method: `rsd`, weight 0.1\n",
        "teacher: `resnet18`, 10 parameters, validation top-1 99.00 %",
        "8 steps, epochs 4\n",
        "train 20, validation 10, test 5",
        "class 0, class 1.",
    ):
        assert fact in text
    assert not re.search(r"\b20[2-9]\d\b", text), "a date would change the file from day to day"


def test_a_twins_card_claims_no_teacher():
    text = str(student_card(record("scratch"), small.teacher(), dataset()))

    assert "trained without a teacher" in text
    assert "knowledge-distillation" not in text
    assert "99.00" not in text


def test_the_weights_it_started_from_are_named():
    start = StartingWeights(name="weights/mine", sha256="abc", license="mit", new_head=True)
    fine_tuned = record("scratch").model_copy(update={"start": start})
    text = str(student_card(fine_tuned, small.teacher(), dataset()))

    assert "fine-tuned without a teacher" in text
    assert "start: the weights `weights/mine` with a new head; SHA-256 abc; licence mit\n" in text
    fine_tuned.start = start.model_copy(update={"license": None})
    assert "licence unknown\n" in str(student_card(fine_tuned, small.teacher(), dataset()))
    assert "start: random weights\n" in str(student_card(record(), small.teacher(), dataset()))


def test_only_a_best_epoch_was_chosen_by_validation():
    best, last = record(), record().model_copy(update={"recipe": Section({"select": "last"})})
    texts = [str(student_card(one, small.teacher(), dataset())) for one in (best, last)]
    assert ["validation images chose" in text for text in texts] == [True, False]


def test_many_classes_are_counted():
    assert "class 19 and 80 more" in str(student_card(record(), small.teacher(), dataset(classes=100)))


@pytest.mark.parametrize("family", ["cnn", "resmlp"])
def test_the_cards_own_lines_load_the_student(tmp_path, family):
    data, options = dataset(), STUDENTS[family]
    model = awake(create(options, classes=2, image_shape=data.image_shape))
    save_trained(tmp_path, model, model.state_dict(), data, mean=data.mean, std=data.std)
    card = student_card(record(model=options.name), small.teacher(), data)
    code = re.search(r"```python\n(.*?)```", card.text, re.S)
    assert code

    names: dict[str, Any] = {}
    exec(code[1].replace("FOLDER", str(tmp_path)), names)

    assert ("import rsd.models.mlp" in code[1]) is (family == "resmlp")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    served = ArrayImages(pixels[None, ..., None], 16)[:1]
    _, normalize, _ = load_trained(tmp_path)
    expected = normalize(torch.from_numpy(served))
    inputs = names["transform"](Image.fromarray(pixels))[None]
    assert torch.allclose(inputs, expected, atol=1e-6)
    assert torch.equal(names["model"](expected), model(expected))


def test_a_run_writes_the_same_card_twice(tmp_path: Path):
    run = Run(tmp_path)
    run.write(record())
    run.write(small.teacher())

    cards = [str(student_card(run.student("rsd", 3), run.teacher(), dataset())) for _ in range(2)]

    assert cards == [str(student_card(record(), small.teacher(), dataset()))] * 2
