import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rsd.sources.images import ArrayImages, ImageFiles
from rsd.views.augment import AugmentOptions, views
from rsd.views.crop import CropOptions, crop_boxes, crops, drawn_boxes
from rsd.views.draws import uniform

IMAGES = np.random.default_rng(0).integers(1, 256, (40, 12, 10, 3), dtype=np.uint8)
EVERY, UPRIGHT = np.arange(40), np.zeros(40, bool)
WHOLE = np.tile([[0.0, 0, 12, 10]], (40, 1))


def tries(count, view=0):
    return uniform(0, np.arange(count), view, range(8, 48)).reshape(count, 10, 4)


def test_crops_cover_the_allowed_areas_and_ratios():
    boxes, fitting = crop_boxes(np.tile([[120, 200]], (3000, 1)), tries(3000), CropOptions())
    assert fitting.mean() > 0.99
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 120 + 1e-9).all()
    assert (left + width <= 200 + 1e-9).all()
    area = height * width / (120 * 200)
    assert 0.08 <= area.min() < 0.1
    assert area.max() > 0.7
    ratio = width / height
    assert ratio.min() >= 0.75 - 1e-9
    assert ratio.max() <= 4 / 3 + 1e-9
    assert np.histogram(np.log(ratio), bins=5)[0].min() > 400


def test_a_crop_that_never_fits_is_central():
    boxes, fitting = crop_boxes(np.array([[10, 100]]), np.full((1, 10, 4), 0.999), CropOptions())
    assert not fitting
    assert np.allclose(boxes, [[0, 50 - 20 / 3, 10, 40 / 3]])


def test_tries_one_by_one_or_together_agree():
    sizes = np.tile([[60, 200]], (500, 1))
    alone = crop_boxes(sizes, tries(500, view=3)[:, :1], CropOptions())[1]
    assert 0.05 < (~alone).mean() < 0.95  # some need another try
    drawn = drawn_boxes(sizes, CropOptions(), seed=0, index=np.arange(500), view=np.full(500, 3))
    assert np.array_equal(drawn, crop_boxes(sizes, tries(500, view=3), CropOptions())[0])


def test_a_half_crop_shows_each_pixel_twice():
    assert np.array_equal(crops(ArrayImages(IMAGES), EVERY, WHOLE, UPRIGHT), IMAGES)
    constant = ArrayImages(np.broadcast_to(IMAGES[:, :1, :1], IMAGES.shape), 24)
    expected = np.broadcast_to(IMAGES[:, :1, :1], (40, 24, 24, 3))
    assert np.array_equal(crops(constant, EVERY, WHOLE / 2, UPRIGHT), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_is_bilinear_between_pixels(channels):
    """Beside the same in floats, pixel by pixel: within the two roundings to whole numbers and that of the weights."""
    images = np.ascontiguousarray(IMAGES[..., :channels])
    boxes = drawn_boxes(np.tile([[12, 10]], (40, 1)), CropOptions(), seed=1, index=EVERY, view=EVERY)
    mirrored = EVERY % 2 == 1
    served = crops(ArrayImages(images), EVERY, boxes, mirrored)
    assert served.shape == images.shape
    for image, (top, left, height, width), flip, crop in zip(images, boxes, mirrored, served, strict=True):
        expected = np.empty(image.shape)
        for y in range(12):
            for x in range(10):
                down = np.clip(top + (y + 0.5) / 12 * height - 0.5, 0, 11)
                right = np.clip(left + (x + 0.5) / 10 * width - 0.5, 0, 9)
                row, column = int(down), int(right)
                below, beside = min(row + 1, 11), min(column + 1, 9)
                a, b = down - row, right - column
                expected[y, x] = (1 - a) * ((1 - b) * image[row, column] + b * image[row, beside]) + a * (
                    (1 - b) * image[below, column] + b * image[below, beside]
                )
        difference = np.abs((expected[:, ::-1] if flip else expected) - crop)
        assert difference.max() < 2.1
        assert difference.mean() < 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_a_shrunk_crop_agrees_with_pillow(channels):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (6, 90, 70, channels), dtype=np.uint8)
    boxes = np.array(
        [[0, 0, 90, 70], [3, 5, 40, 60], [10, 20, 20, 20], [50, 30, 12, 15], [89, 69, 1, 1], [0, 9, 30, 30]]
    )
    mirrored = np.arange(6) % 2 == 1
    served = crops(ArrayImages(images, 30), np.arange(6), boxes.astype(float), mirrored)
    for image, (top, left, height, width), flip, crop in zip(images, boxes, mirrored, served, strict=True):
        pixels = image[top : top + height, left : left + width]
        pillow = Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels).resize(
            (30, 30), Image.Resampling.BICUBIC
        )
        expected = np.asarray(pillow, np.int64).reshape(30, 30, channels)
        difference = np.abs((expected[:, ::-1] if flip else expected) - crop)
        assert difference.max() <= 3
        assert (difference > 0).mean() < 0.02


def test_a_flip_is_that_of_the_same_crop(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    files = ImageFiles(tmp_path, ["a.png"] * 30, np.tile([[50, 70]], (30, 1)), size=16, crop_share=1.0)
    for images in (files, IMAGES[:30]):
        plain, turned = (
            views(images, np.arange(30), AugmentOptions(crop=CropOptions(), flip=flip), seed=0, view=0)
            for flip in (False, True)
        )
        flips = [np.array_equal(one, other[:, ::-1]) for one, other in zip(plain, turned, strict=True)]
        same = [np.array_equal(one, other) for one, other in zip(plain, turned, strict=True)]
        assert 5 < sum(flips) < 25
        assert np.array_equal(np.logical_not(flips), same)


def digest():
    """Of enlarged and shrunk crops."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 90, 70, 3), dtype=np.uint8)
    boxes = drawn_boxes(
        np.tile([[90, 70]], (20, 1)), CropOptions(), seed=0, index=np.arange(20), view=np.zeros(20, int)
    )
    served = crops(ArrayImages(pixels, 40), np.arange(20), boxes, np.arange(20) % 2 == 1)
    return hashlib.sha256(served.tobytes()).hexdigest()


@pytest.mark.slow
def test_pixels_do_not_depend_on_vector_instructions():
    program = f"from {__name__} import digest; print(digest())"
    plain = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    assert subprocess.check_output([sys.executable, "-c", program], env=plain, text=True).strip() == digest()
