import hashlib
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rsd.machine.errors import UserError
from rsd.sources.image_file import FORMATS, BadImageError, decode, inspect


def noise(height=40, width=60, seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def packed(image, kind="PNG", **values):
    buffer = io.BytesIO()
    image.save(buffer, kind, **values)
    return buffer.getvalue()


RGB = Image.fromarray(noise())
FRAMES = {"save_all": True, "append_images": [Image.fromarray(noise(seed=1))]}


def png16(colour):
    """A PNG file of 16 bits per channel by hand: Pillow writes none with colours."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    channels = {0: 1, 2: 3, 6: 4}[colour]
    rows = b"".join(b"\0" + bytes(8 * channels * 2) for _ in range(8))
    header = struct.pack(">IIBBBBB", 8, 8, 16, colour, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def deep_tiff():
    """A TIFF file of 16 bits per channel by hand: Pillow writes none with colours."""
    pixels = bytes(8 * 8 * 6)
    entries = [(256, 8), (257, 8), (259, 1), (262, 2), (273, 8), (277, 3), (278, 8), (279, len(pixels))]
    head = b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels
    place = len(head) + 2 + 12 * (len(entries) + 1) + 4
    rows = [struct.pack("<HHII", 258, 3, 3, place)]  # three depths, behind the entries
    rows += [struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries]
    rows.sort(key=lambda row: struct.unpack("<H", row[:2]))
    return head + struct.pack("<H", len(rows)) + b"".join(rows) + bytes(4) + struct.pack("<HHH", 16, 16, 16)


BAD = {
    "empty": (b"", "empty: 0 bytes"),
    "text": (b"not an image", "not a JPEG, PNG, WebP, BMP or TIFF image, whatever its name"),
    "gif": (packed(RGB, "GIF"), "not a JPEG, PNG, WebP, BMP or TIFF image"),
    "cut jpeg": (packed(RGB, "JPEG")[:-400], "truncated or damaged: .*truncated"),
    "cut png": (packed(RGB)[:-400], "truncated or damaged"),
    "cut bmp": (packed(RGB, "BMP")[:-400], "truncated or damaged"),
    "cut tiff": (packed(RGB, "TIFF")[:-400], "truncated or damaged"),
    "cut packed tiff": (packed(RGB, "TIFF", compression="tiff_lzw")[:-400], "truncated or damaged"),
    "deep tiff": (packed(Image.new("I;16", (8, 8)), "TIFF"), "16 bits per channel; save it with 8"),
    "deep colour tiff": (deep_tiff(), "16 bits per channel; save it with 8"),
    "print tiff": (packed(RGB.convert("CMYK"), "TIFF"), "CMYK: .*; save it as RGB"),
    "lab tiff": (packed(Image.new("LAB", (8, 8)), "TIFF"), "colours of the kind LAB; save it as RGB"),
    "huge tiff": (packed(Image.new("1", (1 << 14, (1 << 12) + 1)), "TIFF"), "huge: 16384 x 4097 pixels"),
    "cut webp": (packed(RGB, "WEBP")[:-400], "truncated or damaged"),
    "cut at its start": (packed(RGB, "JPEG")[:20], "truncated or damaged, at its start"),
    "cmyk": (packed(RGB.convert("CMYK"), "JPEG"), "CMYK: .*; save it as RGB"),
    "16-bit grey": (png16(0), "16 bits per channel; save it with 8"),
    "16-bit rgb": (png16(2), "16 bits per channel; save it with 8"),
    "16-bit rgba": (png16(6), "16 bits per channel; save it with 8"),
    "animated png": (packed(RGB, **FRAMES), "animated: 2 frames"),
    "animated webp": (packed(RGB, "WEBP", **FRAMES), "animated: 2 frames"),
    "huge": (packed(Image.new("1", (1 << 14, (1 << 12) + 1))), r"huge: 16384 x 4097 pixels, more than 67108864 in all"),
    "bomb": (packed(Image.new("1", (1 << 14, 1 << 14))), "huge: more than 67108864 pixels"),
    "one pixel high": (packed(Image.new("RGB", (30, 1))), "tiny: 30 x 1 pixels"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore:Corrupt EXIF")
@pytest.mark.parametrize("name", BAD)
def test_an_unusable_image_is_refused_with_its_reason(tmp_path, name):
    content, sentence = BAD[name]
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    with pytest.raises(BadImageError, match=sentence):
        inspect(path, served=8)
    with pytest.raises(UserError, match=f"expected a usable image in .*, found: {sentence}"):
        decode(path)


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(1 << 40)
    for name, sentence in {
        "pipe": "not a file but",
        "loop": "cannot be read: Too many levels of symbolic links",
        "broken": "cannot be read: No such file",
        "huge": "huge: 1099511627776 bytes",
    }.items():
        with pytest.raises(BadImageError, match=sentence):
            inspect(tmp_path / f"{name}.jpg", served=8)


def test_a_file_without_permission_is_refused(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").write_bytes(packed(RGB))
    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)  # root may read everything
    with pytest.raises(BadImageError, match="cannot be read: Permission denied"):
        inspect(tmp_path / "a.png", served=8)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "RGBA", "LA"])
def test_every_other_kind_becomes_rgb(tmp_path, kind, mode):
    if kind == "JPEG" and mode in ("P", "RGBA", "LA"):
        return  # there are no such files
    if kind == "BMP" and mode == "LA":
        return
    path = tmp_path / "image"
    path.write_bytes(packed(RGB.convert(mode), kind))
    image = decode(path)
    assert (image.mode, image.size) == ("RGB", (60, 40))
    assert inspect(path, served=8).size == (40, 60)


def test_pixels_are_those_of_the_file(tmp_path):
    (tmp_path / "image.jpg").write_bytes(packed(RGB))  # a PNG file, whatever its name says
    assert np.array_equal(np.asarray(decode(tmp_path / "image.jpg")), noise())


def test_what_is_transparent_is_white(tmp_path):
    pixels = noise(channels=4)
    pixels[..., 3] = np.where(np.arange(60) < 30, 255, 0)
    wanted = np.where(np.arange(60)[:, None] < 30, pixels[..., :3], 255)
    (tmp_path / "a.png").write_bytes(packed(Image.fromarray(pixels)))
    assert np.array_equal(np.asarray(decode(tmp_path / "a.png")), wanted)
    palette = Image.fromarray(np.arange(60, dtype=np.uint8)[None].repeat(40, 0)).convert("P")
    (tmp_path / "p.png").write_bytes(packed(palette, transparency=7))
    assert np.asarray(decode(tmp_path / "p.png"))[0, 6:9].tolist() == [[6] * 3, [255] * 3, [8] * 3]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", FORMATS)
def test_images_are_upright_and_sized_as_shown(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "BMP":
        return  # there is no such metadata
    values = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    path = tmp_path / "image"
    path.write_bytes(packed(RGB, kind, exif=exif, **values))
    image = np.asarray(decode(path)).astype(int)
    # What the standard says the stored first row and first column are, seen upright.
    first_row = {1: image[0], 2: image[0, ::-1], 3: image[-1, ::-1], 4: image[-1], 5: image[:, 0], 6: image[:, -1]}
    first_row |= {7: image[::-1, -1], 8: image[::-1, 0]}
    stored = np.asarray(Image.open(io.BytesIO(packed(RGB, kind, **values))).convert("RGB")).astype(int)
    assert np.array_equal(first_row[orientation], stored[0])
    assert inspect(path, served=8).size == image.shape[:2] == ((60, 40) if orientation > 4 else (40, 60))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_damaged_metadata_does_not_matter(tmp_path, exif):
    path = tmp_path / "image.jpg"
    path.write_bytes(packed(RGB, "JPEG", exif=exif))
    assert decode(path).size == (60, 40)
    assert inspect(path, served=8).size == (40, 60)


def test_a_jpeg_with_two_images_is_accepted(tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(packed(RGB, "MPO", **FRAMES))
    first = np.asarray(Image.open(io.BytesIO(packed(RGB, "JPEG"))))
    assert np.array_equal(np.asarray(decode(path)), first)
    assert inspect(path, served=8).size == (40, 60)


def test_a_png_of_damaged_pixels_is_refused(tmp_path):
    """Its checksums hold, its compressed pixels do not."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    pixels = bytearray(zlib.compress(noise().tobytes()))
    pixels[40] ^= 255
    header = struct.pack(">IIBBBBB", 60, 40, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bytes(pixels)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BadImageError, match="truncated or damaged"):
        inspect(tmp_path / "a.png", served=8)


def test_a_tiff_counts_by_its_first_page(tmp_path):
    path = tmp_path / "image.tif"
    pages = [Image.fromarray(noise(seed=1))]
    path.write_bytes(packed(Image.fromarray(noise()), "TIFF", save_all=True, append_images=pages))
    assert np.array_equal(np.asarray(decode(path)), noise())
    assert inspect(path, served=8).size == (40, 60)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_sums_of_a_small_image_are_exact(tmp_path, kind):
    content = packed(RGB, kind)
    (tmp_path / "image").write_bytes(content)
    inspected = inspect(tmp_path / "image", served=40)
    pixels = np.asarray(decode(tmp_path / "image")).astype(int)
    assert inspected.sums == (2400, *pixels.sum((0, 1)), *(pixels**2).sum((0, 1)))
    assert inspected.digest == hashlib.sha256(content).digest()


@pytest.mark.parametrize("kind", FORMATS)
def test_sums_of_a_large_image_are_near(tmp_path, kind):
    smooth = Image.fromarray(noise(9, 13)).resize((520, 360), Image.Resampling.BICUBIC)
    (tmp_path / "image").write_bytes(packed(smooth, kind))
    inspected = np.array(inspect(tmp_path / "image", served=40).sums)
    served = np.asarray(smooth.resize((58, 40), Image.Resampling.BOX)).reshape(-1, 3)
    assert 40 * 40 <= inspected[0] <= 4 * 58 * 40
    means = inspected[1:4] / inspected[0]
    assert np.abs(means - served.mean(0)).max() < 1.5
    assert np.abs(np.sqrt(inspected[4:] / inspected[0] - means**2) - served.std(0)).max() < 1.5


def test_a_png_is_held_to_its_checksums(tmp_path):
    content = bytearray(packed(RGB))
    content[600] ^= 1
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(BadImageError, match="truncated or damaged"):
        inspect(tmp_path / "image.png", served=8)


@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF")
def test_a_cut_file_is_refused_or_decodes(tmp_path):
    """What `inspect` lets through must not stop a training later."""
    path = tmp_path / "image"
    for kind in FORMATS:
        whole = packed(RGB, kind)
        for length in [*range(1, len(whole), 97), *range(len(whole) - 16, len(whole))]:
            path.write_bytes(whole[:length])
            try:
                inspect(path, served=8)
            except BadImageError:
                continue
            assert length > len(whole) - 16
            assert decode(path).size == (60, 40)
