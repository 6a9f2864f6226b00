"""What storing few views costs RSD in accuracy: validation top-1 over V, the count of stored views.

    python -m benchmarks.view_count

Reads what `dvc repro teacher` made (with `pair: digits/resnet-vit`: 40 epochs); touches no test image. Eight minutes
on two cores with other work. One store is written with a view for each epoch ("all": no view is seen twice); V = 4 then
uses its views 0 to 3 in turn. The scratch twin sees new views in every epoch, whatever V is, as it would alone. Prints
a table and draws docs/view_count.png.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import altair as alt
import pandas as pd
import torch

from benchmarks.command import command
from benchmarks.interleaved import markdown
from benchmarks.tune_twin import SEEDS, validation_top1
from rsd.machine.compute import ComputeOptions, set_up
from rsd.models.folder import load_trained
from rsd.report.charts.style import METHOD_COLOURS
from rsd.sources.images import read_split
from rsd.teacher.embed import write_store
from rsd.teacher.store import StoredTeacher, ViewOptions
from rsd.training.recipe import Recipe
from rsd.views.augment import ViewChoice
from stages import OUT

VIEW_SEED = 0
PLOT = Path("docs/view_count.png")


def measure(counts: Sequence[int], seeds: Sequence[int], recipe: Recipe) -> pd.DataFrame:
    """Columns views (an epoch's worth each; 0 for the scratch twin), seed and top1 in per cent."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model, normalize, _ = load_trained(OUT.teacher_folder)
        write_store(
            Path(folder) / "views", model, normalize, read_split(OUT.data, "train"), augment=recipe.augment,
            options=ViewOptions(count=max(counts), seed=VIEW_SEED), made_from={},
            unfinished=Path(folder) / "unfinished",
        )  # fmt: skip
        store = StoredTeacher(Path(folder) / "views", made_from={}, device=torch.device("cpu"))
        for seed in seeds:
            for count in (0, *counts):
                method, teacher, views, name = "scratch", None, ViewChoice(seed), f"scratch-{seed}"
                if count:
                    method, teacher, views = "rsd", store, ViewChoice(VIEW_SEED, count)
                    name = f"rsd-{seed} with {count} views"
                top1 = validation_top1(method, seed, recipe, teacher=teacher, views=views, name=name)
                rows.append({"views": count, "seed": seed, "top1": top1})
    return pd.DataFrame(rows)


def table(frame: pd.DataFrame, epochs: int) -> str:
    """Mean and standard deviation over the seeds, and the mean difference to V = all within a seed."""
    by_seed = frame.pivot(index="seed", columns="views", values="top1")
    most = by_seed[by_seed.columns.max()]
    rows = []
    for count in by_seed.columns:
        name = f"RSD, V = {_label(int(count), epochs)}" if count else "scratch, new views each epoch"
        top1 = by_seed[count]
        mean = f"{top1.mean():.2f} ± {top1.std():.2f}"
        behind = "" if count in (0, by_seed.columns.max()) else f"{(top1 - most).mean():+.2f}"
        rows.append({"": name, "validation top-1 %": mean, "against the most views": behind})
    return markdown(rows)


def chart(frame: pd.DataFrame, epochs: int) -> alt.LayerChart | alt.FacetChart:
    """A point per seed, a line through the means, and the scratch twin's mean as a rule."""
    frame = frame.assign(label=[_label(count, epochs) for count in frame.views])
    rsd = frame[frame.views > 0]
    order = list(dict.fromkeys(rsd.sort_values("views").label))
    x = alt.X("label:N", sort=order, title="stored views of each image, V", axis=alt.Axis(labelAngle=0))
    y = alt.Y("top1:Q", title="validation top-1 %", scale=alt.Scale(zero=False))
    base = alt.Chart(rsd).encode(x=x)
    line = base.mark_line(color=METHOD_COLOURS["rsd"]).encode(y=alt.Y("mean(top1):Q", title="validation top-1 %"))
    points = base.mark_circle(size=60, opacity=0.7, color=METHOD_COLOURS["rsd"]).encode(y=y)
    twin = pd.DataFrame({"top1": [frame[frame.views == 0].top1.mean()], "text": ["scratch twin, mean"]})
    rule = alt.Chart(twin).mark_rule(strokeDash=[4, 4], color=METHOD_COLOURS["scratch"]).encode(y=y)
    text = alt.Chart(twin).mark_text(align="left", dy=-7, color=METHOD_COLOURS["scratch"])
    labelled = text.encode(x=alt.value(4), y=y, text="text:N")
    return alt.layer(line, points, rule, labelled).properties(
        width=420, height=240, title=f"RSD, {frame.seed.nunique()} seeds, {epochs} epochs"
    )


def _label(count: int, epochs: int) -> str:
    return f"{count} (all)" if count == epochs else str(count)


def main() -> None:
    set_up(OUT.section("compute", ComputeOptions))
    recipe = OUT.section("recipe", Recipe)
    frame = measure(sorted({1, 4, 16, recipe.epochs}), SEEDS, recipe)
    print(f"{len(SEEDS)} seeds, {recipe.epochs} epochs\n\n{table(frame, recipe.epochs)}")
    chart(frame, recipe.epochs).save(PLOT, scale_factor=2)


if __name__ == "__main__":
    command(main, __doc__)
