import numpy as np
import pytest

from rsd.machine.errors import UserError
from rsd.machine.files import sha256
from rsd.sources.arrays import channel_statistics, stratified
from rsd.sources.images import LabelledImages, read_record, read_split
from rsd.sources.kinds.digits import Digits

DIGITS = Digits(size=8)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (record := DIGITS.prepare(folder)).write(folder)
    return folder, record


def test_every_image_is_in_exactly_one_split(prepared):
    _, record = prepared
    assert sum(record.counts.values()) == 1797
    parts = DIGITS.splits()
    images = np.concatenate([part.images[:].reshape(len(part.labels), -1) for part in parts.values()])
    every = Digits(size=8, test=0.01, validation=0.01)
    again = np.concatenate([part.images[:].reshape(len(part.labels), -1) for part in every.splits().values()])
    order = lambda rows: rows[np.lexsort(rows.T)]  # noqa: E731
    assert np.array_equal(order(images), order(again))


def test_each_class_has_its_share_of_each_split(prepared):
    folder, _ = prepared
    whole = np.bincount(np.concatenate([read_split(folder, s).labels for s in ("train", "validation", "test")]))
    for name, share in (("train", 0.5), ("validation", 0.2), ("test", 0.3)):
        assert np.abs(np.bincount(read_split(folder, name).labels) / whole - share).max() < 0.01


def test_the_record_describes_what_is_on_disk(prepared):
    folder, record = prepared
    assert read_record(folder) == record
    train = read_split(folder, "train")
    assert train.images.shape == (record.counts["train"], *record.image_shape)
    pixels = train.images[:]
    assert pixels.dtype == np.uint8
    assert record.checksums == {name: sha256(folder / name) for name in record.checksums}
    assert record.mean[0] == pytest.approx(pixels.mean() / 255)
    assert record.std[0] == pytest.approx(pixels.std() / 255)


def test_the_same_options_give_the_same_bytes(prepared, tmp_path):
    assert DIGITS.prepare(tmp_path).checksums == prepared[1].checksums


def test_another_seed_is_another_split(prepared, tmp_path):
    other = DIGITS.model_copy(update={"seed": 1}).prepare(tmp_path)
    assert other.checksums != prepared[1].checksums


def test_train_share_leaves_validation_and_test_alone():
    whole, part = DIGITS.splits(), DIGITS.model_copy(update={"train_share": 0.2}).splits()
    for name in ("validation", "test"):
        assert np.array_equal(whole[name].images[:], part[name].images[:])
    assert np.abs(np.bincount(part["train"].labels) - 0.2 * np.bincount(whole["train"].labels)).max() <= 1
    known = {image.tobytes() for image in whole["train"].images[:]}
    assert all(image.tobytes() in known for image in part["train"].images[:])


def test_channel_statistics_are_exact_per_channel():
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    mean, std = channel_statistics(images)
    assert mean == pytest.approx(images.mean(axis=(0, 1, 2)) / 255)
    assert std == pytest.approx(images.std(axis=(0, 1, 2)) / 255)


def test_a_class_with_one_image_is_refused():
    images = LabelledImages(np.zeros((11, 2, 2, 1), np.uint8), np.array([0] * 10 + [1]), ["a", "b"])
    with pytest.raises(UserError, match="classes large enough"):
        stratified(images, 0.2, seed=0)


def test_a_missing_split_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="run `dvc repro prepare`"):
        read_split(tmp_path, "train")
