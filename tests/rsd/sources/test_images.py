import numpy as np
import pytest
from PIL import Image

from rsd.sources.images import ImageFiles
from rsd.views.augment import AugmentOptions, views
from rsd.views.crop import CropOptions, crops


@pytest.fixture
def files(tmp_path):
    generator = np.random.default_rng(0)
    sizes = np.array([[40, 60], [64, 32], [50, 50]])
    for number, (height, width) in enumerate(sizes):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return ImageFiles(tmp_path, ["0.png", "1.png", "2.png"], sizes, size=24, crop_share=0.5)


def test_an_image_is_served_as_its_central_square(files, tmp_path):
    assert files.shape == (3, 24, 24, 3)
    assert len(files) == 3
    expected = Image.open(tmp_path / "0.png").resize((24, 24), Image.Resampling.BICUBIC, box=(20, 10, 40, 30))
    assert np.array_equal(files[0:1][0], np.asarray(expected))


def test_slices_and_index_arrays_are_the_same_images(files):
    assert np.array_equal(files[1:3], files[np.array([1, 2])])
    assert files[3:9].shape == (0, 24, 24, 3)


def test_views_do_not_depend_on_their_batch(files):
    options = AugmentOptions(
        crop=CropOptions(), flip=True, randaugment="rand-m9-mstd0.5-inc1", color_jitter=0.4, erase=0.5
    )
    whole = views(files, np.arange(3), options, seed=3, view=5)
    for number in range(3):
        assert np.array_equal(views(files, np.array([number]), options, seed=3, view=5)[0], whole[number])


def test_a_reduced_decoding_looks_the_same(tmp_path):
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((1600, 1200), Image.Resampling.BICUBIC)
    for name in ("photo.jpg", "photo.png"):
        image.save(tmp_path / name)
    files = ImageFiles(tmp_path, ["photo.jpg", "photo.png"], np.array([[1200, 1600]] * 2), size=64, crop_share=0.9)
    jpeg, png = files[:2].astype(float)
    assert np.abs(jpeg - png).mean() < 2
    boxes = np.array([[100.0, 200.0, 500.0, 400.0]] * 2)
    jpeg, png = crops(files, np.arange(2), boxes, np.zeros(2, bool)).astype(float)
    assert np.abs(jpeg - png).mean() < 2


def test_a_turned_photograph_is_cut_as_shown(tmp_path):
    pixels = np.zeros((400, 800, 3), np.uint8)
    pixels[:, :100] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to see it upright: the left edge is then the top one
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif)
    files = ImageFiles(tmp_path, ["turned.jpg"], np.array([[800, 400]]), size=50, crop_share=1.0)
    first, upright = np.array([0]), np.zeros(1, bool)
    assert crops(files, first, np.array([[0.0, 0.0, 100.0, 400.0]]), upright).mean() > 245
    assert crops(files, first, np.array([[120.0, 0.0, 600.0, 400.0]]), upright).mean() < 5
