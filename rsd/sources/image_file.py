"""How an image file is checked and opened, everywhere in the project."""

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from rsd.machine.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MOST_PIXELS = 1 << 26  # 67 million; ImageNet's largest has 61
MOST_BYTES = 1 << 28
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""As Pillow calls them. A device takes the same ones."""
_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II*\0", b"MM\0*")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")
# The transposition that turns an image upright, by EXIF's orientation (CIPA DC-008, "Orientation"); 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImageError(Exception):
    """Why a file cannot be used as an image."""


class Inspected(NamedTuple):
    """What `inspect` reads from one image file."""

    size: tuple[int, int]
    """Height and width as shown."""
    digest: bytes
    """SHA-256 of the file."""
    sums: tuple[int, ...]
    """Of the shrunk image: number of pixels; sums of red, green and blue; sums of their squares."""
    pixels: bytes
    """SHA-256 of the image as shown, whatever the file around it; empty if not asked for."""


def decode(path: Path, *, reduce: float = 1.0) -> Image.Image:
    """The image as it is shown: RGB, 8 bits, upright by its EXIF orientation, transparent pixels over white.

    Grey and paletted images become RGB; of a TIFF file the first page counts. CMYK, 16 bits, animations and more than
    67 million pixels are refused, as by `inspect`.

    Args:
        reduce: factor by which the image may be smaller than in the file. A JPEG is then decoded at an eighth, a
            quarter or a half of its size, which takes a fraction of the time.

    Raises:
        UserError: the file is no usable image, or no longer.
    """
    try:
        image = _opened(_content(path))
        if reduce >= 2:
            image.draft(None, (int(image.width / reduce), int(image.height / reduce)))
        return _upright(_rgb(image), _orientation(image))
    except BadImageError as error:
        raise UserError(
            f"expected a usable image in {path}, found: {error}; after images were changed, run "
            "`dvc repro -f -s prepare`"
        ) from error


def inspect(path: Path, *, served: int, pixels: bool = False) -> Inspected:
    """Read the whole image file once.

    Args:
        served: side in pixels at which images are served. The sums are of the image shrunk by a whole factor to no
            less than that side: they describe what is served, and a JPEG is decoded several times as fast.
        pixels: whether to take a digest of the pixels, too, for which a JPEG is decoded once more as a whole.

    Raises:
        BadImageError: the image cannot be used.
    """
    content = _content(path)
    image = _opened(content)
    if image.format == "PNG":
        with _whole():  # decoding checks neither the checksum of every part nor the end
            Image.open(io.BytesIO(content), formats=("PNG",)).verify()
    width, height = image.size
    orientation = _orientation(image)
    image.draft(None, (served, served))  # every byte is still read, so that a truncated file is found
    small = _rgb(image)
    if (factor := min(small.size) // served) > 1:
        small = small.reduce(factor)
    counts = np.array(small.histogram()).reshape(3, 256)
    values = np.arange(256)
    sums = (small.width * small.height, *(counts @ values).tolist(), *(counts @ values**2).tolist())
    size = (width, height) if orientation >= 5 else (height, width)
    shown = _upright(_rgb(_opened(content)), orientation) if pixels else None  # not shrunk: how depends on the format
    of_pixels = hashlib.sha256(repr(shown.size).encode() + shown.tobytes()).digest() if shown else b""
    return Inspected(size, hashlib.sha256(content).digest(), sums, of_pixels)


def _content(path: Path) -> bytes:
    try:
        facts = path.stat()  # before it is opened: opening a pipe would wait for ever
        if not stat.S_ISREG(facts.st_mode):
            raise BadImageError("not a file but a folder, a pipe or a device")
        if not facts.st_size:
            raise BadImageError("empty: 0 bytes")
        if facts.st_size > MOST_BYTES:
            raise BadImageError(f"huge: {facts.st_size} bytes, more than {MOST_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise BadImageError(f"cannot be read: {os.strerror(error.errno) if error.errno else error}") from error


def _opened(content: bytes) -> Image.Image:
    """The image with its header checked; the pixels of a JPEG file are not yet decoded."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadImageError(f"huge: more than {MOST_PIXELS} pixels") from error
    except Exception as error:  # a damaged file can raise anything
        if content.startswith(_STARTS) or content[8:12] == b"WEBP":
            raise BadImageError("truncated or damaged, at its start") from error
        raise BadImageError("not a JPEG, PNG, WebP, BMP or TIFF image, whatever its name") from error
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise BadImageError(f"huge: {width} x {height} pixels, more than {MOST_PIXELS} in all")
    if min(width, height) < 2:
        raise BadImageError(f"tiny: {width} x {height} pixels, fewer than 2 on a side")
    if image.mode == "CMYK":
        raise BadImageError("CMYK: colours for print, without a profile that says how they look; save it as RGB")
    if image.mode.startswith(("I", "F")) or _depth(image, content) > 8:
        raise BadImageError("16 bits per channel; save it with 8")
    if image.mode not in _MODES:
        raise BadImageError(f"colours of the kind {image.mode}; save it as RGB")
    # A JPEG file may hold a second image, for depth or brightness; that is no animation.
    if image.format in ("PNG", "WEBP") and (frames := getattr(image, "n_frames", 1)) > 1:
        raise BadImageError(f"animated: {frames} frames; save one of them")
    # A JPEG file may be decoded at a fraction of its size. All others are loaded now: TIFF turns itself upright then,
    # and a fault that PNG meets while it looks for metadata would not show a second time.
    if image.format not in ("JPEG", "MPO"):
        with _whole():
            image.load()
    return image


def _depth(image: Image.Image, content: bytes) -> int:
    """Bits per channel where Pillow would cut them to 8 without a word."""
    if image.format == "TIFF":
        depths = getattr(image, "tag_v2", {}).get(258)  # BitsPerSample
        return max(depths) if isinstance(depths, tuple) and depths else 1
    return content[24] if image.format == "PNG" else 8  # the 25th byte of every PNG file


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata of an image that is fine
        return 1
    return value if value in _UPRIGHT else 1


@contextmanager
def _whole() -> Iterator[None]:
    """An error in this block means that the file is damaged."""
    try:
        yield
    except MemoryError:  # this machine lacks memory; the image may be fine
        raise
    except Exception as error:  # a damaged file can raise anything
        raise BadImageError(f"truncated or damaged: {error}") from error


def _rgb(image: Image.Image) -> Image.Image:
    with _whole():
        image.load()
        if image.has_transparency_data:
            with_alpha = image.convert("RGBA")
            white = Image.new("RGB", image.size, "white")
            white.paste(with_alpha, mask=with_alpha)
            return white
        return image if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
