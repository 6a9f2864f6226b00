"""The classes that a trained model gives to image files; `rsd predict`."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from rsd.machine.errors import UserError
from rsd.models.folder import ModelConfig, load_trained
from rsd.models.predict import predict
from rsd.sources.image_file import BadImageError, decode, inspect
from rsd.sources.images import ArrayImages, ImageFiles, Images

BEST = 3


def classify(folder: Path, paths: Iterable[Path]) -> Iterator[tuple[Path, list[tuple[str, float]]]]:
    """Each path with its most likely classes and their probabilities, the most likely first.

    Args:
        folder: a trained model; see `load_trained`.

    Raises:
        UserError: the folder holds no such model, or a file is not a usable image.
    """
    model, normalize, config = load_trained(folder)
    names = config.label_names or [str(number) for number in range(config.num_classes)]
    for path in paths:
        (probability,) = predict(model, normalize, _served(path, config), batch_size=1).logits.softmax(dim=1)
        values, numbers = (column.tolist() for column in probability.topk(min(BEST, len(names))))
        yield path, [(names[number], value) for number, value in zip(numbers, values, strict=True)]


def _served(path: Path, config: ModelConfig) -> Images:
    """An image file as evaluation serves it, at the size and with the channels that the model takes."""
    height, _, channels = config.image_shape
    try:
        size = inspect(path, served=height).size
    except BadImageError as error:
        raise UserError(f"expected a usable image in {path}, found: {error}; give another file") from error
    if config.crop_mode == "center" and channels == 3:
        share = min(config.crop_pct, 1.0)
        return ImageFiles(path.parent, [path.name], np.array([size]), size=height, crop_share=share)
    pixels = np.asarray(decode(path).convert("RGB" if channels == 3 else "L"))
    return ArrayImages(pixels.reshape(1, *size, channels), height)
