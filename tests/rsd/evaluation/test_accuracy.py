import numpy as np
import pytest
import torch

from rsd.evaluation.accuracy import CALIBRATION_BINS, calibration, measure, summary
from rsd.run.records import EvaluationRecord

CLASSES = ["a", "b", "c", "d", "e", "f", "g"]


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 7, (300,), generator=generator)
    logits = torch.randn(300, 7, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 7)
    return logits, labels, logits + torch.randn(300, 7, generator=generator)


def expected_calibration_error(logits, labels):
    """Guo et al. 2017, equation 3, in float64."""
    probability = np.exp(logits.double().numpy())
    probability /= probability.sum(1, keepdims=True)
    confidence, correct = probability.max(1), probability.argmax(1) == labels.numpy()
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return sum(
        (bins == b).mean() * abs(correct[bins == b].mean() - confidence[bins == b].mean()) for b in np.unique(bins)
    )


def test_metrics_equal_their_definitions(predictions):
    logits, labels, teacher = predictions
    measured = measure(logits, labels, teacher, CLASSES)
    scores, truth = logits.double().numpy(), labels.numpy()
    ranks = (scores > scores[np.arange(300), truth][:, None]).sum(1)
    log_softmax = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    assert measured.top1 == pytest.approx(100 * (ranks == 0).mean(), abs=1e-4)
    assert measured.top5 == pytest.approx(100 * (ranks < 5).mean(), abs=1e-4)
    assert measured.nll == pytest.approx(-log_softmax[np.arange(300), truth].mean())
    assert measured.ece == pytest.approx(100 * expected_calibration_error(logits, labels), abs=1e-3)
    assert measured.agreement == pytest.approx(100 * (scores.argmax(1) == teacher.numpy().argmax(1)).mean(), abs=1e-4)
    assert measured.per_class["c"] == pytest.approx(100 * (ranks == 0)[truth == 2].mean(), abs=1e-4)
    assert measured.images == 300


def test_top5_of_three_classes_is_everything():
    logits = torch.randn(9, 3)
    assert measure(logits, torch.arange(9) % 3, logits, ["a", "b", "c"]).top5 == 100


def test_the_reliability_diagram_sums_to_the_calibration_error(predictions):
    logits, labels, _ = predictions
    bins = calibration(logits, labels)
    assert bins["count"].sum() == 300
    error = ((bins.accuracy - bins.confidence).abs() * bins["count"]).sum() / 300
    assert error == pytest.approx(expected_calibration_error(logits, labels), abs=1e-9)


def test_the_gain_is_paired_by_seed_with_scratch():
    def record(method, seed, top1):
        figures = dict.fromkeys(("top5", "nll", "ece", "agreement", "embedding_width"), 0) | {"parameters": 5}
        return {"model": method, "method": method, "seed": seed, "top1": top1, "per_class": {}, "images": 1} | figures

    rows = [record("teacher", None, 99), record("scratch", 0, 90), record("scratch", 1, 94), record("rsd", 1, 97)]
    lines = summary(EvaluationRecord.model_validate(rows)).methods
    assert lines["rsd"]["gain_over_scratch"] == 3  # against seed 1, not against the mean of both
    assert lines["scratch"]["top1"] == 92
    assert lines["scratch"]["top1_std"] == pytest.approx(8**0.5)
    assert "gain_over_scratch" not in lines["teacher"]
