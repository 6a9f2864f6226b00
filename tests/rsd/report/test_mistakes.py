import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from rsd.machine.errors import UserError
from rsd.report.mistakes import LARGEST_SIDE, Mistake, worst
from rsd.report.records import read
from rsd.run.paths import Run
from rsd.sources.images import write_index

from .conftest import write


def mistakes(out: Path, **options: int) -> list[Mistake]:
    return worst(read(Run(out)), out / "data", **options)


def picture(one: Mistake) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(one.picture.removeprefix("data:image/png;base64,"))))


def test_mistakes_are_the_most_probable_wrong_answers(out: Path) -> None:
    logits = np.load(out / "convert" / "fp32" / "logits.npy").astype(np.float64)
    labels = np.load(out / "data" / "test" / "labels.npy")
    shares = softmax(logits, axis=1)
    shares[np.arange(len(labels)), labels] = -1  # right answers are no mistakes
    shares[logits.argmax(1) == labels] = -1
    result = mistakes(out, most=4)
    assert [one.number for one in result] == np.argsort(-shares.max(1), kind="stable")[:4].tolist()
    assert [one.sure for one in result] == pytest.approx(100 * np.sort(shares.max(1))[::-1][:4])
    assert [one.actual for one in result] == [str(labels[one.number]) for one in result]


def test_a_picture_shows_the_pixels_the_student_saw(out: Path) -> None:
    one = mistakes(out)[0]
    served = np.load(out / "data" / "test" / "images.npy")[one.number, ..., 0]
    assert np.array_equal(np.asarray(picture(one)), served)
    assert one.coarse


def test_large_images_from_files_are_shrunk(out: Path, tmp_path: Path) -> None:
    labels = np.load(out / "data" / "test" / "labels.npy")
    Image.new("RGB", (300, 260), (200, 30, 60)).save(tmp_path / "red.png")
    count = len(labels)
    sums = write_index(
        out / "data" / "test", ["red.png"] * count, labels, np.array([[260, 300]] * count), np.zeros((count, 32), "u1")
    )
    record = json.loads((out / "data" / "dataset.json").read_text())
    size = {"height": 224, "width": 224, "channels": 3, "mean": [0.5] * 3, "std": [0.3] * 3, "checksums": sums}
    write(out / "data" / "dataset.json", record | size | {"kept": "files", "root": str(tmp_path), "crop_share": 0.9})
    one = mistakes(out)[0]
    assert picture(one).size == (LARGEST_SIDE, LARGEST_SIDE)
    assert picture(one).getpixel((50, 50)) == (200, 30, 60)
    assert not one.coarse


def test_others_answers_are_those_on_the_same_image(out: Path) -> None:
    for one in mistakes(out):
        assert [other.who for other in one.others] == ["teacher", "scratch"]
        for other, model in zip(one.others, ("teacher", "scratch-2"), strict=True):
            line = (out / "evaluate" / "confusion" / f"{model}.csv").read_text().splitlines()[1 + one.number]
            assert line == f"{one.actual},{other.predicted}"
            assert other.right == (one.actual == other.predicted)


def test_logits_of_other_images_are_refused(out: Path) -> None:
    np.save(out / "convert" / "fp32" / "logits.npy", np.zeros((7, 10), np.float32))
    with pytest.raises(UserError, match="expected logits of 360 images and 10 classes"):
        mistakes(out)


def test_a_student_without_a_mistake_has_none(out: Path) -> None:
    np.save(out / "convert" / "fp32" / "logits.npy", np.eye(10)[np.load(out / "data" / "test" / "labels.npy")])
    assert mistakes(out) == []
