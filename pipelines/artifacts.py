"""What a run publishes in Prefect's UI: tables, and pictures that the report's own code draws."""

import base64
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from pipelines.dvc_command import DVC, reason
from pipelines.outcome import StageRun
from pipelines.process_group import run_group
from rsd.machine.errors import UserError
from rsd.report.table import method_name
from rsd.run.paths import Run

if TYPE_CHECKING:
    from rsd.report.records import Records

OUT_URL, SERVED = "RSD_OUT_URL", "RSD_WORKSPACE"
"""The address of `out/` for a browser, and the project that it is of. `make server` sets both."""


def publish(folder: Path, runs: Sequence[StageRun]) -> None:
    """Publish how the stages ended, the metrics, and for a full run parity, latency, curves, Pareto front and report.

    A failure to publish is a warning: it is not worth failing the run.
    """
    with warn_only("stages"):
        create_table_artifact([asdict(run) for run in runs], key="stages", description="How each stage ended")
    with warn_only("metrics"):
        status, lines = run_group([*DVC, "metrics", "show", "--md"], folder)
        if status:
            raise UserError(reason(lines))
        create_markdown_artifact("\n".join(lines), key="metrics", description="`dvc metrics show`")
    run = Run.of(folder)
    if run.evaluation_file.is_file():
        with warn_only("results"):
            _publish_results(run, budget=folder / "budget")
    with warn_only("report"):
        if run.report.is_file():
            _publish_report(folder, run.report)


def picture(svg: str, name: str) -> str:
    """Markdown with the chart itself in it, so that it outlives its files."""
    return f"![{name}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def key_of(*parts: str) -> str:
    """A key as Prefect takes it: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


@contextmanager
def warn_only(what: str) -> Iterator[None]:
    """An error in this block (no server, a record of another version) is a warning in the run's log."""
    try:
        yield
    except Exception as error:
        get_run_logger().warning("not published: %s: %s", what, error)


def _publish_report(folder: Path, report: Path) -> None:
    served, url = os.environ.get(SERVED), os.environ.get(OUT_URL)
    if url and served and Path(served).resolve() == folder.resolve():
        text = str(report.relative_to(folder))
        create_link_artifact(f"{url}/{report.name}", link_text=text, key="report", description="Report")
    else:  # a link would open the report of another project
        where = f"`{report}` on {socket.gethostname()}"
        create_markdown_artifact(where, key="report", description="Report")


def _publish_results(run: Run, *, budget: Path) -> None:
    # Late: they take seconds to import, and a run that fails early draws nothing.
    from rsd.measure.budget import choose
    from rsd.report import latency_table as latency
    from rsd.report import records, verdict
    from rsd.report.charts import style, training
    from rsd.report.charts.accuracy import accuracy_side_by_side
    from rsd.report.charts.speed import front, latencies

    known = records.read(run)
    facts = [f"- **{fact.label}** {fact.value} ({fact.note})" for fact in verdict.facts(known)]
    accuracy = picture(style.svg(accuracy_side_by_side(known.frame)), "test top-1")
    create_markdown_artifact(
        "\n\n".join([f"### {verdict.headline(known)}", "\n".join(facts), accuracy, *known.left_out]),
        key="verdict",
        description="The run in one sentence, five numbers and a picture",
    )
    if rows := _parity(known):
        create_table_artifact(rows, key="parity", description="Exported files against PyTorch, on test images")
    if known.benchmark:
        with warn_only("latency"):
            create_markdown_artifact(
                picture(style.svg(latencies(known.benchmark)), "latency") + "\n\n" + latency.markdown(known.benchmark),
                key="latency",
                description="Latency on this machine",
            )
    if known.curves is not None:
        titles = {"validation_top1": "validation top-1, %"} | {t: t for t in training.loss_terms(known.curves)}
        charts = [training.learning_curve(known.curves, name, title=title) for name, title in titles.items()]
        legend = " ".join(_legend(name, style.colour(name)) for name in style.method_order(known.curves["method"]))
        create_markdown_artifact(
            "\n\n".join([legend, *(picture(style.svg(chart), "curve") for chart in charts)]),
            key="curves",
            description="Validation accuracy and every loss term over the epochs",
        )
    if points := [row for row in choose.rows(budget, run) if row.top1 is not None and row.p99_ms is not None]:
        create_markdown_artifact(
            picture(style.svg(front(points)), "Pareto front"),
            key="pareto",
            description="Test accuracy against p99; the line joins what nothing else beats",
        )


def _legend(method: str, colour: str) -> str:
    box = '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20">{line}{text}</svg>'
    name = method_name(method)
    line = f'<rect y="8" width="20" height="4" fill="{colour}"/>'
    text = f'<text x="26" y="15" font-family="sans-serif" font-size="13" fill="{colour}">{name}</text>'
    return picture(box.format(width=34 + 9 * len(name), line=line, text=text), name)


def _parity(known: "Records") -> list[dict[str, object]]:
    return [
        {
            "precision": file.precision,
            "runtime": runtime,
            "bytes": pair.bytes,
            "images": pair.parity.images,
            "same first class, %": round(100 * pair.parity.top1_agreement, 2),
            "largest difference": f"{pair.parity.max_difference:.2g}",
            "accuracy, points": round(pair.parity.accuracy_delta_points, 2),
        }
        for file in known.exports
        for runtime, pair in file.pairs.items()
    ]
