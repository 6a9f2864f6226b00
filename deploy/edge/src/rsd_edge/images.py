"""From the bytes of a JPEG or PNG file to the pixels that the model was tested with.

Step by step what the project does when it serves an image: golden files in every bundle hold the two together.
"""

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from rsd_edge.errors import EdgeError

MAX_PIXELS = 1 << 26  # 67 million, as the project takes
_ORIENTATION = 0x0112
# What undoes each value of EXIF's orientation (CIPA DC-008, "Orientation"); 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_ORIGINAL = "rsd_original_size"


@dataclass(frozen=True)
class Preprocessing:
    """`preprocessing.json` of a bundle, but for mean and std, which are inside the model."""

    height: int
    width: int
    channels: int
    resize: Literal["bilinear", "bicubic"]
    crop_share: float | None
    """The central square, as a share of the shorter side, that is taken; None takes the whole image."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocessing":
        """Raises EdgeError if a value is missing or is none that this package knows."""
        try:
            made = cls(*(values[name] for name in ("height", "width", "channels", "resize", "crop_share")))
            known = made.resize in _RESAMPLING and made.channels in (1, 3)
            sides = all(isinstance(side, int) and 0 < side <= 4096 for side in (made.height, made.width))
            if not (known and sides and (made.crop_share is None or 0 < made.crop_share <= 1)):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise EdgeError(
                f"expected a preprocessing that this rsd-edge knows, found {values}; install a newer rsd-edge"
            ) from None
        return made

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the part of an image of this size that is taken."""
        if self.crop_share is None:
            return 0, 0, width, height
        square = self.crop_share * min(width, height)
        left, top = (width - square) / 2, (height - square) / 2
        return left, top, left + square, top + square


def decode(data: bytes, wanted: Preprocessing, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image of a JPEG or PNG file, upright by its EXIF orientation, RGB or grey as the model needs, over white.

    A JPEG file that is much larger than what the model takes is decoded at a half, a quarter or an eighth of its size.

    Raises:
        EdgeError: it is no such file, damaged, of CMYK or 16 bits, animated, or of more than `max_pixels` pixels.
    """
    try:
        image = _opened(data, max_pixels)
        orientation = image.getexif().get(_ORIENTATION, 1)
    except EdgeError:
        raise
    except Exception:  # metadata can be damaged where the image is fine
        orientation = 1
    size = image.size[::-1] if orientation in (5, 6, 7, 8) else image.size
    left, top, right, bottom = wanted.box(*size)
    if wanted.crop_share is not None:  # where the project reads files; arrays are resized from their full size
        reduce = min(right - left, bottom - top) / wanted.height
        if reduce >= 2:
            image.draft(None, (int(image.width / reduce), int(image.height / reduce)))
    try:
        image.load()
        if image.has_transparency_data:
            with_alpha = image.convert("RGBA")
            image = Image.new("RGB", image.size, "white")
            image.paste(with_alpha, mask=with_alpha)
        image = image.convert("L" if wanted.channels == 1 else "RGB")
    except Exception as error:  # a damaged file can run into anything
        raise EdgeError(f"expected a whole image, found it truncated or damaged ({error}); send it again") from error
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    image.info[_ORIGINAL] = size  # the part that is taken is measured in the pixels of the whole file
    return image


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    """The image before its pixels are decoded, with everything checked that its header says."""
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    except Image.DecompressionBombError:
        raise EdgeError(f"expected at most {max_pixels} pixels, found more; send a smaller image") from None
    except Exception as error:
        raise EdgeError("expected a JPEG or PNG image, found something else or a damaged one; convert it") from error
    width, height = image.size
    if width * height > max_pixels:
        raise EdgeError(f"expected at most {max_pixels} pixels, found {width} x {height}; send a smaller image")
    if min(width, height) < 2:
        raise EdgeError(f"expected at least 2 pixels on a side, found {width} x {height}; send a larger image")
    # The depth is the 25th byte of every PNG file; Pillow would cut colours of 16 bits to 8 without a word.
    if image.mode == "CMYK" or image.mode.startswith(("I", "F")) or (image.format == "PNG" and data[24] == 16):
        raise EdgeError(f"expected RGB or grey of 8 bits, found {image.mode} or 16 bits; convert the image")
    if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
        raise EdgeError("expected one image, found an animation; save one of its frames")
    return image


def preprocess(image: Image.Image, wanted: Preprocessing) -> np.ndarray:
    """The part of an image that is taken, at the model's size: uint8 `[H, W, C]`."""
    image = image.convert("L" if wanted.channels == 1 else "RGB")
    side = (wanted.width, wanted.height)
    if wanted.crop_share is not None or image.size != side:
        original = image.info.get(_ORIGINAL, image.size)
        right, down = image.width / original[0], image.height / original[1]
        box = wanted.box(*original)
        box = (box[0] * right, box[1] * down, min(box[2] * right, image.width), min(box[3] * down, image.height))
        image = image.resize(side, _RESAMPLING[wanted.resize], box=box)
    return np.asarray(image, np.uint8).reshape(wanted.height, wanted.width, wanted.channels)
