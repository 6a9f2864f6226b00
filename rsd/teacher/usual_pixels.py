"""Would a finished teacher do better on other pixels? Weights without a description are often fed the wrong ones."""

import numpy as np
from timm.data import constants
from torch import nn

from rsd.machine.errors import UserError
from rsd.models.chance import at_least, too_weak
from rsd.models.pixels import per_channel
from rsd.models.predict import predict
from rsd.models.preprocessing import Preprocessing
from rsd.sources.images import DatasetRecord, LabelledImages
from rsd.teacher.base import TeacherOptions

MOST_IMAGES = 256  # validation images that each candidate is tried on
LEAST_GAIN = 0.05  # share of these images that another input must win; with fewer images `CERTAIN` asks for more
CERTAIN = 0.001  # probability that equally good inputs differ so much, by a one-sided sign test
USUAL_SIDE = 224
USUAL = (
    (constants.IMAGENET_INCEPTION_MEAN, constants.IMAGENET_INCEPTION_STD),
    (constants.IMAGENET_DEFAULT_MEAN, constants.IMAGENET_DEFAULT_STD),
    (constants.OPENAI_CLIP_MEAN, constants.OPENAI_CLIP_STD),
)


def check_pixels(
    model: nn.Module, fed: Preprocessing, options: TeacherOptions, data: DatasetRecord, validation: LabelledImages
) -> None:
    """Stop if a usual mean and std, or image size, that the params do not rule out serves a finished teacher better.

    Args:
        model: in eval mode, on the device to use.
        fed: what it is to be fed.

    Raises:
        UserError: names the better input, and how to choose it or to keep the present one.
    """
    index = np.random.default_rng(0).permutation(len(validation.labels))[:MOST_IMAGES]
    images, labels = validation.images[index], validation.labels[index]
    device = next(model.parameters()).device

    def right(preprocessing: Preprocessing) -> np.ndarray:
        try:
            logits = predict(model, preprocessing.module().to(device), images, batch_size=64).logits
        except (RuntimeError, AssertionError, ValueError):  # the model takes one size only
            return np.zeros(len(labels), bool)
        return logits.argmax(dim=1).numpy() == labels

    candidates = {}
    if options.mean is None:
        for mean, std in ((data.mean, data.std), *USUAL):
            other = fed._replace(mean=per_channel(mean, data.channels), std=per_channel(std, data.channels))
            candidates[f"teacher.mean {other.mean} and teacher.std {other.std}"] = other
    if options.input_size is None and "img_size" not in options.args:
        for side in sorted({data.height, USUAL_SIDE} - {fed.input_size or data.height}):
            candidates[f"teacher.input_size {side}"] = fed._replace(input_size=side)
    present = right(fed)
    others = {change: right(other) for change, other in candidates.items() if other != fed}
    change, best = max(others.items(), key=lambda other: other[1].sum(), default=("", present))
    won, lost = int((best & ~present).sum()), int((present & ~best).sum())
    clearly = won - lost >= LEAST_GAIN * len(labels) and at_least(won, won + lost, 0.5) < CERTAIN
    if clearly and not too_weak(100 * float(best.mean()), labels, None):
        raise UserError(
            f"expected a teacher that is fed what its weights were trained on, found {100 * present.mean():.1f} % of "
            f"{len(labels)} validation images right with {fed}, and {100 * best.mean():.1f} % with {change}; set that, "
            "or set teacher.mean, teacher.std and teacher.input_size to the present values to keep them"
        )
