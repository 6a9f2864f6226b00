import numpy as np
import pytest

from rsd.export.options import export_options
from rsd.export.parity import AccuracyDelta, GateError, MaxDifference, compare
from rsd.export.runtimes.onnxruntime import logits_of
from rsd.machine.errors import UserError

GATES = {rung: export_options()().gate(rung) for rung in ("stripped", "fp32", "fp16", "int8")}
LABELS = np.arange(400) % 10
REFERENCE = np.eye(10, dtype=np.float32)[LABELS] * 10  # right everywhere, logit range 10


def _spoiled(images: int) -> np.ndarray:
    """Logits that are wrong for the first `images` images."""
    logits = REFERENCE.copy()
    logits[:images] = np.roll(logits[:images], 1, axis=1)
    return logits


def test_equal_logits_differ_in_nothing():
    record = compare(REFERENCE, REFERENCE, LABELS)
    assert record.max_difference == record.disagreements == record.accuracy_delta_points == 0
    assert record.min_cosine == pytest.approx(1)
    assert record.accuracy == record.reference_accuracy == record.top1_agreement == 1
    GATES["fp32"].check(record)
    GATES["fp16"].check(record)


def test_what_changed_is_counted_and_located():
    logits = REFERENCE.copy()
    logits[7] = np.roll(logits[7], 1)
    logits[9, 9] += 2
    record = compare(REFERENCE, logits, LABELS)
    assert record.worst_images[:2] == [7, 9]
    assert record.disagreements == record.disagreements_beyond_near_ties == 1
    assert record.accuracy_delta_images == -1
    assert record.accuracy_delta_points == pytest.approx(-0.25)
    assert record.max_difference_share == pytest.approx(1)


def test_the_loss_has_its_paired_interval():
    """By the differences themselves, image by image, in float64; none where no answer changed."""
    right = (np.roll(LABELS, 3) == LABELS).astype(np.float64)  # none is right before
    shifted = np.roll(REFERENCE, 3, axis=0)
    logits = np.where(np.arange(400)[:, None] < 30, REFERENCE, shifted)
    record = compare(shifted, logits, LABELS)
    gained = (np.arange(400) < 30) - right
    error = np.sqrt(((gained - gained.mean()) ** 2).sum() / 399 / 400)
    assert record.accuracy_delta_margin == pytest.approx(196 * error)
    assert compare(REFERENCE, REFERENCE, LABELS).accuracy_delta_margin is None


def test_swapped_close_classes_are_a_near_tie():
    reference, logits = REFERENCE.copy(), REFERENCE.copy()
    reference[0, 1] = 9.99
    logits[0, 1] = 10.01
    record = compare(reference, logits, LABELS)
    assert (record.disagreements, record.disagreements_beyond_near_ties) == (1, 0)


def test_a_missed_gate_states_limit_value_and_images():
    logits = REFERENCE.copy()
    logits[13, 2] += 0.01
    with pytest.raises(UserError, match=r"^the fp32 export .* 1\.00e-03 .* 1\.00e-04 is allowed \(.*: 13, ") as e:
        GATES["fp32"].check(compare(REFERENCE, logits, LABELS))
    assert "\n" not in str(e.value)


def test_fp16_may_lose_one_image_in_200():
    GATES["fp16"].check(compare(REFERENCE, _spoiled(2), LABELS))
    with pytest.raises(UserError, match=r"loses 3 of 400 test images .* at most 2 may be lost") as e:
        GATES["fp16"].check(compare(REFERENCE, _spoiled(3), LABELS))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("images", "fp16", "int8"), [(1, 1, 1), (200, 1, 2), (360, 2, 3), (500, 1, 5), (10_000, 20, 100)]
)
def test_a_large_split_is_held_to_the_points(images, fp16, int8):
    for precision, lost in (("fp16", fp16), ("int8", int8)):
        gate = GATES[precision]
        assert isinstance(gate, AccuracyDelta)
        assert gate.images_to_lose(images) == lost


@pytest.mark.parametrize("images", [1, 499, 500, 50_000])
def test_a_gate_of_no_points_allows_no_image(images):
    assert AccuracyDelta("fp16", 0.0).images_to_lose(images) == 0


@pytest.mark.parametrize(
    ("points", "images", "lost"),
    [(0.001, 50_000, 1), (0.1, 999, 1), (0.1, 1000, 1), (0.2, 499, 3), (0.2, 500, 1), (0.2, 1000, 2), (1e-6, 200, 1)],
)
def test_a_large_split_loses_at_most_one_image(points, images, lost):
    assert AccuracyDelta("int8", points).images_to_lose(images) == lost


def test_int8_may_lose_a_point():
    GATES["int8"].check(compare(REFERENCE, _spoiled(4), LABELS))
    with pytest.raises(GateError, match=r"int8 export loses 5 of 400 .* at most 4 .*gates\.int8_accuracy_delta") as e:
        GATES["int8"].check(compare(REFERENCE, _spoiled(5), LABELS))
    assert e.value.images == [0, 1, 2, 3, 4]


def test_stripping_must_be_exact():
    GATES["stripped"].check(compare(REFERENCE, REFERENCE, LABELS, near_tie=0))
    logits = REFERENCE.copy()
    logits[17, 3] = np.nextafter(logits[17, 3], 1)
    with pytest.raises(GateError, match=r"^the stripped student differs from the student as it was trained .*: 17, "):
        GATES["stripped"].check(compare(REFERENCE, logits, LABELS, near_tie=0))


@pytest.mark.parametrize(("margin", "beyond"), [(0.015, 0), (0.025, 1)])
def test_another_first_class_in_fp32_must_be_near(margin, beyond):
    gate = MaxDifference("fp32", 1e-3)  # of a range of 10, so twice the tolerance is 0.02
    reference, logits = REFERENCE.copy(), REFERENCE.copy()
    reference[5, 0], logits[5, 0] = 10 - margin, 10.001
    record = compare(reference, logits, LABELS, near_tie=gate.near_tie)
    assert (record.disagreements, record.disagreements_beyond_near_ties) == (1, beyond)
    record.max_difference_share = 0
    if beyond:
        with pytest.raises(GateError, match="gives 1 of 400 test images another first class than PyTorch"):
            gate.check(record)
    else:
        gate.check(record)


def test_an_engine_is_held_to_its_precisions_gate():
    with pytest.raises(GateError, match="^the int8 engine loses 9 of 400"):
        GATES["int8"].check(compare(REFERENCE, _spoiled(9), LABELS), what="int8 engine")


def test_fp16_may_gain():
    GATES["fp16"].check(compare(_spoiled(20), REFERENCE, LABELS))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(value):
    logits = REFERENCE.copy()
    logits[3, 0] = value
    with pytest.raises(UserError, match=r"first: \[3\]"):
        compare(REFERENCE, logits, LABELS)


def test_an_untrained_model_proves_nothing():
    zeros = np.zeros_like(REFERENCE)
    with pytest.raises(UserError, match="compare a trained model"):
        compare(zeros, zeros, LABELS)


def test_logits_of_other_images_are_refused():
    with pytest.raises(UserError, match="same images"):
        compare(REFERENCE, REFERENCE[:10], LABELS)


def test_a_faithful_export_passes_at_any_batch_size(exported, images):
    student = exported("vit", "fp32")
    reference = student.logits(images)
    for batch in (7, 128):
        logits = logits_of(student.path, images, batch=batch)
        GATES["fp32"].check(compare(reference, logits, reference.argmax(axis=1)))
