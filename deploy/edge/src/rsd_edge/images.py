"""From the bytes of an image file to the pixels that the model takes.

Every step equals the project's own. The golden files of each bundle check this on the device.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from rsd_edge.errors import EdgeError
from rsd_edge.records import MalformedError, load

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""As Pillow calls them; the project takes the same ones."""
_NAMES = "JPEG, PNG, WebP, BMP or TIFF"
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")
MAX_PIXELS = 1 << 26  # 67 million, the limit of the project too
MAX_SIDE = 4096
"""Pixels of the model's input."""
_ORIENTATION = 0x0112
# Undoes each value of EXIF's orientation (CIPA DC-008, "Orientation"); 1 is upright.
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
    """`preprocessing.json` of a bundle, without mean and std, which are inside the model."""

    height: int
    width: int
    channels: Literal[1, 3]
    resize: Literal["bilinear", "bicubic"]
    crop_share: float | None
    """Side of the central square that is cut out, as a share of the shorter side; None keeps the whole image."""

    def __post_init__(self) -> None:
        if not (0 < self.height <= MAX_SIDE and 0 < self.width <= MAX_SIDE):
            raise MalformedError(f"expected sides of 1 to {MAX_SIDE} pixels, found {self.height} x {self.width}")
        if not (self.crop_share is None or 0 < self.crop_share <= 1):
            raise MalformedError(f"expected a crop_share above 0 and up to 1, found {self.crop_share}")

    @classmethod
    def from_json(cls, content: bytes) -> "Preprocessing":
        """EdgeError if a value is missing or unknown to this version."""
        try:
            return load(cls, content)
        except MalformedError as error:
            raise EdgeError(
                f"expected a preprocessing that this rsd-edge knows: {error}; install a newer rsd-edge"
            ) from None

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of the model's input."""
        return self.height, self.width, self.channels

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the part to cut out of an image of this size, in pixels."""
        if self.crop_share is None:
            return 0, 0, width, height
        square = self.crop_share * min(width, height)
        left, top = (width - square) / 2, (height - square) / 2
        return left, top, left + square, top + square


def decode(data: bytes, steps: Preprocessing, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image of a file, upright by its EXIF orientation, RGB or grey as the model needs, over white.

    Of a TIFF file the first page counts. A JPEG file that is much larger than the model's input is decoded at a half, a
    quarter or an eighth of its size.

    Raises:
        EdgeError: the file is of none of `FORMATS`, damaged, CMYK, of 16 bits, animated, or larger than `max_pixels`.
    """
    image = _opened(data, max_pixels)
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # the metadata can be damaged although the image is not
        orientation = 1
    size = image.size[::-1] if orientation in (5, 6, 7, 8) else image.size
    left, top, right, bottom = steps.box(*size)
    if steps.crop_share is not None:  # otherwise the project resizes from the full size
        reduce = min(right - left, bottom - top) / steps.height
        if reduce >= 2:
            image.draft(None, (int(image.width / reduce), int(image.height / reduce)))
    with _whole():
        image.load()
        if image.has_transparency_data:
            with_alpha = image.convert("RGBA")
            image = Image.new("RGB", image.size, "white")
            image.paste(with_alpha, mask=with_alpha)
        image = image.convert("L" if steps.channels == 1 else "RGB")
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    image.info[_ORIGINAL] = size  # `box` counts in pixels of the whole file
    return image


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    """The image with its header checked; the pixels of a JPEG file are not yet decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise EdgeError(f"expected at most {max_pixels} pixels, found more; send a smaller image") from None
    except Exception as error:
        raise EdgeError(f"expected a {_NAMES} image, found something else or a damaged file; convert it") from error
    width, height = image.size
    if width * height > max_pixels:
        raise EdgeError(f"expected at most {max_pixels} pixels, found {width} x {height}; send a smaller image")
    if min(width, height) < 2:
        raise EdgeError(f"expected at least 2 pixels on a side, found {width} x {height}; send a larger image")
    if image.mode not in _MODES or _depth(image, data) > 8:
        raise EdgeError(f"expected RGB or grey of 8 bits, found {image.mode} or 16 bits; convert the image")
    if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
        raise EdgeError("expected one image, found an animation; save one of its frames")
    # A JPEG file may be decoded at a fraction of its size. All others are loaded now: TIFF turns itself upright then,
    # and a fault that PNG meets while it looks for metadata would not show a second time.
    if image.format not in ("JPEG", "MPO"):
        with _whole():
            image.load()
    return image


def _depth(image: Image.Image, data: bytes) -> int:
    """Bits per channel where Pillow would silently cut them to 8."""
    if image.format == "TIFF":
        depths = getattr(image, "tag_v2", {}).get(258)  # BitsPerSample
        return max(depths) if isinstance(depths, tuple) and depths else 1
    return data[24] if image.format == "PNG" else 8  # the 25th byte of every PNG file


@contextmanager
def _whole() -> Iterator[None]:
    """An error in this block means that the file is damaged."""
    try:
        yield
    except Exception as error:  # damaged files raise many classes
        raise EdgeError(f"expected a whole image, found it truncated or damaged ({error}); send it again") from error


def preprocess(image: Image.Image, steps: Preprocessing) -> np.ndarray:
    """The part of an image that the model takes, at the model's size: uint8 `[H, W, C]`."""
    image = image.convert("L" if steps.channels == 1 else "RGB")
    side = (steps.width, steps.height)
    if steps.crop_share is not None or image.size != side:
        original = image.info.get(_ORIGINAL, image.size)
        right, down = image.width / original[0], image.height / original[1]
        box = steps.box(*original)
        box = (box[0] * right, box[1] * down, min(box[2] * right, image.width), min(box[3] * down, image.height))
        image = image.resize(side, _RESAMPLING[steps.resize], box=box)
    return np.asarray(image, np.uint8).reshape(steps.shape)
