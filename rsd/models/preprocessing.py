"""What a model is fed: mean, std and image size, those of its weights where they are stated."""

from pathlib import Path
from typing import NamedTuple

import timm

from rsd.machine.errors import UserError
from rsd.models.folder import Pixels, read_config
from rsd.models.pixels import PixelNormalize
from rsd.run.names import CONFIG
from rsd.sources.images import DatasetRecord


class Preprocessing(NamedTuple):
    """How raw pixels become a model's input."""

    mean: list[float]
    """Per channel, of pixels in [0, 1], as is `std`."""
    std: list[float]
    input_size: int | None = None
    """Side to which images are resized; None takes them as they are served."""
    interpolation: str = "bicubic"
    """How they are resized."""

    def module(self) -> PixelNormalize:
        return PixelNormalize(self.mean, self.std, size=self.input_size, interpolation=self.interpolation)

    def __str__(self) -> str:
        side = self.input_size
        size = f"images resized to {side} x {side} ({self.interpolation})" if side else "images as they are served"
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"{size}, mean {mean}, std {std}"


def pixels_of(name: str, weights: Path | None) -> tuple[Pixels, str]:
    """The pixels that weights were trained for, and who says so.

    They come from the `config.json` beside the weights. Without one they are timm's default for the model; its size
    and licence are those of the hub's weights, so a file then states neither. The crop is for the reader: teacher and
    student see the same view, which `data.crop_share` cuts.

    Args:
        weights: a file; None for the hub's.

    Raises:
        UserError: the `config.json` is damaged.
    """
    if weights and (config := weights.with_name(CONFIG)).is_file():
        pixels, stated_by = read_config(config.parent, Pixels), str(config)
    else:
        pixels = Pixels.model_validate(timm.get_pretrained_cfg(name).to_dict())  # type: ignore[union-attr]
        stated_by = f"timm's description of {name}"
        if weights:
            pixels.input_size = pixels.license = None
            stated_by += f", since no {CONFIG} lies beside {weights}"
    crop = f"; data.crop_share replaces its crop of {pixels.crop_pct:.0%}" if pixels.crop_mode == "center" else ""
    return pixels, stated_by + crop


def check_classes(pixels: Pixels, data: DatasetRecord, weights: Path) -> None:
    """Refuse weights whose `config.json` names other classes than the data, or the same in another order."""
    names = pixels.label_names
    if names is None or names == data.classes:
        return
    if sorted(names) == sorted(data.classes):
        at = next(i for i, (a, b) in enumerate(zip(names, data.classes, strict=True)) if a != b)
        difference = f"the same in another order (class {at} is '{names[at]}' instead of '{data.classes[at]}')"
    else:
        unknown = [name for name in names if name not in data.classes]
        difference = f"{len(names)} classes" + (f", such as {unknown[0]!r}, unknown to it" if unknown else "")
    raise UserError(
        f"expected the data's {len(data.classes)} classes in {weights.with_name(CONFIG)}, found {difference}; "
        "give weights of these classes, train a new head with teacher.source finetune, or correct label_names there"
    )
