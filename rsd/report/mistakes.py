"""The test images on which the shipped student was most sure of a wrong answer, as pictures."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.special import softmax

from rsd.machine.errors import UserError
from rsd.report.records import Records
from rsd.report.table import method_name
from rsd.run.names import LOGITS
from rsd.run.records import Evaluation
from rsd.sources.images import read_split

MOST = 12
LARGEST_SIDE = 112  # pixels of a picture in the page; a larger image is shrunk
FEW_PIXELS = 64  # a picture of fewer pixels a side is drawn with sharp pixels


@dataclass(frozen=True)
class Answer:
    """Another model's answer for the same image."""

    who: str
    predicted: str
    right: bool


@dataclass(frozen=True)
class Mistake:
    """One image, as the student was served it."""

    number: int
    """Its place in the test split."""
    picture: str
    """A PNG as a `data:` address."""
    coarse: bool
    """Few pixels, to be shown as such."""
    actual: str
    predicted: str
    sure: float
    """Probability of the wrong answer, in per cent."""
    left: float
    """Probability of the true class, in per cent."""
    others: list[Answer]
    """The teacher and the scratch twin of the same seed, where they were evaluated."""


def worst(records: Records, data: Path, *, most: int = MOST) -> list[Mistake]:
    """The surest mistakes of the shipped student on the prepared `data`; UserError without its logits or the images."""
    shipped = records.shipped
    if shipped is None or not records.exports:
        raise UserError("expected an exported student, found none; run `dvc repro convert`")
    path = records.exports[0].folder / LOGITS
    if not path.is_file():
        raise UserError(f"expected the student's logits in {path}, found none; run `dvc repro convert`")
    test = read_split(data, "test")
    logits = np.load(path, mmap_mode="r", allow_pickle=False)
    if logits.shape != (len(test.labels), len(test.classes)):
        raise UserError(
            f"expected logits of {len(test.labels)} images and {len(test.classes)} classes in {path}, found "
            f"{logits.shape}; run `dvc repro` to bring both up to date"
        )
    answers = logits.argmax(1)
    wrong = np.flatnonzero(answers != test.labels)
    shares = softmax(np.asarray(logits[wrong], np.float64), axis=1)
    sure = shares[np.arange(len(wrong)), answers[wrong]]
    mistakes = []
    for place in np.argsort(-sure, kind="stable")[:most]:
        number = int(wrong[place])
        pixels = test.images[np.array([number])][0]
        mistakes.append(
            Mistake(
                number,
                _png(pixels),
                max(pixels.shape[:2]) < FEW_PIXELS,
                test.classes[test.labels[number]],
                test.classes[answers[number]],
                100 * float(sure[place]),
                100 * float(shares[place, test.labels[number]]),
                _others(records, shipped, number, len(test.labels)),
            )
        )
    return mistakes


def _others(records: Records, shipped: Evaluation, number: int, images: int) -> list[Answer]:
    """What the teacher and the shipped student's twin said of test image `number`."""
    if records.confusion is None:
        return []
    answers = []
    for method, name in (("teacher", "teacher"), ("scratch", f"scratch-{shipped.seed}")):
        rows: pd.DataFrame = records.confusion[records.confusion["model"] == name]
        if len(rows) == images and name != shipped.model:
            row = rows.iloc[number]
            answers.append(Answer(method_name(method), row["predicted"], row["predicted"] == row["actual"]))
    return answers


def _png(pixels: np.ndarray) -> str:
    """An image uint8 `[H, W, C]` as a `data:` address, shrunk to `LARGEST_SIDE`."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
