"""The study's tables, in Markdown."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from benchmarks.study.students import MAIN, gains, longer, same_steps, usual
from rsd.report.interval import Interval, interval


def tables(found: pd.DataFrame) -> dict[str, str]:
    """What the sweep `study` tells, by the name of its marks on the page."""
    made = {"pairs": pair_table, "methods": method_table, "direct": direct_table, "inside": inside_table}
    return {name: table(found) for name, table in made.items()}


def why_tables(found: pd.DataFrame) -> dict[str, str]:
    """What the sweep `why` tells, by the name of its marks on the page."""
    return {
        "aad": aad_table(found),
        "sizes": along_table(same_steps(found), "images", "training images"),
        "longer": along_table(longer(found), "epochs", "epochs"),
    }


def pair_table(found: pd.DataFrame) -> str:
    """Test top-1 of each pair, and the mean gain over scratch, for the methods that ran on all of them."""
    main = usual(found)
    lines = [["teacher -> student", "teacher", "scratch", *MAIN]]
    for pair, part in main.groupby("pair", sort=False):
        cells = [_mean_and_deviation(part[part.method == method].test_top1) for method in ("scratch", *MAIN)]
        lines.append([pair_name(str(pair)), f"{part.teacher_top1.iloc[0]:.2f}", *cells])
    taught = gains(main)
    of = {method: interval(taught[taught.method == method].gain) for method in MAIN}
    lines.append(["mean gain over scratch", "", "", *(f"**{found.mean:+.2f}**" for found in of.values())])
    lines.append([f"95 % interval, {of['RSD'].seeds} pairs x seeds", "", "", *map(bounds, of.values())])
    by_pair = taught.groupby(["method", "pair"]).gain.mean()
    lines.append([f"95 % interval, {by_pair['RSD'].size} pairs", "", "", *(bounds(interval(by_pair[m])) for m in MAIN)])
    return markdown(lines)


def method_table(found: pd.DataFrame) -> str:
    """Mean gain over scratch of every method on the pairs where all of them ran."""
    main = usual(found)
    counts = main.groupby("pair").method.nunique()
    pairs = [pair for pair in main.pair.unique() if counts[pair] == counts.max()]
    taught = gains(main[main.pair.isin(pairs)])
    order = taught.groupby("method").gain.mean().sort_values(ascending=False).index
    lines = [["method", *map(pair_name, pairs), "mean gain", "95 % interval"]]
    scratch = main[main.method == "scratch"]
    lines.append(["scratch", *(f"{scratch[scratch.pair == pair].test_top1.mean():.2f}" for pair in pairs), "", ""])
    for method in order:
        own = taught[taught.method == method]
        whole = interval(own.gain)
        each = [f"{own[own.pair == pair].gain.mean():+.2f}" for pair in pairs]
        lines.append([method, *each, f"**{whole.mean:+.2f}**", bounds(whole)])
    return markdown(lines)


def direct_table(found: pd.DataFrame) -> str:
    """RSD less each rival, paired by pair and seed: what the gains alone do not tell."""
    taught = gains(usual(found))
    own = taught[taught.method == "RSD"].set_index(["pair", "seed"]).test_top1
    lines = [["RSD less", "pairs x seeds", "mean", "95 % interval"]]
    for method in [name for name in taught.method.unique() if name != "RSD"]:
        other = taught[taught.method == method].set_index(["pair", "seed"]).test_top1
        apart = interval((own.reindex(other.index) - other).dropna())
        lines.append([method, str(apart.seeds), f"{apart.mean:+.2f}", bounds(apart)])
    return markdown(lines)


def aad_table(found: pd.DataFrame) -> str:
    """RSD with and without its AAD under teachers as wide as their students, and the difference."""
    pairs = found[found.method == "RSD without AAD"][["pair", "width"]].drop_duplicates()
    part = found.merge(pairs, on=["pair", "width"])
    lines = [["teacher -> student", "teacher", "scratch", "RSD", "without AAD", "the AAD's part", "95 % interval"]]
    apart = part[part.method == "RSD"].set_index(["pair", "seed"]).test_top1
    apart = apart - part[part.method == "RSD without AAD"].set_index(["pair", "seed"]).test_top1
    for pair, some in part.groupby("pair", sort=False):
        cells = [
            _mean_and_deviation(some[some.method == name].test_top1) for name in ("scratch", "RSD", "RSD without AAD")
        ]
        own = interval(apart[pair])
        lines.append(
            [pair_name(str(pair)), f"{some.teacher_top1.iloc[0]:.2f}", *cells, f"{own.mean:+.2f}", bounds(own)]
        )
    whole = interval(apart)
    lines.append([f"mean, {whole.seeds} pairs x seeds", "", "", "", "", f"**{whole.mean:+.2f}**", bounds(whole)])
    return markdown(lines)


def inside_table(found: pd.DataFrame) -> str:
    """Effective rank of the embeddings, means over the seeds."""
    main = usual(found)
    methods = ["scratch", *MAIN]
    lines = [["teacher -> student", *methods, *(f"r, {method}" for method in methods)]]
    for pair, part in main.groupby("pair", sort=False):
        means = part.groupby("method")[["test_effective_rank", "test_correlation_rms"]].mean()
        ranks = [f"{means.test_effective_rank[method]:.1f}" for method in methods]
        lines.append(
            [pair_name(str(pair)), *ranks, *(f"{means.test_correlation_rms[method]:.3f}" for method in methods)]
        )
    return markdown(lines)


def along_table(part: pd.DataFrame, column: str, title: str) -> str:
    """Test top-1 along a column, and what RSD gains there."""
    methods = [name for name in ("scratch", *MAIN) if name in set(part.method)]
    lines = [[title, "seeds", "teacher", *methods, "gain of RSD", "95 % interval"]]
    for value, some in part.groupby(column):
        taught = gains(some)
        gain = interval(taught[taught.method == "RSD"].gain)
        cells = [_mean_and_deviation(some[some.method == method].test_top1) for method in methods]
        head = [f"{value:,}", str(some.seed.nunique()), f"{some.teacher_top1.iloc[0]:.2f}"]
        lines.append([*head, *cells, f"{gain.mean:+.2f}", bounds(gain)])
    return markdown(lines)


def likeness_table(likeness: dict[str, pd.DataFrame], records: dict[str, dict[str, Any]]) -> str:
    """Per pair: CKA of the embeddings and the mean over the layers, scratch and RSD; P before and after."""
    head = ["teacher -> student", "CKA of the embeddings, scratch", "RSD", "mean over all layers, scratch", "RSD"]
    lines = [[*head, "diagonal of P before", "after", "off it before", "after", "a perfect copy"]]
    for pair, table in likeness.items():
        ends = (
            table[(table.student_layer == "embedding") & (table.teacher_layer == "embedding")].set_index("method").cka
        )
        means = table.groupby("method").cka.mean()
        of = records[pair]
        p = [of[when][what] for what in ("diagonal_mean", "off_diagonal_rms") for when in ("before", "after")]
        values = [ends["scratch"], ends["rsd"], means["scratch"], means["rsd"], *p, of["teacher_rms"]]
        lines.append([pair_name(pair), *(f"{value:.2f}" for value in values)])
    return markdown(lines)


def pair_name(name: str) -> str:
    """`fashion/cnn-vit` as the tables have it: CNN -> ViT."""
    teacher, student = name.rpartition("/")[2].split("-")
    names = {"cnn": "CNN", "vit": "ViT", "mlp": "MLP"}
    return f"{names[teacher]} -> {names[student]}"


def bounds(found: Interval) -> str:
    """An interval in words; nothing for a single value."""
    return "" if found.low is None else f"{found.low:+.2f} to {found.high:+.2f}"


def _mean_and_deviation(values: pd.Series) -> str:
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table; the first line is its head."""
    head, *rest = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rest])
