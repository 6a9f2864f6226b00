"""A linear classifier on the embeddings of labelled images, and plain checks beside it."""

import warnings
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

from rsd.machine.errors import UserError
from rsd.machine.extras import needs
from rsd.machine.progress import progress
from rsd.models.pixels import PixelNormalize
from rsd.sources.images import LabelledImages
from rsd.sources.labels import hide_labels

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

Selection = Literal["validation", "cross_validation"]

REGULARISATIONS = tuple(10.0**power for power in range(-4, 4))
"""scikit-learn's C, the inverse strength; of two that are equally good the smaller one is taken."""
FOLDS = 5
NEIGHBOURS = 20  # the most that kNN asks, as in DINO's evaluation


PIXEL_SIDE = 16  # side of the images that the classifier on pixels gets
MOST_PIXEL_IMAGES = 5000  # labelled images that it is fitted to


class Examples(NamedTuple):
    """Embeddings `[N, D]` and labels int64 `[N]`, each at least 0."""

    embedding: np.ndarray
    label: np.ndarray


class Probe(NamedTuple):
    """A linear classifier: logits are `embedding @ weight.T + bias`."""

    weight: np.ndarray
    """Float64 `[classes, D]`."""
    bias: np.ndarray
    """Float64 `[classes]`."""
    regularisation: float
    """The C that was chosen."""
    chosen_on: int
    """Labels that this choice used."""

    def logits(self, embedding: np.ndarray) -> np.ndarray:
        return embedding @ self.weight.T + self.bias


def fit_probe(
    train: Examples, validation: Examples, *, select: Selection, seed: int, name: str = "probe", classes: list[str]
) -> Probe:
    """Fit a logistic regression to `train`, with the regularisation of the least cross-entropy.

    Embeddings are centred and divided by one number, the root of their mean variance, so that the range of C suits
    any model. Both are folded into weight and bias. Dimensions are not scaled one by one: with few images one that is
    almost constant in them would outweigh the others everywhere else. (Digits, 20 labels, an EfficientNet of ImageNet,
    three draws: 65.9 % against 52.8 %.)

    Args:
        select: what that cross-entropy is taken on: `validation`, or parts of `train` left out in turn.
        seed: of these parts.
        name: of the progress bar.

    Raises:
        UserError: a class has no image in `train`, or `select` is cross_validation and no class has two.
    """
    needs("data", "sklearn")
    from sklearn.metrics import log_loss

    check_labels(train.label, classes)
    centre = train.embedding.mean(axis=0, dtype=np.float64)
    scale = float(np.sqrt(train.embedding.var(axis=0, dtype=np.float64).mean())) or 1.0
    inputs, held_out = ((part.embedding.astype(np.float64) - centre) / scale for part in (train, validation))
    if select == "validation":
        rounds = [(Examples(inputs, train.label), Examples(held_out, validation.label))]
    else:
        rounds = _folds(inputs, train.label, seed)
    losses = []
    with progress(total=len(REGULARISATIONS) * len(rounds), name=name, unit="fits") as bar:
        for regularisation in REGULARISATIONS:
            losses.append(0.0)
            for fitted, judged in rounds:
                model = _regression(fitted, regularisation)
                losses[-1] += log_loss(
                    judged.label, model.predict_proba(judged.embedding), labels=model.classes_, normalize=False
                )
                bar.update()
    best = REGULARISATIONS[int(np.argmin(losses))]
    model = _regression(Examples(inputs, train.label), best)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # of two classes: the log-odds of the second
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scale
    return Probe(weight, bias - weight @ centre, best, sum(len(judged.label) for _, judged in rounds))


def knn_top1(train: Examples, validation: Examples) -> tuple[float, int]:
    """Top-1 in per cent of the nearest training images by cosine, and how many of them are asked.

    They are as many as a class has images on average, at most `NEIGHBOURS`; nearer ones weigh more.
    """
    from sklearn.neighbors import KNeighborsClassifier

    neighbours = max(1, min(NEIGHBOURS, len(train.label) // len(np.unique(train.label))))
    model = KNeighborsClassifier(neighbours, metric="cosine", weights="distance").fit(*train)
    return 100 * float(model.score(*validation)), neighbours


def right_by_pixels(train: LabelledImages, validation: LabelledImages, *, select: Selection, seed: int) -> np.ndarray:
    """Which validation images a linear classifier on pixels has right, bool `[N]`; fitted to the same labels.

    It is a cheap estimate of what the plainly trained twin may reach.
    """
    labelled = np.flatnonzero(train.labels >= 0)
    if len(labelled) > (most := max(MOST_PIXEL_IMAGES, len(train.classes))):
        labelled = np.flatnonzero(hide_labels(train.labels, most, train.classes, seed=seed) >= 0)
    shrink = PixelNormalize([0.0], [1.0], size=min(PIXEL_SIDE, *train.images.shape[1:3]))

    def pixels(images: LabelledImages, index: np.ndarray) -> Examples:
        batches = np.split(index, range(1000, len(index), 1000))
        values = [shrink(torch.from_numpy(np.array(images.images[batch]))).flatten(1).numpy() for batch in batches]
        return Examples(np.concatenate(values), images.labels[index])

    known, judged = pixels(train, labelled), pixels(validation, np.arange(len(validation.labels)))
    probe = fit_probe(known, judged, select=select, seed=seed, name="classifier on pixels", classes=train.classes)
    return probe.logits(judged.embedding).argmax(axis=1) == judged.label


def check_labels(label: np.ndarray, classes: list[str]) -> None:
    """UserError for labels that no probe can be fitted to: fewer than there are classes, or none of a class."""
    if len(label) < len(classes):
        raise UserError(
            f"expected at least one labelled training image for each of the {len(classes)} classes, to fit the "
            f"teacher's probe, found {len(label)}; label more images, or raise data.labelled"
        )
    counts = np.bincount(label, minlength=len(classes))
    if empty := [classes[i] for i in np.flatnonzero(counts == 0)]:
        raise UserError(
            f"expected a labelled training image of each class, to fit the teacher's probe, found none of "
            f"{', '.join(map(repr, empty[:5]))}{f' and {len(empty) - 5} more' if len(empty) > 5 else ''}; label one"
        )


def _folds(inputs: np.ndarray, label: np.ndarray, seed: int) -> list[tuple[Examples, Examples]]:
    """What is fitted to and what is left out, in turn; the only image of a class is never left out."""
    from sklearn.model_selection import StratifiedKFold

    counts = np.bincount(label)
    repeated = counts[label] > 1
    if not repeated.any():
        raise UserError(
            "expected two labelled training images of a class, to choose the teacher's regularisation by "
            "cross-validation, found one of each; label more images, or set teacher.select to validation"
        )
    several, single = np.flatnonzero(repeated), np.flatnonzero(~repeated)
    splits = StratifiedKFold(min(FOLDS, int(counts.max())), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer images than folds is left out in some only
        parts = [(several[fitted], several[left_out]) for fitted, left_out in splits.split(several, label[several])]
    return [
        (
            Examples(inputs[rows := np.concatenate([fitted, single])], label[rows]),
            Examples(inputs[left_out], label[left_out]),
        )
        for fitted, left_out in parts
    ]


def _regression(examples: Examples, regularisation: float) -> "LogisticRegression":
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=regularisation, max_iter=2000).fit(*examples)
