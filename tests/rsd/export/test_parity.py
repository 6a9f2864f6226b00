import numpy as np
import pytest

from rsd.errors import UserError
from rsd.export.parity import Gates, check, compare, logits_of

LABELS = np.arange(400) % 10
REFERENCE = np.eye(10, dtype=np.float32)[LABELS] * 10  # right everywhere, logit range 10


def _spoiled(images: int) -> np.ndarray:
    """Logits that are wrong for the first `images` images."""
    logits = REFERENCE.copy()
    logits[:images] = np.roll(logits[:images], 1, axis=1)
    return logits


def test_equal_logits_differ_in_nothing():
    record = compare(REFERENCE, REFERENCE, LABELS)
    assert record["max_difference"] == record["disagreements"] == record["accuracy_delta_points"] == 0
    assert record["min_cosine"] == pytest.approx(1)
    assert record["accuracy"] == record["reference_accuracy"] == record["top1_agreement"] == 1
    check(record, "fp32", Gates())
    check(record, "fp16", Gates())


def test_what_changed_is_counted_and_located():
    logits = REFERENCE.copy()
    logits[7] = np.roll(logits[7], 1)
    logits[9, 9] += 2
    record = compare(REFERENCE, logits, LABELS)
    assert record["worst_images"][:2] == [7, 9]
    assert record["disagreements"] == record["disagreements_beyond_near_ties"] == 1
    assert record["accuracy_delta_images"] == -1
    assert record["accuracy_delta_points"] == pytest.approx(-0.25)
    assert record["max_difference_share"] == pytest.approx(1)


def test_a_swap_of_two_nearly_equal_classes_is_a_near_tie():
    reference, logits = REFERENCE.copy(), REFERENCE.copy()
    reference[0, 1] = 9.99
    logits[0, 1] = 10.01
    record = compare(reference, logits, LABELS)
    assert (record["disagreements"], record["disagreements_beyond_near_ties"]) == (1, 0)


def test_a_missed_fp32_gate_is_one_sentence_with_limit_value_and_images():
    logits = REFERENCE.copy()
    logits[13, 2] += 0.01
    with pytest.raises(UserError, match=r"^the fp32 export .* 1\.00e-03 .* 1\.00e-04 is allowed \(.*: 13, ") as e:
        check(compare(REFERENCE, logits, LABELS), "fp32", Gates())
    assert "\n" not in str(e.value)


def test_fp16_may_lose_one_image_in_200_of_a_small_split_and_no_more():
    check(compare(REFERENCE, _spoiled(2), LABELS), "fp16", Gates())
    with pytest.raises(UserError, match=r"loses 3 of 400 test images .* at most 2 may be lost") as e:
        check(compare(REFERENCE, _spoiled(3), LABELS), "fp16", Gates())
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(("images", "allowed"), [(1, 1), (200, 1), (360, 2), (500, 1), (10_000, 20)])
def test_a_large_split_is_held_to_the_points(images, allowed):
    assert Gates().images_to_lose(images) == allowed


def test_fp16_may_gain():
    check(compare(_spoiled(20), REFERENCE, LABELS), "fp16", Gates())


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


def test_a_faithful_export_passes_and_the_batch_size_does_not_matter(exported, images):
    student = exported("vit", "fp32")
    reference = student.logits(images)
    for batch in (7, 128):
        logits = logits_of(student.path, images, batch=batch)
        check(compare(reference, logits, reference.argmax(axis=1)), "fp32", Gates())
