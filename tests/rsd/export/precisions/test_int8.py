import numpy as np
import pytest

from rsd.export import precisions
from rsd.export.parity import AccuracyDelta, GateError
from rsd.export.precisions import int8 as module
from rsd.export.precisions.base import Converted, Exported
from rsd.export.precisions.int8 import Int8Details
from rsd.export.quantize import Int8Options
from rsd.machine.errors import UserError
from tests.rsd.export.conftest import labelled, to_convert


def convert(exported: Exported, **options) -> Converted:
    return precisions.get("int8").convert(exported, Int8Options(**options))


def test_int8_that_passes_keeps_nothing_in_float(traced, images):
    split = labelled(traced("resnet"), images)
    exported = to_convert(traced("resnet"), images, "int8", limit=50.0, train=split, validation=split)
    details = convert(exported).details
    assert isinstance(details, Int8Details)
    assert (details.in_float, details.nodes, details.calibration_images) == ([], 14, 64)


def test_int8_is_calibrated_on_the_training_split_alone(traced, images):
    """With other validation and test images it is the same graph, with other training images another."""
    student, others = traced("resnet"), images[::-1] // 2

    def made(*, train, rest) -> bytes:
        splits = {"train": labelled(student, train), "validation": labelled(student, rest)}
        exported = to_convert(student, rest, "int8", limit=100.0, **splits)
        return convert(exported).graph.SerializeToString(deterministic=True)

    first = made(train=images, rest=images)
    assert made(train=images, rest=others) == first
    assert made(train=others, rest=images) != first


@pytest.mark.parametrize(
    ("validation_passes_at", "test_passes_at", "requests", "refused"),
    [
        (0, 0, ["validation 0", "test 0"], []),
        (1, 0, [*["validation 0"] * 3, "validation 1", "test 1"], []),
        (1, 2, [*["validation 0"] * 3, "validation 1", "test 1", "validation 2", "test 2"], ["percentile, 1 in float"]),
    ],
)
def test_validation_images_choose_and_test_images_judge(
    traced, images, monkeypatch, validation_passes_at, test_passes_at, requests, refused
):
    """The gate is made to pass once so many of the most harmful nodes are in float."""
    student = traced("resnet")
    split = labelled(student, images[:40])
    in_float: list[list[str]] = []
    judged: list[str] = []
    order: list[str] = []
    made_of, measure = module.quantized, module.harms

    def quantized(proto, known, **options):
        in_float.append(options["in_float"])
        return made_of(proto, known, **options)

    def harms(*arguments, **options):
        assert not order  # measured once
        harmful = measure(*arguments, **options)
        order.extend(harm.node for harm in harmful)
        return harmful

    def judge(gate, record, *, split="test"):
        assert record.images == {"validation": 40, "test": 64}[split]
        kept = len(in_float[-1])
        judged.append(f"{split} {kept}")
        if kept < {"validation": validation_passes_at, "test": test_passes_at}[split]:
            raise GateError("too bad", [3, 4])

    monkeypatch.setattr(module, "harms", harms)
    monkeypatch.setattr(module, "quantized", quantized)
    monkeypatch.setattr(AccuracyDelta, "check", judge)
    details = convert(to_convert(student, images, "int8", train=split, validation=split)).details
    assert isinstance(details, Int8Details)
    assert judged == requests
    assert details.refused_by_test == refused
    assert [harm.node for harm in details.in_float] == order[: len(in_float[-1])] == in_float[-1]


@pytest.mark.parametrize(
    ("calibration", "passing", "order"),
    [("min_max", 2, ["min_max", "percentile"]), ("entropy", 3, ["entropy", "min_max", "percentile"])],
)
def test_calibrations_come_before_nodes_in_float(traced, images, monkeypatch, calibration, passing, order):
    """The gate is made to pass at one of them; the record names it."""
    calibrations: list[str] = []
    choose = module.chosen

    def chosen(graph, images, options, **more):
        calibrations.append(options.calibration)
        return choose(graph, images, options, **more)

    def judge(gate, record, *, split="test"):
        if len(calibrations) < passing:
            raise GateError("too bad", [3, 4])

    monkeypatch.setattr(module, "chosen", chosen)
    monkeypatch.setattr(AccuracyDelta, "check", judge)
    split = labelled(traced("resnet"), images)
    exported = to_convert(traced("resnet"), images, "int8", train=split, validation=split)
    details = convert(exported, calibration=calibration).details
    assert isinstance(details, Int8Details)
    assert calibrations == order
    assert (details.calibration, details.in_float) == (order[-1], [])


def test_failing_int8_says_where_most_is_lost(traced, images):
    student = traced("resnet")
    split = labelled(student, images)
    exported = to_convert(student, images, "int8", train=split, validation=split)
    exported.ladder.expected = exported.ladder.expected[::-1]  # of other images, so that no graph can agree
    exported.ladder.test.labels[:] = exported.ladder.expected.argmax(axis=1)
    with pytest.raises(
        UserError, match="^with 3 of 14 nodes kept in float the int8 export loses .*; most is lost at '"
    ):
        convert(exported, least_share=0.75)


def test_no_more_images_are_counted_than_there_are(traced, images):
    split = labelled(traced("resnet"), images)
    exported = to_convert(traced("resnet"), images, "int8", limit=50.0, train=split, validation=split)
    details = convert(exported, calibration_images=8).details
    assert isinstance(details, Int8Details)
    assert details.calibration_images == np.int64(8)
