"""What a run leaves to look at in Prefect's UI."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from prefect import get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from pipelines.dvc_command import DVC, reason
from pipelines.outcome import StageRun
from pipelines.process_group import run_group

REPORT = Path("out/report.html")


def publish(folder: Path, runs: Sequence[StageRun]) -> None:
    """Publish the table of stages, the metrics DVC knows and the path of the report as Prefect artifacts."""
    create_table_artifact([asdict(run) for run in runs], key="stages", description="How each stage ended")
    metrics: list[str] = []
    if run_group([*DVC, "metrics", "show", "--md"], folder, say=metrics.append):
        get_run_logger().warning("no metrics artifact: %s", reason(metrics))
    else:
        create_markdown_artifact("\n".join(metrics), key="metrics", description="`dvc metrics show`")
    report = folder / REPORT
    if report.exists():
        create_link_artifact(report.as_uri(), link_text=str(report), key="report", description="The report")
