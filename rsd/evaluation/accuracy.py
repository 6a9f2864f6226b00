"""How good a model is on a split: accuracy, calibration, agreement with its teacher."""

from statistics import fmean, stdev

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from rsd.run.records import Accuracy, EvaluationRecord, Summary

CALIBRATION_BINS = 15


def measure(logits: Tensor, labels: Tensor, teacher_logits: Tensor, classes: list[str]) -> Accuracy:
    """Metrics of a model on a split, by its logits `[N, C]`, class indices `[N]` and its teacher's logits `[N, C]`."""
    count = len(classes)
    per_class = multiclass_accuracy(logits, labels, count, average=None)
    return Accuracy(
        top1=_percent(multiclass_accuracy(logits, labels, count, average="micro")),
        top5=_percent(multiclass_accuracy(logits, labels, count, average="micro", top_k=min(5, count))),
        nll=float(torch.nn.functional.cross_entropy(logits.double(), labels)),
        ece=_percent(multiclass_calibration_error(logits.softmax(1), labels, count, CALIBRATION_BINS)),
        agreement=_percent((logits.argmax(1) == teacher_logits.argmax(1)).double().mean()),
        per_class={name: _percent(value) for name, value in zip(classes, per_class, strict=True)},
        images=len(labels),
    )


def calibration(logits: Tensor, labels: Tensor) -> pd.DataFrame:
    """The reliability diagram: columns confidence (mean of the bin), accuracy, count; empty bins left out."""
    confidence, predicted = logits.double().softmax(1).max(1)
    bins = np.minimum((confidence.numpy() * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    frame = pd.DataFrame(
        {"bin": bins, "confidence": confidence.numpy(), "accuracy": (predicted == labels).double().numpy()}
    )
    grouped = frame.groupby("bin").agg(
        confidence=("confidence", "mean"), accuracy=("accuracy", "mean"), count=("accuracy", "size")
    )
    return grouped.reset_index(drop=True)


def summary(record: EvaluationRecord) -> Summary:
    """What `dvc metrics show` prints."""
    lines: dict[str, dict[str, float]] = {}
    for method in record.methods:
        models = record.by_method(method)
        line = {key: fmean(getattr(model, key) for model in models) for key in ("top1", "nll", "ece", "agreement")}
        line["parameters"] = models[0].parameters
        if len(models) > 1:
            line["top1_std"] = stdev(model.top1 for model in models)
        if gains := record.gains(method):
            line["gain_over_scratch"] = fmean(gains.values())
        lines[method] = line
    return Summary(methods=lines)


def _percent(share: Tensor) -> float:
    """In per cent, without the digits that float32 makes up."""
    return round(100 * float(share), 4)
