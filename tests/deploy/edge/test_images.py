"""A device sees of an image file what the project serves of it."""

import io
import json
import random

import numpy as np
import pytest
from PIL import Image
from rsd_edge.errors import EdgeError
from rsd_edge.images import FORMATS, MAX_PIXELS, Preprocessing, decode, preprocess

from rsd.machine.errors import UserError
from rsd.release.golden import _served, write_files
from rsd.sources import image_file
from tests.bundles import dataset

WHOLE = Preprocessing(6, 5, 3, "bilinear", None)


def encoded(image: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(6, 5, 3), (8, 8, 1), (32, 32, 3), (7, 7, 3)])
@pytest.mark.parametrize("crop_share", [None, 0.875, 1.0])
def test_every_golden_file_gives_the_projects_pixels_exactly(tmp_path, shape, crop_share):
    if crop_share is not None and (shape[0] != shape[1] or shape[2] == 1):
        pytest.skip("files are served square and in colour")
    record = dataset(shape, crop_share)
    images = np.random.default_rng(0).integers(0, 256, (4, *shape), np.uint8)
    names, pixels = write_files(tmp_path, images, record)
    wanted = Preprocessing.from_json(record.preprocessing.model_dump_json().encode())
    for name, expected in zip(names, pixels, strict=True):
        assert np.array_equal(preprocess(decode((tmp_path / name).read_bytes(), wanted), wanted), expected), name


@pytest.mark.parametrize("crop_share", [None, 0.875])
def test_every_photograph_gives_the_project_s_pixels(tmp_path, crop_share):
    source = np.random.default_rng(0)
    record = dataset((24, 24, 3), crop_share)
    wanted = Preprocessing.from_json(record.preprocessing.model_dump_json().encode())
    for number in range(60):
        height, width = source.integers(2, 200, 2)
        image = Image.fromarray(source.integers(0, 256, (height // 2 + 1, width // 2 + 1, 3), np.uint8))
        image = image.resize((int(width), int(height)), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[0x0112] = int(source.integers(0, 10))
        mode = ["RGB", "L", "P", "RGBA", "LA", "1"][number % 6]
        kinds = [kind for kind in FORMATS if kind != "JPEG" or mode in ("RGB", "L")]
        kind = kinds[number // 6 % len(kinds)]
        if kind == "BMP" and mode == "LA":
            continue
        path = tmp_path / f"{number}.{kind.lower()}"
        path.write_bytes(encoded(image.convert(mode), kind, exif=exif))
        pixels = preprocess(decode(path.read_bytes(), wanted), wanted)
        assert np.array_equal(pixels, _served(path, record)), (number, mode, height, width)


def test_without_resizing_pixels_stay_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    assert np.array_equal(preprocess(decode(encoded(Image.fromarray(pixels)), WHOLE), WHOLE), pixels)


def test_device_and_project_take_the_same_formats():
    assert FORMATS == image_file.FORMATS


REFUSED = {
    "a deep TIFF": (encoded(Image.new("I;16", (8, 8)), "TIFF"), "expected RGB or grey of 8 bits"),
    "a TIFF for print": (encoded(Image.new("CMYK", (8, 8)), "TIFF"), "expected RGB or grey of 8 bits, found CMYK"),
    "a truncated TIFF": (encoded(Image.effect_noise((64, 64), 50), "TIFF")[:-500], "expected a"),
    "a truncated BMP": (encoded(Image.effect_noise((64, 64), 50), "BMP")[:-500], "truncated or damaged"),
    "a moving WebP": (
        encoded(Image.new("L", (8, 8)), "WEBP", save_all=True, append_images=[Image.new("L", (8, 8), 9)]),
        "found an animation",
    ),
    "nothing": (b"", "expected a JPEG, PNG, WebP, BMP or TIFF image"),
    "text": (b"hello", "expected a JPEG, PNG, WebP, BMP or TIFF image"),
    "another format": (encoded(Image.new("RGB", (8, 8)), "GIF"), "expected a JPEG, PNG, WebP, BMP or TIFF image"),
    "a truncated PNG": (encoded(Image.effect_noise((64, 64), 50))[:-500], "truncated or damaged"),
    "a truncated JPEG": (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:-500], "truncated or damaged"),
    "16 bits": (encoded(Image.new("I;16", (8, 8))), "expected RGB or grey of 8 bits"),
    "CMYK": (encoded(Image.new("CMYK", (8, 8)), "JPEG"), "expected RGB or grey of 8 bits, found CMYK"),
    "one pixel": (encoded(Image.new("RGB", (1, 8))), "expected at least 2 pixels on a side, found 1 x 8"),
    "too many pixels": (encoded(Image.new("1", (MAX_PIXELS // 1000, 1001))), "expected at most 67108864 pixels"),
    "an animation": (
        encoded(Image.new("L", (8, 8)), save_all=True, append_images=[Image.new("L", (8, 8), 9)]),
        "found an animation",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FORMATS)
def test_device_and_project_judge_damaged_files_alike(tmp_path, kind):
    """And neither raises anything but its own error."""
    chance = random.Random(0)
    whole = encoded(Image.effect_noise((40, 30), 90).convert("RGB"), kind)
    path = tmp_path / "image"
    record = Preprocessing(30, 40, 3, "bilinear", None)
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(chance.choice([1, 3, 20])):
            content[chance.randrange(min(len(content), chance.choice([200, 1 << 20])))] = chance.randrange(256)
        path.write_bytes(content)
        try:
            expected: Image.Image | None = image_file.decode(path)
        except UserError:
            expected = None
        try:
            image: Image.Image | None = decode(bytes(content), record)
        except EdgeError:
            image = None
        assert (image is None) == (expected is None)
        assert image is None or np.array_equal(np.asarray(image), np.asarray(expected))


@pytest.mark.parametrize("kind", REFUSED)
def test_unusable_images_are_refused_in_a_sentence(kind):
    content, sentence = REFUSED[kind]
    with pytest.raises(EdgeError, match=sentence):
        decode(content, WHOLE)


@pytest.mark.parametrize(
    "change",
    [{"height": 0}, {"width": "5"}, {"channels": 4}, {"resize": "lanczos"}, {"crop_share": 2}, {"crop_share": ...}],
)
def test_an_unknown_preprocessing_is_refused(change):
    values = dataset().preprocessing.model_dump() | change
    with pytest.raises(EdgeError, match="install a newer rsd-edge"):
        Preprocessing.from_json(
            json.dumps({name: value for name, value in values.items() if value is not ...}).encode()
        )
