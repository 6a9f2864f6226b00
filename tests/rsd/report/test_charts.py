from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rsd.report import charts

from .conftest import page_arguments


@pytest.fixture
def models() -> pd.DataFrame:
    rows = [("teacher", None, 99.0), ("scratch", 0, 95.0), ("scratch", 1, 96.0), ("rsd", 0, 97.0), ("rsd", 1, 97.5)]
    frame = pd.DataFrame(rows, columns=["method", "seed", "top1"])
    return frame.assign(model=[f"{method}-{seed}" for method, seed, _ in rows])


def curves(epochs: int, models: int = 2) -> pd.DataFrame:
    parts = [
        pd.DataFrame(
            {
                "model": f"rsd-{seed}",
                "method": "rsd",
                "seed": seed,
                "epoch": np.arange(1.0, epochs + 1),
                "learning_rate": 0.1,
                "loss": np.linspace(3, 0.02, epochs),
                "cross_entropy": np.linspace(2, 1, epochs),
                "ofa": np.nan,
                "off_diagonal_rms": 0.2,
                "off_diagonal_chance": 0.1,
                "gradient_norm": 1.0,
                "validation_top1": 90.0,
                "validation_loss": 0.4,
            }
        )
        for seed in range(models)
    ]
    return pd.concat(parts, ignore_index=True)


def datasets(chart: Any) -> list[list[dict[str, Any]]]:
    return list(chart.to_dict()["datasets"].values())


def scale(chart: Any, channel: str) -> dict[str, Any]:
    """The first scale that a layer of the chart names for a channel."""
    layers = [layer["encoding"][channel] for layer in chart.to_dict()["layer"] if channel in layer["encoding"]]
    return next(dict(encoding["scale"]) for encoding in layers if encoding.get("scale"))


def test_an_interval_is_students_of_the_sample() -> None:
    found = charts.interval([1.0, 2.0, 3.0])
    assert found.mean == pytest.approx(2.0)
    assert found.high == pytest.approx(2.0 + 4.302653 * 1 / 3**0.5, rel=1e-6)
    assert found.low == pytest.approx(4.0 - (found.high or 0), rel=1e-6)


def test_one_value_has_no_interval() -> None:
    assert charts.interval([2.5]) == (2.5, None, None, 1)


def test_a_method_keeps_its_colour_whatever_stands_beside_it(models: pd.DataFrame) -> None:
    alone = models[models["method"] == "rsd"]
    both = scale(charts.accuracy_side_by_side(models), "color")
    one = scale(charts.accuracy_side_by_side(alone), "color")
    assert both["domain"] == ["teacher", "scratch", "RSD"]
    assert one["range"][one["domain"].index("RSD")] == both["range"][both["domain"].index("RSD")]


def test_known_methods_have_colours_of_their_own() -> None:
    assert len(set(charts.METHOD_COLOURS.values())) == len(charts.METHOD_COLOURS)
    assert charts.colour("a method of tomorrow") == charts.NEUTRAL


def test_loss_terms_are_the_columns_with_values_and_the_vitals_come_last() -> None:
    assert charts.loss_terms(curves(3)) == [
        "loss",
        "cross_entropy",
        "off_diagonal_rms",
        "gradient_norm",
        "learning_rate",
    ]


def test_a_long_history_is_thinned_to_its_first_last_and_evenly_spaced_epochs() -> None:
    (rows,) = datasets(charts.learning_curve(curves(1000), "loss"))
    epochs = sorted({row["epoch"] for row in rows})
    assert len(epochs) == charts.LEARNING_CURVE_POINTS
    assert (epochs[0], epochs[-1]) == (1, 1000)


def test_a_term_over_orders_of_magnitude_gets_a_logarithmic_axis() -> None:
    assert scale(charts.learning_curve(curves(50), "loss"), "y")["type"] == "log"
    assert "type" not in scale(charts.learning_curve(curves(50), "cross_entropy"), "y")


def test_off_diagonal_correlation_stands_beside_its_chance_level() -> None:
    (rows,) = datasets(charts.learning_curve(curves(3), "off_diagonal_rms"))
    assert all(row["off_diagonal_chance"] == 0.1 for row in rows)


def test_accuracy_intervals_never_leave_the_scale(models: pd.DataFrame) -> None:
    chart = charts.accuracy_side_by_side(models)  # two seeds: the t interval of scratch ends above 100
    bounds = [row for rows in datasets(chart) for row in rows if row.get("high") is not None]
    assert {row["method"] for row in bounds} == {"scratch", "RSD"}
    assert max(row["high"] for row in bounds) == 100
    assert scale(chart, "x")["domain"][1] == 100


def test_one_seed_is_drawn_without_an_interval(models: pd.DataFrame) -> None:
    chart = charts.accuracy_side_by_side(models[models["seed"] != 1])
    assert not any("high" in row for rows in datasets(chart) for row in rows)


def test_the_confusion_matrix_counts_every_answer() -> None:
    answers = pd.DataFrame({"model": "rsd-0", "actual": list("aab"), "predicted": list("abb")})
    (rows,) = datasets(charts.confusion_matrix(answers, "rsd-0", ["a", "b"]))
    counts = {(row["actual"], row["predicted"]): (row["images"], row["share"]) for row in rows}
    assert counts == {("a", "a"): (1, 0.5), ("a", "b"): (1, 0.5), ("b", "a"): (0, 0), ("b", "b"): (1, 1)}


def test_many_classes_are_cut_to_those_with_the_most_errors() -> None:
    names = [f"class {i}" for i in range(100)]
    answers = pd.DataFrame({"model": "m", "actual": names, "predicted": names[:98] + names[:97:-1]})
    (rows,) = datasets(charts.confusion_matrix(answers, "m", names))
    drawn = {row["actual"] for row in rows}
    assert len(drawn) == charts.MAX_CLASSES
    assert {"class 98", "class 99"} <= drawn


def test_a_layer_without_a_cka_is_left_out_of_the_heat_map_and_the_scale_is_0_to_1() -> None:
    likeness = pd.DataFrame(
        {"student_layer": ["a", "a", "b", "b"], "teacher_layer": ["c", "d"] * 2, "cka": [0.2, np.nan, -0.01, 0.9]}
    )
    chart = charts.layer_likeness(likeness)
    assert [row["cka"] for row in datasets(chart)[0]] == [0.2, None, -0.01, 0.9]
    assert scale(chart, "opacity")["domain"] == [0, 1]
    assert all("isValid(datum.cka)" in str(layer["transform"]) for layer in chart.to_dict()["layer"])
    assert chart.to_dict()["layer"][0]["encoding"]["y"]["sort"] == ["d", "c"]  # the first at the bottom


def test_many_layers_are_drawn_without_numbers() -> None:
    likeness = pd.DataFrame(
        [{"student_layer": f"s{i}", "teacher_layer": f"t{j}", "cka": 0.5} for i in range(9) for j in range(3)]
    )
    assert [layer["mark"]["type"] for layer in charts.layer_likeness(likeness).to_dict()["layer"]] == ["rect"]


def test_a_correlation_has_a_colour_for_its_sign_and_a_shade_for_its_size() -> None:
    chart = charts.correlation_matrix([[0.9, -0.1], [0.2, 0.8]], most=0.9)
    assert {(row["teacher"], row["student"]): row["r"] for row in datasets(chart)[0]} == {
        (0, 0): 0.9, (0, 1): -0.1, (1, 0): 0.2, (1, 1): 0.8
    }  # fmt: skip
    assert scale(chart, "opacity")["domain"] == [0, 0.9]


def test_calibration_is_in_per_cent_whether_the_record_holds_shares_or_not() -> None:
    shares = pd.DataFrame(
        {"model": "m", "method": "rsd", "confidence": [0.5, 0.9], "accuracy": [0.4, 1.0], "count": [3, 7]}
    )
    percent = shares.assign(confidence=[50.0, 90.0], accuracy=[40.0, 100.0])
    assert charts.reliability(shares).to_dict()["datasets"] == charts.reliability(percent).to_dict()["datasets"]


def test_many_samples_are_drawn_at_quantiles_that_keep_the_slowest_and_are_the_same_each_time() -> None:
    random = np.random.default_rng(0)
    samples = pd.DataFrame(
        {
            "runtime": "onnxruntime",
            "precision": "fp32",
            "threads": 1,
            "nanoseconds": random.integers(200_000, 300_000, 50_000),
        }
    )
    rows = max(datasets(charts.latency_distribution(samples)), key=len)
    again = max(datasets(charts.latency_distribution(samples.sample(frac=1, random_state=1))), key=len)
    assert rows == again
    assert len(rows) == charts.LATENCY_QUANTILES
    assert rows[-1]["ms"] == pytest.approx(samples["nanoseconds"].max() / 1e6, rel=1e-4)
    assert rows[-1]["share"] == 1


def test_latency_is_drawn_without_a_tail_that_was_not_measured() -> None:
    row = {"precision": "fp32", "runtime": "onnxruntime", "threads": 1, "p50_ms": 0.2, "p99_ms": None, "accuracy": 97.0}
    assert len(charts.latency_against_accuracy(pd.DataFrame([row])).to_dict()["layer"]) == 1


@pytest.mark.parametrize(
    ("runtime", "threads", "words"),
    [
        ("onnxruntime", 1, "ONNX Runtime, 1 thread"),
        ("onnxruntime", 4.0, "ONNX Runtime, 4 threads"),
        ("tensorrt_rtx", float("nan"), "TensorRT for RTX"),
        ("tensorrt", None, "TensorRT"),
    ],
)
def test_what_a_file_runs_on_is_said_in_words(runtime: str, threads: object, words: str) -> None:
    assert charts.series(runtime, threads) == words


def test_charts_hold_no_colour_of_the_page(out: Path) -> None:
    frame = pd.read_csv(page_arguments(out)["evaluation"] / "curves.csv")
    theme = charts.theme(ink="var(--ink)", muted="var(--muted)", line="var(--line)")
    assert theme["background"] is None
    assert "background" not in charts.learning_curve(frame, "loss").to_dict(context={"pre_transform": False})
