"""From a source of images to fixed train, validation and test splits on disk."""

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from rsd.machine.errors import UserError
from rsd.machine.extras import needs
from rsd.machine.files import write_json
from rsd.sources import cifar100, digits, fashion_mnist
from rsd.sources.cifar100 import Cifar100Options
from rsd.sources.digits import DigitsOptions
from rsd.sources.fashion_mnist import FashionMnistOptions
from rsd.sources.folder import FolderOptions, index_folder, listed
from rsd.sources.images import DatasetRecord, LabelledImages, write_arrays, write_index

ArraySource = DigitsOptions | FashionMnistOptions | Cifar100Options
Source = ArraySource | FolderOptions
DataOptions = Annotated[Source, Field(discriminator="source")]


def prepare(options: Source, out: Path) -> DatasetRecord:
    """Write `train/`, `validation/`, `test/` and `dataset.json` under `out`.

    Raises:
        UserError: the source is missing or damaged, or a class is too small to be split.
    """
    record = _indexed(options, out) if isinstance(options, FolderOptions) else _arrays(options, out)
    write_json(out / "dataset.json", record.model_dump())
    return record


def _arrays(options: ArraySource, out: Path) -> DatasetRecord:
    splits = split(options)
    checksums = {name: write_arrays(out / name, np.asarray(part.images), part.labels) for name, part in splits.items()}
    train = splits["train"]
    mean, std = channel_statistics(np.asarray(train.images))
    height, width, channels = train.images.shape[1:]
    size = None if isinstance(options, DigitsOptions) else options.size  # the digits are kept at their size
    return DatasetRecord(
        source=options.source,
        classes=train.classes,
        height=size or height,
        width=size or width,
        channels=channels,
        mean=mean,
        std=std,
        counts={name: len(part.labels) for name, part in splits.items()},
        checksums={f"{name}/{file}": digest for name, files in checksums.items() for file, digest in files.items()},
    )


def _indexed(options: FolderOptions, out: Path) -> DatasetRecord:
    index = index_folder(options, findings_file=(file := out / "findings.txt"))
    if index.findings:
        print(f"left out of {options.root}, since data.on_bad is skip:\n{listed(index.findings, file)}")
    if index.ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(index.ignored.items()))
        print(f"ignored in {options.root}, not .jpg, .jpeg, .png or .webp, or hidden: {kinds}")
    checksums = {
        name: write_index(out / name, part.paths, part.labels, part.sizes, part.digests)
        for name, part in index.splits.items()
    }
    return DatasetRecord(
        source=options.source,
        kept="files",
        root=str(options.root),
        crop_share=options.crop_share,
        classes=index.classes,
        height=options.size,
        width=options.size,
        channels=3,
        mean=index.mean,
        std=index.std,
        counts={name: len(part.labels) for name, part in index.splits.items()},
        left_out=index.findings,
        checksums={f"{name}/{file}": digest for name, files in checksums.items() for file, digest in files.items()},
    )


def split(options: ArraySource) -> dict[str, LabelledImages]:
    """Train, validation and test images; a source with a test split of its own keeps it."""
    if isinstance(options, DigitsOptions):
        rest, test = stratified(digits.load(options), options.test, options.seed)
        validation = options.validation / (1 - options.test)
    else:
        rest, test = cifar100.load(options) if isinstance(options, Cifar100Options) else fashion_mnist.load(options)
        validation = options.validation
    kept, held_out = stratified(rest, validation, options.seed)
    train = kept if options.hold_out else rest
    if options.train_share < 1:
        train = stratified(train, options.train_share, options.seed)[1]
    return {"train": train, "validation": held_out, "test": test}


def stratified(images: LabelledImages, share: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Split off `share` of the images, the same share of every class; both parts keep the images' order."""
    needs("data", "sklearn")
    from sklearn.model_selection import train_test_split  # late, as in digits.py

    try:
        kept, taken = train_test_split(
            np.arange(len(images.labels)), test_size=share, random_state=seed, stratify=images.labels
        )
    except ValueError as error:
        raise UserError(f"expected classes large enough to split off {share:.0%} of each, found: {error}") from error
    parts = (np.sort(kept), np.sort(taken))
    kept_images, taken_images = (
        LabelledImages(images.images[part], images.labels[part], images.classes) for part in parts
    )
    return kept_images, taken_images


def channel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of uint8 `[N, H, W, C]`, in [0, 1], exact."""
    # A histogram per channel is exact, and needs no float copy of the images.
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[-1]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        mean = float(share @ values)
        means.append(mean)
        stds.append(float(np.sqrt(share @ (values - mean) ** 2)))
    return means, stds
