import pandas as pd
import pytest

from rsd.report.charts import accuracy
from tests.rsd.report.charts.drawn import datasets, scale


@pytest.fixture
def models() -> pd.DataFrame:
    rows: list[tuple[str, int | None, float]] = [("teacher", None, 99.0)]
    rows += [("scratch", seed, top1) for seed, top1 in enumerate((91.0, 96.0, 98.0))]
    rows += [("rsd", seed, top1) for seed, top1 in enumerate((97.0, 97.5, 97.2))]
    frame = pd.DataFrame(rows, columns=["method", "seed", "top1"])
    return frame.assign(model=[f"{method}-{seed}" for method, seed, _ in rows])


def test_a_method_keeps_its_colour_in_any_company(models: pd.DataFrame) -> None:
    alone = models[models["method"] == "rsd"]
    both = scale(accuracy.accuracy_side_by_side(models), "color")
    one = scale(accuracy.accuracy_side_by_side(alone), "color")
    assert both["domain"] == ["teacher", "scratch", "RSD"]
    assert one["range"][one["domain"].index("RSD")] == both["range"][both["domain"].index("RSD")]


def test_accuracy_intervals_never_leave_the_scale(models: pd.DataFrame) -> None:
    chart = accuracy.accuracy_side_by_side(models)  # the t interval of scratch ends above 100
    bounds = [row for rows in datasets(chart) for row in rows if row.get("high") is not None]
    assert {row["method"] for row in bounds} == {"scratch", "RSD"}
    assert max(row["high"] for row in bounds) == 100
    assert scale(chart, "x")["domain"][1] == 100


def test_two_seeds_are_drawn_without_an_interval(models: pd.DataFrame) -> None:
    chart = accuracy.accuracy_side_by_side(models[models["seed"] != 1])
    assert not any("high" in row for rows in datasets(chart) for row in rows)


def test_the_confusion_matrix_counts_every_answer() -> None:
    answers = pd.DataFrame({"model": "rsd-0", "actual": list("aab"), "predicted": list("abb")})
    (rows,) = datasets(accuracy.confusion_matrix(answers, "rsd-0", ["a", "b"]))
    counts = {(row["actual"], row["predicted"]): (row["images"], row["share"]) for row in rows}
    assert counts == {("a", "a"): (1, 0.5), ("a", "b"): (1, 0.5), ("b", "a"): (0, 0), ("b", "b"): (1, 1)}


def test_many_classes_are_cut_to_the_worst() -> None:
    names = [f"class {i}" for i in range(100)]
    answers = pd.DataFrame({"model": "m", "actual": names, "predicted": names[:98] + names[:97:-1]})
    (rows,) = datasets(accuracy.confusion_matrix(answers, "m", names))
    drawn = {row["actual"] for row in rows}
    assert len(drawn) == accuracy.MAX_CLASSES
    assert {"class 98", "class 99"} <= drawn


def test_calibration_is_in_per_cent_from_any_record() -> None:
    shares = pd.DataFrame(
        {"model": "m", "method": "rsd", "confidence": [0.5, 0.9], "accuracy": [0.4, 1.0], "count": [3, 7]}
    )
    percent = shares.assign(confidence=[50.0, 90.0], accuracy=[40.0, 100.0])
    assert accuracy.reliability(shares).to_dict()["datasets"] == accuracy.reliability(percent).to_dict()["datasets"]
