"""Images without a label, in a folder beside the classes."""

import shutil

import numpy as np
import pytest
from PIL import Image

from rsd.sources.images import read_split
from rsd.sources.kinds.folder import Folder
from tests.rsd.sources.image_folders import SIDE, every, fill, index, paths, refused


def test_images_without_a_label_join_the_training_images(flat):
    before = index(flat)
    fill(flat, {"unlabelled/phone": 3, "unlabelled/camera": 4}, seed=500)
    after = index(flat)
    for name in ("validation", "test"):
        assert paths(after)[name] == paths(before)[name]
    labels = dict(zip(paths(after)["train"], after.splits["train"].labels.tolist(), strict=True))
    without = {path for path in labels if path.startswith("unlabelled/")}
    assert len(without) == 7
    assert {path for path, label in labels.items() if label < 0} == without
    assert set(labels) - without == set(paths(before)["train"])
    assert after.classes == before.classes == ["cat", "dog", "emu"]
    assert after.mean != before.mean


def test_unlabelled_beside_train_is_no_split(whole):
    fill(whole, {"unlabelled": 5}, seed=500)
    result = index(whole)
    assert result.classes == ["cat", "dog"]
    assert (result.splits["train"].labels < 0).sum() == 5


@pytest.mark.parametrize("kept_as", ["png", "bmp"])
def test_an_unlabelled_copy_of_an_image_is_dropped(flat, kept_as):
    fill(flat, {"unlabelled": 3}, seed=500)
    for name, path in [("a", "cat/003.png"), ("b", "dog/004.png"), ("c", "emu/001.png")]:
        Image.open(flat / path).save(flat / "unlabelled" / f"{name}.{kept_as}")
    result = index(flat)
    assert result.labelled_copies == 3
    assert result.findings == []
    assert (result.splits["train"].labels < 0).sum() == 3
    assert not [path for path in every(result) if path.startswith("unlabelled/") and path[-5] in "abc"]


def test_pixels_of_large_copies_are_compared_whole(flat):
    smooth = Image.fromarray(np.random.default_rng(3).integers(0, 256, (9, 9, 3), np.uint8)).resize((90, 70))
    smooth.save(flat / "cat" / "large.jpg")
    (flat / "unlabeled").mkdir()
    Image.open(flat / "cat" / "large.jpg").save(flat / "unlabeled" / "copy.png")
    smooth.resize((45, 35)).save(flat / "unlabeled" / "other.png")
    result = index(flat)
    assert result.labelled_copies == 1
    assert [path for path in every(result) if path.startswith("unlabeled/")] == ["unlabeled/other.png"]


def test_the_record_counts_copies_of_labelled_images(flat, tmp_path):
    fill(flat, {"unlabelled": 3}, seed=500)
    assert "left out" not in Folder(root=flat, size=SIDE).prepare(tmp_path).stated_counts
    shutil.copy(flat / "cat" / "003.png", flat / "unlabelled")
    record = Folder(root=flat, size=SIDE).prepare(tmp_path)
    assert record.labelled_copies == 1
    assert record.stated_counts.endswith("; left out 1 image without a label, the same as labelled ones")


def test_an_unlabelled_folder_without_images_is_named(flat):
    (flat / "unlabelled").mkdir()
    refused(flat, "unlabelled: no image in it")


def test_the_teacher_learns_from_labelled_images_only(flat, tmp_path):
    fill(flat, {"unlabelled": 6}, seed=500)
    record = Folder(root=flat, size=SIDE, labelled=6).prepare(tmp_path)
    record.write(tmp_path)
    train, teacher = (read_split(tmp_path, name) for name in ("train", "teacher"))
    assert (train.labels >= 0).sum() == record.labelled == len(teacher.labels) == 6
    assert (teacher.labels >= 0).all()
    assert record.counts["train"] == len(train.labels)


def test_few_labels_and_the_teachers_own_images(flat):
    whole, few = index(flat), index(flat, teacher_share=0.5, labelled=4)
    for name in ("validation", "test"):
        assert paths(few)[name] == paths(whole)[name]
    student, teacher = (set(paths(few)[name]) for name in ("train", "teacher"))
    assert not student & teacher
    assert student | teacher == set(paths(whole)["train"])
    assert (few.splits["teacher"].labels >= 0).all()
    labels = few.splits["train"].labels
    assert (labels >= 0).sum() == 4
    truth = [few.classes.index(path.split("/")[0]) for path in paths(few)["train"]]
    assert np.array_equal(labels[labels >= 0], np.array(truth)[labels >= 0])
