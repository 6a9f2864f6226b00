"""An image file gets the classes that evaluation gives it."""

import numpy as np
import pytest
import torch
from PIL import Image

from rsd.machine.errors import UserError
from rsd.models.classify import classify
from rsd.models.folder import load_trained, save_trained
from rsd.models.make import create
from rsd.models.predict import predict
from rsd.sources.images import ArrayImages, ImageFiles, Images
from tests.command import rsd
from tests.rsd.models.small import STUDENTS, awake, dataset, side


@pytest.fixture(params=[1, 3], ids=["grey arrays", "colour files"])
def trained(request, tmp_path):
    """The folder of a model, and the record of its data."""
    channels = request.param
    data = dataset(side("vit"), channels, crop_share=0.875 if channels == 3 else None)
    shape = (data.height, data.width, channels)
    torch.manual_seed(0)
    model = awake(create(STUDENTS["vit"], classes=len(data.classes), image_shape=shape))
    save_trained(tmp_path / "model", model, model.state_dict(), data, mean=data.mean, std=data.std)
    return tmp_path / "model", data


def test_an_image_gets_the_classes_of_evaluation(trained, tmp_path, capsys):
    folder, data = trained
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    path = tmp_path / "image.jpg"
    Image.fromarray(pixels).convert("L" if data.channels == 1 else "RGB").save(path)
    images: Images = ArrayImages(np.asarray(Image.open(path))[None, ..., None], data.height)
    if data.crop_share:
        sizes = np.array([[90, 70]])
        images = ImageFiles(tmp_path, ["image.jpg"], sizes, size=data.height, crop_share=data.crop_share)
    model, normalize, _ = load_trained(folder)
    (expected,) = predict(model, normalize, images, batch_size=1).logits.softmax(dim=1)

    ((_, best),) = classify(folder, [path])

    assert [name for name, _ in best] == [data.classes[number] for number in expected.argsort(descending=True)[:3]]
    assert best[0][1] == expected.max()
    assert not rsd("predict", str(folder), str(path))
    assert capsys.readouterr().out.startswith(f"{path}: {best[0][0]} {best[0][1]:.1%}, ")


def test_what_is_no_image_is_a_sentence(trained, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match="expected a usable image in .*text.png, found: not a JPEG, PNG, WebP"):
        list(classify(trained[0], [tmp_path / "text.png"]))
    assert "expected config.json in" in rsd("predict", str(tmp_path), "a.png")
