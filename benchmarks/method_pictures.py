"""The pictures of docs/method.md.

    python -m benchmarks.method_pictures # half a minute; `dvc repro evaluate` first

- method_p.png: the cross-correlation of student and teacher before and after, from out/evaluate/correlation.json.
- method_gram.png: `rsd_loss` beside the textbook version, forward and backward, in one thread's processor time.
- method_kappa.png: a student of a made-up teacher whose dimensions repeat each other, trained with several kappas.
- method_pull.png: how hard RSD pulls beside the cross-entropy, by `RSDDistiller.pull`.
"""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.command import command
from benchmarks.interleaved import interleaved
from benchmarks.overhead import SHAPE
from benchmarks.rsd_loss import step, textbook
from rsd.machine.errors import UserError
from rsd.machine.files import read_json
from rsd.methods.base import Setting
from rsd.methods.rsd import AAD, PUBLISHED_PULL, STRONGEST_PULL, RSDDistiller, RSDOptions, decoupled, rsd_loss
from rsd.models.correlation import cross_correlation, off_diagonal_rms
from rsd.models.make import ModelOptions, create
from rsd.report.charts.inside import correlation_matrix
from rsd.report.charts.style import METHOD_COLOURS, NEGATIVE, NEUTRAL, POSITIVE
from rsd.run.records import ShownRecord

BATCHES, WIDTHS = (8, 32, 128, 512), (384, 768, 2048)
KAPPAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
LATENT, TEACHER_WIDTH, STUDENT_WIDTH, BATCH = 16, 64, 32, 128
SCHEME = alt.Scale(range=[POSITIVE, NEGATIVE, METHOD_COLOURS["kd"]])


def correlations(record: Path) -> alt.HConcatChart:
    """P of the shipped student, before and after."""
    if not record.is_file():
        raise UserError(f"expected the record of an RSD student in {record}, found none; run `dvc repro evaluate`")
    shown = ShownRecord.model_validate(read_json(record))
    if shown.correlation is None:
        raise UserError(f"expected the shipped student's correlation in {record}, found none; ship an RSD student")
    return before_and_after(shown.correlation.model_dump())


def before_and_after(record: Mapping[str, Any]) -> alt.HConcatChart:
    """P before and after training in one colour scale, from the record that `evaluate` writes."""
    most = max(abs(value) for when in ("before", "after") for line in record[when]["matrix"] for value in line)
    sides = [
        correlation_matrix(side["matrix"], most=most).properties(
            width=300, title=f"{when}: diagonal {side['diagonal_mean']:.2f}, off it {side['off_diagonal_rms']:.2f}"
        )
        for when, side in ((when, record[when]) for when in ("before", "after"))
    ]
    return alt.hconcat(*sides)


def gram(rounds: int, batches: tuple[int, ...] = BATCHES, widths: tuple[int, ...] = WIDTHS) -> pd.DataFrame:
    """batch, width, faster: the median of the ratios within a turn."""
    torch.set_num_threads(1)
    rows = []
    for width in widths:
        for batch in batches:
            generator = torch.Generator().manual_seed(0)
            student = torch.randn(batch, width, generator=generator).requires_grad_()
            teacher = torch.randn(batch, width, generator=generator)
            losses = {"textbook": textbook, "ours": rsd_loss}
            runs = {name: partial(step, loss, student, teacher) for name, loss in losses.items()}
            times = interleaved(runs, rounds=rounds, clock=time.process_time)
            rows.append({"batch": batch, "width": width, "faster": (times.textbook / times.ours).median()})
    return pd.DataFrame(rows)


def gram_chart(rows: pd.DataFrame) -> alt.LayerChart | alt.FacetChart:
    x = alt.X("batch:Q", scale=alt.Scale(type="log", base=2), title="batch B")
    y = alt.Y("faster:Q", scale=alt.Scale(type="log"), title="times faster than the D x D matrix and its mask")
    colour = alt.Color("width:N", title="width D", scale=SCHEME)
    lines = alt.Chart(rows).mark_line(point=True).encode(x=x, y=y, color=colour)
    even = alt.Chart(pd.DataFrame({"faster": [1.0]})).mark_rule(strokeDash=[4, 4], color=NEUTRAL).encode(y=y)
    return alt.layer(even, lines).properties(width=420, height=260)


def kappas(steps: int, choices: tuple[float, ...] = KAPPAS) -> pd.DataFrame:
    """kappa, what, value: where a student ends, on samples that it has not seen; without a cross-entropy.

    The teacher's 64 dimensions are mixtures of 16 independent ones, so they repeat each other; the student sees the
    16 through a fixed layer and noise.
    """
    torch.manual_seed(0)
    mixing, view = torch.randn(LATENT, TEACHER_WIDTH), torch.randn(LATENT, STUDENT_WIDTH)

    def samples(count: int) -> tuple[Tensor, Tensor]:
        latent = torch.randn(count, LATENT)
        return torch.tanh(latent @ view / LATENT**0.5) + 0.3 * torch.randn(count, STUDENT_WIDTH), latent @ mixing

    inputs, targets = samples(4096)
    own = off_diagonal_rms(cross_correlation(targets, targets))
    rows = [{"kappa": kappa, "what": "RMS of the teacher with itself", "value": own} for kappa in choices]
    for kappa in choices:
        torch.manual_seed(1)
        student = nn.Sequential(nn.Linear(STUDENT_WIDTH, 128), nn.GELU(), nn.Linear(128, STUDENT_WIDTH))
        aad = AAD(STUDENT_WIDTH, TEACHER_WIDTH)
        optimizer = torch.optim.AdamW([*student.parameters(), *aad.parameters()], lr=2e-3)
        for _ in range(steps):
            batch, target = samples(BATCH)
            optimizer.zero_grad()
            rsd_loss(aad(student(batch)), target, kappa=kappa).backward()
            optimizer.step()
        with torch.no_grad():
            correlation = cross_correlation(decoupled(aad, student(inputs)), targets)
        rows += [
            {"kappa": kappa, "what": "P, mean of the diagonal", "value": float(correlation.diagonal().mean())},
            {"kappa": kappa, "what": "P, RMS off the diagonal", "value": off_diagonal_rms(correlation)},
        ]
    return pd.DataFrame(rows)


def kappa_chart(rows: pd.DataFrame) -> alt.Chart:
    x = alt.X("kappa:Q", scale=alt.Scale(type="log"), title="kappa", axis=alt.Axis(format="~g", tickCount=5))
    y = alt.Y("value:Q", title="correlation")
    colour = alt.Color("what:N", title=None, scale=SCHEME, legend=alt.Legend(orient="top", labelLimit=300))
    return alt.Chart(rows).mark_line(point=True).encode(x=x, y=y, color=colour).properties(width=420, height=260)


def pulls() -> pd.DataFrame:
    """width, pull, setting: by the function that warns a user."""
    with torch.device("meta"):
        student = create(ModelOptions(name="resnet18"), classes=100, image_shape=SHAPE)
        tasks = {
            reference: RSDDistiller(student, Setting(teacher_width=768), RSDOptions(reference_width=reference))
            for reference in (None, 768)
        }
    rows = [
        {"width": width, "batch": f"batch {batch}", "pull": tasks[reference].pull(width, batch), "scale": name}
        for reference, name in ((None, "the paper's sums"), (768, "reference_width: 768"))
        for batch in (32, 128, 512)
        for width in (64, 128, 192, 384, 768, 1024, 1536, 2048)
    ]
    return pd.DataFrame(rows)


def pull_chart(rows: pd.DataFrame) -> alt.LayerChart | alt.FacetChart:
    x = alt.X("width:Q", scale=alt.Scale(type="log", base=2, domain=[64, 2048]), title="width D of the teacher")
    y = alt.Y("pull:Q", scale=alt.Scale(type="log"), title="gradient at the embedding / that of the cross-entropy")
    colour, dash = alt.Color("batch:N", title=None, sort=None, scale=SCHEME), alt.StrokeDash("scale:N", title=None)
    lines = alt.Chart(rows).mark_line().encode(x=x, y=y, color=colour, strokeDash=dash)
    marks = pd.DataFrame({"pull": [STRONGEST_PULL, PUBLISHED_PULL], "text": ["warned above", "most published runs"]})
    rules = alt.Chart(marks).mark_rule(strokeDash=[2, 3], color=NEUTRAL).encode(y=y)
    text = alt.Chart(marks).mark_text(dy=-6, color=NEUTRAL).encode(x=alt.value(165), y=y, text="text:N")
    return alt.layer(rules, text, lines).properties(width=420, height=260)


def main(into: Path = Path("docs")) -> None:
    charts = {
        "method_p.png": correlations(Path("out/evaluate/correlation.json")),
        "method_gram.png": gram_chart(gram(rounds=9)),
        "method_kappa.png": kappa_chart(kappas(steps=600)),
        "method_pull.png": pull_chart(pulls()),
    }
    for name, chart in charts.items():
        chart.save(into / name, scale_factor=1.5)
        print(into / name)


if __name__ == "__main__":
    command(main, __doc__)
