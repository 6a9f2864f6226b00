import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from rsd.models.make import create, parameter_count
from rsd.models.pixels import PixelNormalize, RawPixels
from tests.rsd.models.small import RESNET, SHAPE


def test_pixels_are_normalised_with_channels_first():
    image = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    inputs = PixelNormalize(mean, std)(image)
    expected = (image.double().numpy() / 255 - np.array(mean)) / np.array(std)
    assert inputs.dtype == torch.float32
    assert np.allclose(inputs.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-6)


@pytest.mark.parametrize("side", [9, 40])
def test_images_are_resized_as_timm_does_unrounded(side):
    image = torch.randint(64, 192, (3, 17, 24, 3), dtype=torch.uint8)  # PIL cuts off between its two passes
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    inputs = PixelNormalize(mean, std, size=side)(image)
    exact = image.permute(0, 3, 1, 2).double() / 255
    exact = resize(exact, [side, side], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    expected = (exact - torch.tensor(mean)[:, None, None].double()) / torch.tensor(std)[:, None, None].double()
    assert torch.allclose(inputs.double(), expected, atol=1e-5)
    prepare = create_transform((3, side, side), interpolation="bicubic", crop_pct=1.0, crop_mode="squash",
                               mean=mean, std=std)  # fmt: skip
    by_timm = torch.stack([prepare(Image.fromarray(one.numpy())) for one in image])
    assert (inputs - by_timm).abs().max() < 2 / 255 / min(std)


def test_images_of_the_right_size_stay():
    image = torch.randint(0, 256, (2, 6, 6, 1), dtype=torch.uint8)
    assert torch.equal(PixelNormalize([0.3], [0.2], size=6)(image), PixelNormalize([0.3], [0.2])(image))


def test_raw_pixels_normalises_as_in_training():
    image = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    assert torch.allclose(RawPixels(torch.nn.Identity(), mean, std)(image), PixelNormalize(mean, std)(image), atol=1e-6)


def test_raw_pixels_adds_no_parameter():
    model = create(RESNET, classes=5, image_shape=SHAPE)
    assert parameter_count(RawPixels(model, [0.5], [0.5])) == parameter_count(model)
