import numpy as np
import pytest

from rsd.machine.errors import UserError
from rsd.sources.images import read_split
from rsd.sources.kinds.digits import Digits
from rsd.sources.labels import hide_labels

LABELS = np.random.default_rng(0).choice(4, 200, p=[0.6, 0.25, 0.1, 0.05]).astype(np.int64)
CLASSES = list("abcd")


@pytest.mark.parametrize("labelled", [4, 20, 0.25, 1.0])
def test_as_many_labels_stay_as_asked_for(labelled):
    hidden = hide_labels(LABELS, labelled, CLASSES, seed=1)
    known = hidden >= 0
    assert known.sum() == (labelled if isinstance(labelled, int) else labelled * 200)
    assert np.array_equal(hidden[known], LABELS[known])
    assert set(hidden[~known]) <= {-1}
    assert set(hidden[known]) == {0, 1, 2, 3}


def test_classes_keep_their_proportions():
    hidden = hide_labels(LABELS, 100, CLASSES, seed=1)
    counts = np.bincount(hidden[hidden >= 0], minlength=4)
    assert np.abs(counts / 100 - np.bincount(LABELS) / 200).max() < 0.02


def test_images_without_a_label_get_none():
    partly = np.where(np.arange(200) % 3 == 0, -1, LABELS)
    hidden = hide_labels(partly, 20, CLASSES, seed=1)
    assert (hidden >= 0).sum() == 20
    assert (hidden[partly < 0] < 0).all()
    assert set(hidden) == {-1, 0, 1, 2, 3}


def test_fewer_labels_are_some_of_the_more():
    few, more = (hide_labels(LABELS, count, CLASSES, seed=1) >= 0 for count in (20, 80))
    assert (more | ~few).all()
    assert not np.array_equal(few, hide_labels(LABELS, 20, CLASSES, seed=2) >= 0)


@pytest.mark.parametrize("labelled", [3, 201, 0.01])
def test_too_few_or_many_labels_are_refused(labelled):
    with pytest.raises(
        UserError,
        match="expected between 4, one for each class, and 200, the student's",
    ):
        hide_labels(LABELS, labelled, CLASSES, seed=1)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    record = Digits(size=8, labelled=20, teacher_share=0.5).prepare(folder)
    record.write(folder)
    return folder, record


def rows(split):
    return {pixels.tobytes() for pixels in split.images[:]}


def test_the_teachers_images_are_no_students(prepared):
    folder, record = prepared
    plain = Digits(size=8).splits()
    splits = {name: read_split(folder, name) for name in ("train", "teacher", "validation", "test")}
    assert not rows(splits["train"]) & rows(splits["teacher"])
    assert rows(splits["train"]) | rows(splits["teacher"]) == rows(plain["train"])
    assert all(rows(splits[name]) == rows(plain[name]) for name in ("validation", "test"))
    assert (splits["teacher"].labels >= 0).all()
    assert (splits["train"].labels >= 0).sum() == record.labelled == 20
    assert abs(record.counts["train"] - record.counts["teacher"]) <= 1


def test_the_record_states_the_labelled(prepared):
    assert prepared[1].stated_counts == "train 448 (20 with a label), validation 360, test 540, teacher 449 alone"


def test_without_a_share_the_teacher_has_the_labelled(tmp_path):
    record = Digits(size=8, labelled=0.1).prepare(tmp_path)
    record.write(tmp_path)
    train, teacher = (read_split(tmp_path, name) for name in ("train", "teacher"))
    known = train.labels >= 0
    assert known.sum() == 90
    assert np.array_equal(teacher.images[:], train.images[:][known])
    assert np.array_equal(teacher.labels, train.labels[known])
    assert "teacher" not in record.counts
