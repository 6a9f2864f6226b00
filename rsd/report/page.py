"""The report: one self-contained HTML page from the records of a run.

It names each missing record. The same records give the same bytes.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from rsd.export import runtimes
from rsd.machine.errors import UserError
from rsd.measure.budget import choose
from rsd.report import html, verdict
from rsd.report.charts import accuracy, cost, inside, style, training
from rsd.report.charts import speed as latency
from rsd.report.flat import flat, section_order
from rsd.report.html import Figure, figure
from rsd.report.labels import advantage, labels_used
from rsd.report.latency_table import COLUMNS, cells, notes
from rsd.report.mistakes import Mistake, worst
from rsd.report.records import Records, read
from rsd.report.table import larger_int8, method_name, start_in_words, twin
from rsd.report.terms import caption
from rsd.run.paths import Run
from rsd.run.records import ConvertRecord


def write_page(path: Path, run: Run, *, params: Path, budget: Path) -> None:
    """Write the report on one run to `path`, whole or not at all.

    Args:
        params: the params.yaml of this run, shown unchanged.
        budget: folder with `devices/*.json` and `trained.json`; see `rsd.measure.budget`.

    Raises:
        UserError: no model was evaluated. Every other record may be missing or stale; the page then says so.
    """
    records = read(run)
    html.write(
        path,
        "page.html",
        package="rsd.report",
        **_content(records),
        **_mistakes(records, run.data),
        **_budget(choose.rows(budget, run)),
        **_labels(records),
        params_file=params.read_text() if params.is_file() else None,
    )


def _content(records: Records) -> dict[str, Any]:
    shipped = records.shipped
    methods = style.method_order(records.frame["method"])
    plain = twin(records.students.values())
    gains = {name: records.gain(name) for name in methods if name not in ("teacher", "scratch")}
    return {
        "pair": records.choice.pair,
        "left_out": records.left_out,
        "headline": verdict.headline(records),
        "facts": verdict.facts(records),
        "methods": [{"name": method_name(name), "colour": style.colour(name)} for name in methods],
        "models": [
            {**model.model_dump(), "colour": style.colour(method), "shipped": model is shipped}
            for method in methods
            for model in records.evaluation.by_method(method)
        ],
        "gains": [
            f"{method_name(name)}: {verdict.points(gain.mean)} over {plain} ({verdict.gain_words(gain)})."
            if gain
            else f"{method_name(name)}: no scratch twin of the same seed, so no gain is stated."
            for name, gain in gains.items()
        ],
        "probe": records.teacher.probe if records.teacher else None,
        "start": start_in_words(records.students.values()),
        "seeds": len(records.choice.seeds),
        "last_epoch": ("select", "last") in flat(records.params.get("recipe", {})),
        "epochs": 0 if records.curves is None else records.curves["epoch"].nunique(),
        "most_epochs": 0 if records.curves is None else training.points_drawn(records.curves),
        "classes": len(records.models[0].per_class),
        "most_classes": accuracy.MAX_CLASSES,
        "reliable": accuracy.RELIABLE_COUNT,
        "shipped": shipped,
        "student": records.students.get(shipped.model) if shipped else None,
        "figures": _figures(records),
        "terms": _terms(records),
        "likeness": _likeness(records),
        "shown": records.shown,
        "correlation": records.shown.correlation if records.shown else None,
        "redundancy": _redundancy(records),
        "correlations": _correlations(records),
        "confusions": _confusions(records),
        "exports": [line for export in records.exports for line in _pairs(export)],
        "stripped": next((rung for one in records.exports for rung in one.ladder if rung.rung == "stripped"), None),
        "engines": records.engines,
        "larger_int8": larger_int8(records.engines),
        "latency_head": COLUMNS,
        "latency": [(row.precision, row.status, cells(row)) for row in records.latency],
        "timing": notes(records.benchmark) if records.benchmark else [],
        "device": flat(records.device.model_dump(exclude={"versions"}) if records.device else {}),
        "versions": flat(records.versions),
        "params": {name: flat(records.params[name]) for name in section_order(records.params)},
    }


def _budget(rows: list[choose.BudgetRow]) -> dict[str, Any]:
    """The trained students on every known device, and their front of accuracy against p99."""
    best = set(map(id, choose.pareto(rows)))
    trained = sorted((row for row in rows if row.top1 is not None), key=lambda row: (row.device, row.p99_ms or 0.0))
    with_latency = [row for row in trained if row.p99_ms is not None]
    return {
        "budget_rows": [{"row": row, "front": id(row) in best} for row in trained],
        "budget_untrained": len(rows) - len(trained),
        "budget_front": figure("budget", latency.front(with_latency)) if with_latency else None,
    }


def _labels(records: Records) -> dict[str, Any]:
    """The images of each split, what labels were used for, what the teacher had; nothing where no data is prepared."""
    data, teacher = records.data, records.teacher
    if data is None:
        return {}
    recipe = records.params.get("teacher_recipe")
    uses = labels_used(records.choice, data, teacher, records.students.values(), records.exports, recipe)
    return {"images": data.stated_counts, "labels": uses, "advantage": advantage(data, teacher) if teacher else None}


def _mistakes(records: Records, data: Path) -> dict[str, Any]:
    """The shipped student's worst errors as pictures, or why there are none."""
    try:
        mistakes: list[Mistake] | None = worst(records, data)
    except UserError as error:
        return {"mistakes": None, "no_mistakes": str(error)}
    return {"mistakes": mistakes, "no_mistakes": ""}


def _pairs(export: ConvertRecord) -> list[dict[str, Any]]:
    """Lines of the ladder of precisions, one for each runtime; shares of the parity record become per cent.

    A file that another runtime computes in an engine's place, without any difference, gets no line.
    """
    return [
        {
            "precision": export.precision,
            "runtime": runtimes.get(runtime).titles[""],
            "bytes": pair.bytes,
            "top1": pair.test_top1,
            "lost": 0.0 - pair.parity.accuracy_delta_points,
            "margin": pair.parity.accuracy_delta_margin,
            "agreement": 100 * pair.parity.top1_agreement,
            "difference": pair.parity.max_difference_share,
            "cosine": pair.parity.min_cosine,
            "details": pair.details,
        }
        for runtime, pair in export.pairs.items()
        if runtime != runtimes.BUILDER or pair.file != export.main.file
    ]


def _strays(records: Records) -> pd.DataFrame:
    """A row per value within each precision's file in ONNX Runtime."""
    return pd.DataFrame(
        {
            "precision": export.precision,
            "depth": number / max(len(export.main.strays) - 1, 1),
            "error": stray.error,
            "value": stray.value,
            "part": stray.part,
        }
        for export in records.exports
        for number, stray in enumerate(export.main.strays)
    )


def _figures(records: Records) -> dict[str, Figure]:
    """The single charts by name; one whose records are missing is left out, and the template says so."""
    shipped, frame, timed = records.shipped, records.frame, _timed(records)
    charts = {"accuracy": accuracy.accuracy_side_by_side(frame)}
    if records.curves is not None and records.curves["validation_top1"].notna().any():
        charts["validation"] = training.learning_curve(
            records.curves, "validation_top1", title="validation top-1, %", height=260
        )
    if all(model.per_class for model in records.models):
        charts["classes"] = accuracy.per_class_accuracy(frame)
    if shipped and records.confusion is not None:
        charts["confusion"] = accuracy.confusion_matrix(records.confusion, shipped.model, list(shipped.per_class))
    if records.calibration is not None:
        charts["calibration"] = accuracy.reliability(records.calibration, shipped=shipped.model if shipped else None)
    if len(timed):
        charts["latency"] = latency.latency_against_accuracy(timed)
    if records.exports:
        charts["size"] = cost.size_against_accuracy(_sizes(records))
        if len(strayed := _strays(records)):
            charts["strays"] = inside.strays_over_depth(strayed)
    if records.samples is not None:
        charts["distribution"] = latency.latency_distribution(records.samples[records.samples["batch"] == 1])
    return {name: figure(name, chart) for name, chart in charts.items()}


def _terms(records: Records) -> list[Figure]:
    """A small chart per loss term."""
    if records.curves is None:
        return []
    figures = []
    for term in training.loss_terms(records.curves):
        title, note = caption(term)
        figures.append(figure(f"term-{term}", training.learning_curve(records.curves, term), title, note))
    return figures


def _likeness(records: Records) -> list[Figure]:
    """A heat map of CKA per student that was looked into, on one scale."""
    if records.likeness is None:
        return []
    figures = []
    for method in style.method_order(records.likeness["method"]):
        for name, rows in records.likeness[records.likeness["method"] == method].groupby("student"):
            figures.append(figure(f"cka-{name}", inside.layer_likeness(rows), f"{name} and its teacher"))
    return figures


def _correlations(records: Records) -> list[Figure]:
    """P before and after training, on one scale."""
    if records.shown is None or records.shown.correlation is None:
        return []
    pictures = {"before": records.shown.correlation.before, "after": records.shown.correlation.after}
    most = max(abs(value) for one in pictures.values() for row in one.matrix for value in row)
    return [
        figure(
            f"correlation-{when}",
            inside.correlation_matrix(one.matrix, most=most),
            f"P {when} training",
            f"Mean of the diagonal {one.diagonal_mean:.2f}; RMS off the diagonal {one.off_diagonal_rms:.3f}.",
        )
        for when, one in pictures.items()
    ]


def _sizes(records: Records) -> pd.DataFrame:
    """Bytes and test top-1 of each method's weights in fp32 (the mean over its seeds) and of the exported files."""
    trained = records.frame.groupby("method", sort=False)[["parameters", "top1"]].mean().reset_index()
    weights = trained.assign(
        name=[method_name(name) for name in trained["method"]], bytes=4 * trained["parameters"], precision=None
    )
    files = [
        (f"{one.precision}.onnx", None, one.precision, one.main.bytes, one.main.test_top1) for one in records.exports
    ]
    columns = ["name", "method", "precision", "bytes", "top1"]
    rows = pd.concat([weights.reindex(columns=columns), pd.DataFrame(files, columns=columns)], ignore_index=True)
    return rows.dropna(subset=["bytes"]).astype({"bytes": float, "top1": float}).round({"top1": 2})


def _redundancy(records: Records) -> list[dict[str, Any]]:
    """The redundancy of each method's embedding: means over its seeds, where it was measured."""
    columns = ["embedding_width", "effective_rank", "correlation_rms"]
    if not set(columns) <= set(records.frame):
        return []
    means = records.frame.groupby("method")[columns].mean().to_dict("index")
    return [
        {"name": method_name(method), "colour": style.colour(method), "measured": means[method]}
        for method in style.method_order(records.frame["method"])
    ]


def _timed(records: Records) -> pd.DataFrame:
    """The measured rows, with the accuracy of the file that was timed."""
    top1 = {export.precision: export.main.test_top1 for export in records.exports}
    rows = [
        {
            "precision": row.precision,
            "runtime": row.runtime,
            "threads": row.threads,
            "p50_ms": row.p50_ms,
            "p99_ms": row.p99_ms,
            "accuracy": top1.get(row.precision),
        }
        for row in records.latency
        if row.status == "measured" and row.batch == 1
    ]
    frame = pd.DataFrame(rows, columns=["precision", "runtime", "threads", "p50_ms", "p99_ms", "accuracy"])
    return frame.dropna(subset=["p50_ms", "accuracy"])


def _confusions(records: Records) -> list[str]:
    """The five most frequent errors of the shipped student, in words."""
    if records.shipped is None or records.confusion is None:
        return []
    answers = records.confusion[records.confusion["model"] == records.shipped.model]
    wrong = answers[answers["actual"] != answers["predicted"]]
    counts = wrong.value_counts(["actual", "predicted"], sort=False).sort_values(ascending=False, kind="stable")
    most = counts.head(5).reset_index().itertuples(index=False)
    return [f"{actual} taken for {predicted} ({count})" for actual, predicted, count in most]
