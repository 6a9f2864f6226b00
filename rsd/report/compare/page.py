"""Several runs on one self-contained page."""

from collections.abc import Sequence
from pathlib import Path

from rsd.report import html
from rsd.report.charts.style import method_order
from rsd.report.compare import charts, tables
from rsd.report.compare.run import ComparedRun
from rsd.report.html import Figure, figure
from rsd.report.table import method_name

CURVES = {"validation_top1": "validation top-1, %", "loss": "total loss"}


def write_page(path: Path, runs: Sequence[ComparedRun]) -> None:
    """Write the comparison of two or more runs with the first of them to `path`, whole or not at all."""
    paint, latency = charts.colours(runs), charts.latency(runs)
    html.write(
        path,
        "page.html",
        package="rsd.report.compare",
        runs=runs,
        names=[run.name for run in runs],
        paint=paint,
        methods=[{"name": name, "colour": colour} for name, colour in paint.items()],
        headline=tables.headline(runs),
        warnings=tables.warnings(runs),
        glance=tables.glance(runs),
        params=tables.params(runs),
        heads=tables.measured(runs),
        metrics=tables.metrics(runs),
        unchanged=[method_name(method) for method in tables.unchanged(runs)],
        accuracy=figure("accuracy", charts.accuracy(runs)),
        curves=_curves(runs),
        sizes=tables.sizes(runs),
        latencies=tables.latencies(runs),
        latency=None if latency is None else figure("latency", latency),
        comparable=tables.same_device(runs),
        commands=tables.commands(runs),
    )


def _curves(runs: Sequence[ComparedRun]) -> list[Figure]:
    """Validation accuracy and loss of each method that differs."""
    figures, same = list[Figure](), tables.unchanged(runs)
    methods = method_order(model.method for run in runs for model in run.records.models)
    for method in [method for method in methods if method not in same]:
        for column, title in CURVES.items():
            if (chart := charts.curve(runs, method, column)) is not None:
                figures.append(figure(f"{method}-{column}", chart, f"{method_name(method)}, {title}"))
    return figures
