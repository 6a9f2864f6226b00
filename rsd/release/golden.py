"""Golden pairs: inputs, from encoded files to pixels, and the outputs that a device must give for them."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from rsd.sources.image_file import decode
from rsd.sources.images import ArrayImages, DatasetRecord, ImageFiles, Images

IMAGES = 8
PIXELS = 3  # levels of 255 by which a pixel of a decoded file may differ: JPEG decoders round differently


def write_files(folder: Path, images: Images, record: DatasetRecord) -> tuple[list[str], np.ndarray]:
    """Encode a few images as JPEG and PNG files of several sizes, and serve each as the project does.

    Among them are one as served, larger and smaller ones of other shapes, one that lies on its side by its EXIF
    orientation, a palette, transparency, and a JPEG so large that it may be decoded at a fraction of its size.

    Returns:
        The names, and the pixels that a device must get from them, uint8 `[N, H, W, C]`.
    """
    height, width = record.height, record.width
    on_its_side = Image.Exif()
    on_its_side[ExifTags.Base.Orientation] = 6
    kinds: list[tuple[str, tuple[int, int], dict[str, Any]]] = [
        ("as-served.png", (width, height), {}),
        ("wide.jpg", (3 * width, 2 * height), {"quality": 90}),
        ("on-its-side.jpg", (2 * width + 1, 3 * height + 2), {"quality": 90, "exif": on_its_side}),
        ("small-palette.png", (max(width // 2, 2) + 1, max(height // 2, 2)), {}),
        ("transparent.png", (width + 3, 2 * height), {}),
        ("large.jpg", (5 * width, 4 * height + 3), {"quality": 80}),
    ]
    names, pixels = [], []
    for number, (name, size, settings) in enumerate(kinds):
        array = np.asarray(images[number % len(images) : number % len(images) + 1])[0]
        image = Image.fromarray(array[..., 0] if record.channels == 1 else array)
        image = image.resize(size, Image.Resampling.BICUBIC) if image.size != size else image
        if "palette" in name:
            image = image.convert("RGB").quantize(64)
        elif "transparent" in name:
            image.putalpha(Image.linear_gradient("L").resize(size))
        image.save(folder / name, **settings)
        names.append(name)
        pixels.append(_served(folder / name, record))
    return names, np.stack(pixels)


def _served(path: Path, record: DatasetRecord) -> np.ndarray:
    """What the project serves of one file, uint8 `[H, W, C]`."""
    whole = decode(path)
    if record.kept == "files":
        assert record.crop_share is not None
        sizes = np.array([whole.size[::-1]])
        files = ImageFiles(path.parent, [path.name], sizes, size=record.height, crop_share=record.crop_share)
        return files[:][0]
    array = np.asarray(whole.convert("L") if record.channels == 1 else whole)
    served = ArrayImages(array.reshape(1, *array.shape[:2], record.channels))
    served.side = (record.height, record.width)  # its argument knows squares only
    return served[:][0]
