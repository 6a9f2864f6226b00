"""A finished teacher without a classifier for these classes: a linear probe on its embeddings makes its logits."""

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import nn

from rsd.machine.errors import UserError
from rsd.models.chance import SIGNIFICANCE, at_least
from rsd.models.outputs import embedding_width, outputs
from rsd.models.pixels import PixelNormalize
from rsd.models.predict import predict
from rsd.run.records import ProbeRecord, Validation
from rsd.sources.images import LabelledImages
from rsd.teacher.base import FromWeights, Start
from rsd.teacher.probe import Examples, check_labels, fit_probe, knn_top1, right_by_pixels

BATCH_SIZE = 64  # images per forward pass


class Probe(FromWeights):
    """`teacher.source: probe`; images are prepared as the weights were trained.

    The probe is fitted to the student's training images that have a label, not to those of `data.teacher_share`:
    whoever takes a teacher from elsewhere has no others.
    """

    if_too_weak: ClassVar[str] = "label more images; take a teacher that has learned from such images"
    select: Literal["validation", "cross_validation"] = "validation"
    """What chooses the probe's regularisation: the validation images, or cross-validation on the labelled training
    images."""

    def fit(
        self, start: Start, train: LabelledImages, validation: LabelledImages, *, workers: int
    ) -> tuple[Validation, ProbeRecord]:
        labelled = np.flatnonzero(train.labels >= 0)
        check_labels(train.labels[labelled], train.classes)
        model = start.model.eval()
        normalize = start.preprocessing.module().to(next(model.parameters()).device)
        head = self._head(model, normalize, train)

        def embedded(images: LabelledImages, index: np.ndarray, name: str) -> Examples:
            answers = predict(
                model, normalize, images.images, batch_size=BATCH_SIZE, workers=workers, index=index, name=name
            )
            if not torch.isfinite(answers.embedding).all():
                raise UserError(
                    f"expected finite embeddings of the teacher '{self.name}', found others; check its weights and "
                    "what it is fed"
                )
            return Examples(answers.embedding.numpy(), images.labels[index])

        known = embedded(train, labelled, "embeddings of the labelled images")
        judged = embedded(validation, np.arange(len(validation.labels)), "embeddings of the validation images")
        probe = fit_probe(known, judged, select=self.select, seed=self.seed, classes=train.classes)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(probe.weight))
            head.bias.copy_(torch.from_numpy(probe.bias))
        logits = torch.from_numpy(probe.logits(judged.embedding))
        target = torch.from_numpy(judged.label)
        right = (logits.argmax(dim=1) == target).numpy()
        top1, loss = 100 * float(right.mean()), float(nn.functional.cross_entropy(logits, target))
        knn, neighbours = knn_top1(known, judged)
        by_pixels = right_by_pixels(train, validation, select=self.select, seed=self.seed)
        won, lost = int((right & ~by_pixels).sum()), int((by_pixels & ~right).sum())
        return Validation(top1=top1, loss=loss), ProbeRecord(
            top1=top1,
            images=len(right),
            knn_top1=knn,
            neighbours=neighbours,
            labels=len(labelled),
            regularisation=probe.regularisation,
            select=self.select,
            select_labels=probe.chosen_on,
            pixels_top1=100 * float(by_pixels.mean()),
            beats_pixels=at_least(won, won + lost, 0.5) < SIGNIFICANCE,
        )

    def _head(self, model: nn.Module, normalize: PixelNormalize, images: LabelledImages) -> nn.Linear:
        """The model's classifier, for the probe's weights; UserError unless it is one linear layer on the embedding."""
        head = model.get_classifier()  # type: ignore[operator]
        if isinstance(head, tuple | list):
            raise UserError(
                f"expected a model with one classifier for source 'probe', found {len(head)} in '{self.name}'; take "
                "another model, such as the one without distillation"
            )
        with torch.no_grad():
            if isinstance(head, nn.Linear):  # some models start with zeros, which would prove nothing
                nn.init.normal_(head.weight)
            raw = torch.from_numpy(np.array(images.images[:2])).to(normalize.mean.device)
            answers = outputs(model, normalize(raw))
            linear = (
                isinstance(head, nn.Linear)
                and head.bias is not None
                and answers.embedding.shape[1:] == (head.in_features,) == (embedding_width(model),)
                and torch.allclose(head(answers.embedding), answers.logits, rtol=1e-4, atol=1e-4)
            )
        if not linear:
            raise UserError(
                "expected a model whose classifier is one linear layer on its pooled embedding for source 'probe', "
                f"found other or more layers in '{self.name}'; take another model"
            )
        return head
