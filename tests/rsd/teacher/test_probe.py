import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from rsd.machine.errors import UserError
from rsd.sources.images import LabelledImages
from rsd.teacher.probe import REGULARISATIONS, Examples, check_labels, fit_probe, knn_top1, right_by_pixels

CLASSES = ["a", "b", "c"]


def examples(count, *, classes=3, seed=0, noise=2.0):
    """Embeddings about one centre per class, of dimensions of many scales."""
    generator = np.random.default_rng(seed)
    label = np.arange(count) % classes
    centres = np.random.default_rng(7).normal(size=(classes, 6))
    embedding = (centres[label] + noise * generator.normal(size=(count, 6))) * 10.0 ** np.arange(-2, 4) + 5
    return Examples(embedding, label)


def probed(train, validation, *, select="validation", classes=3):
    return fit_probe(train, validation, select=select, seed=0, classes=[*"abcdefgh"[:classes]])


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_gives_scikit_learns_probabilities(classes):
    train, validation = examples(60, classes=classes), examples(40, seed=1, classes=classes)
    probe = probed(train, validation, classes=classes)
    centre, scale = train.embedding.mean(axis=0), np.sqrt(train.embedding.var(axis=0).mean())
    model = LogisticRegression(C=probe.regularisation, max_iter=2000).fit(
        (train.embedding - centre) / scale, train.label
    )
    logits = probe.logits(validation.embedding)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = model.predict_proba((validation.embedding - centre) / scale)
    assert np.allclose(odds / odds.sum(axis=1, keepdims=True), expected, rtol=1e-9, atol=1e-12)


def test_the_head_minimises_the_regularised_cross_entropy():
    train, validation = examples(60), examples(40, seed=1)
    probe = probed(train, validation)
    centre, scale = train.embedding.mean(axis=0), np.sqrt(train.embedding.var(axis=0).mean())
    inputs, weight = (train.embedding - centre) / scale, probe.weight * scale
    logits = inputs @ weight.T + (probe.bias + probe.weight @ centre)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    errors = odds / odds.sum(axis=1, keepdims=True) - np.eye(3)[train.label]
    gradient = weight + probe.regularisation * errors.T @ inputs
    assert np.abs(gradient).max() < 1e-2 * probe.regularisation * np.abs(inputs).sum()
    assert np.abs(errors.sum(axis=0)).max() < 1e-3 * len(errors)


def test_validation_chooses_the_regularisation():
    train, validation = examples(60), examples(40, seed=1)
    centre, scale = train.embedding.mean(axis=0), np.sqrt(train.embedding.var(axis=0).mean())
    losses = [
        log_loss(
            validation.label,
            LogisticRegression(C=strength, max_iter=2000)
            .fit((train.embedding - centre) / scale, train.label)
            .predict_proba((validation.embedding - centre) / scale),
        )
        for strength in REGULARISATIONS
    ]
    probe = probed(train, validation)
    assert probe.regularisation == REGULARISATIONS[int(np.argmin(losses))]
    assert probe.chosen_on == 40


def test_cross_validation_looks_at_no_validation_label():
    train, validation = examples(20), examples(40, seed=1)
    first = probed(train, validation, select="cross_validation")
    other = probed(train, validation._replace(label=validation.label[::-1]), select="cross_validation")
    assert np.array_equal(first.weight, other.weight)
    assert first.chosen_on == 20


def test_an_only_image_is_never_left_out():
    train = examples(9)
    train = Examples(train.embedding[:7], np.array([0, 1, 2, 0, 1, 0, 0]))
    assert probed(train, examples(6, seed=1), select="cross_validation").chosen_on == 6


def test_one_image_a_class_forbids_cross_validation():
    with pytest.raises(UserError, match="found one of each; label more images, or set teacher.select to validation"):
        probed(examples(3), examples(6, seed=1), select="cross_validation")


def test_labels_that_fit_no_probe_are_refused():
    check_labels(np.array([2, 0, 1]), CLASSES)
    with pytest.raises(UserError, match="for each of the 3 classes, .* found 2; label more images, or raise data"):
        check_labels(np.array([0, 1]), CLASSES)
    with pytest.raises(UserError, match="of each class, .* found none of 'b', 'c'; label one"):
        check_labels(np.zeros(5, int), CLASSES)


def test_knn_is_a_vote_by_cosine():
    train, validation = examples(60), examples(40, seed=1)
    top1, neighbours = knn_top1(train, validation)
    assert neighbours == 20
    unit = [part.embedding / np.linalg.norm(part.embedding, axis=1, keepdims=True) for part in (train, validation)]
    distance = 1 - unit[1] @ unit[0].T
    nearest = np.argsort(distance, axis=1)[:, :neighbours]
    votes = np.zeros((40, 3))
    for row, columns in enumerate(nearest):
        np.add.at(votes[row], train.label[columns], 1 / distance[row, columns])
    assert top1 == pytest.approx(100 * (votes.argmax(axis=1) == validation.label).mean())
    assert knn_top1(Examples(train.embedding[:7], train.label[:7]), validation)[1] == 2


def test_pixels_alone_are_judged_by_the_same_labels():
    label = np.arange(40) % 2
    pixels = np.where(label == 1, 200, 50).astype(np.uint8)[:, None, None, None] * np.ones((1, 20, 20, 1), np.uint8)
    validation = LabelledImages(pixels, label, ["dark", "bright"])
    train = validation._replace(labels=np.where(np.arange(40) < 10, label, -1))
    assert right_by_pixels(train, validation, select="validation", seed=0).all()
    wrong = train._replace(labels=np.where(train.labels >= 0, 1 - train.labels, -1))
    assert not right_by_pixels(wrong, validation, select="validation", seed=0).any()
