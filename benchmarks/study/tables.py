"""The study's tables, in Markdown."""

from typing import Any

import pandas as pd

from benchmarks.marked import table
from benchmarks.study.students import MAIN, gains
from rsd.report.interval import Interval, interval


def tables(frame: pd.DataFrame) -> dict[str, str]:
    """The tables by the name of their marks on the page."""
    parts = {"pairs": pair_table, "methods": method_table, "direct": direct_table, "inside": inside_table}
    return {name: part(frame) for name, part in parts.items()}


def pair_table(frame: pd.DataFrame) -> str:
    """Test top-1 of each pair, and the mean gain over scratch, for the methods that ran on all of them."""
    lines = [["teacher -> student", "teacher", "scratch", *MAIN]]
    for pair, part in frame.groupby("pair", sort=False):
        cells = [mean_and_deviation(part[part.method == method].test_top1) for method in ("scratch", *MAIN)]
        lines.append([pair_name(str(pair)), f"{part.teacher_top1.iloc[0]:.2f}", *cells])
    with_gain = gains(frame)
    of = {method: interval(with_gain[with_gain.method == method].gain) for method in MAIN}
    lines.append(["mean gain over scratch", "", "", *(f"**{mean.mean:+.2f}**" for mean in of.values())])
    lines.append([f"95 % interval, {of['RSD'].seeds} pairs x seeds", "", "", *map(bounds, of.values())])
    by_pair = with_gain.groupby(["method", "pair"]).gain.mean()
    lines.append([f"95 % interval, {by_pair['RSD'].size} pairs", "", "", *(bounds(interval(by_pair[m])) for m in MAIN)])
    return table(lines)


def method_table(frame: pd.DataFrame) -> str:
    """Mean gain over scratch of every method on the pairs where all of them ran."""
    counts = frame.groupby("pair").method.nunique()
    pairs = [pair for pair in frame.pair.unique() if counts[pair] == counts.max()]
    with_gain = gains(frame[frame.pair.isin(pairs)])
    order = with_gain.groupby("method").gain.mean().sort_values(ascending=False).index
    lines = [["method", *map(pair_name, pairs), "mean gain", "95 % interval"]]
    scratch = frame[frame.method == "scratch"]
    lines.append(["scratch", *(f"{scratch[scratch.pair == pair].test_top1.mean():.2f}" for pair in pairs), "", ""])
    for method in order:
        own = with_gain[with_gain.method == method]
        whole = interval(own.gain)
        each = [f"{own[own.pair == pair].gain.mean():+.2f}" for pair in pairs]
        lines.append([method, *each, f"**{whole.mean:+.2f}**", bounds(whole)])
    return table(lines)


def direct_table(frame: pd.DataFrame) -> str:
    """RSD less each other method, paired by pair and seed."""
    with_gain = gains(frame)
    own = with_gain[with_gain.method == "RSD"].set_index(["pair", "seed"]).test_top1
    lines = [["RSD less", "pairs x seeds", "mean", "95 % interval"]]
    for method in [name for name in with_gain.method.unique() if name != "RSD"]:
        other = with_gain[with_gain.method == method].set_index(["pair", "seed"]).test_top1
        apart = interval((own.reindex(other.index) - other).dropna())
        lines.append([method, str(apart.seeds), f"{apart.mean:+.2f}", bounds(apart)])
    return table(lines)


def inside_table(frame: pd.DataFrame) -> str:
    """Effective rank of the embeddings, means over the seeds."""
    methods = ["scratch", *MAIN]
    lines = [["teacher -> student", *methods, *(f"r, {method}" for method in methods)]]
    for pair, part in frame.groupby("pair", sort=False):
        means = part.groupby("method")[["test_effective_rank", "test_correlation_rms"]].mean()
        ranks = [f"{means.test_effective_rank[method]:.1f}" for method in methods]
        correlations = [f"{means.test_correlation_rms[method]:.3f}" for method in methods]
        lines.append([pair_name(str(pair)), *ranks, *correlations])
    return table(lines)


def likeness_table(likeness: dict[str, pd.DataFrame], records: dict[str, dict[str, Any]]) -> str:
    """Per pair: CKA of the embeddings and the mean over the layers, scratch and RSD; P before and after."""
    head = ["teacher -> student", "CKA of the embeddings, scratch", "RSD", "mean over all layers, scratch", "RSD"]
    lines = [[*head, "diagonal of P before", "after", "off it before", "after", "a perfect copy"]]
    for pair, layers in likeness.items():
        both = (layers.student_layer == "embedding") & (layers.teacher_layer == "embedding")
        ends = layers[both].set_index("method").cka
        means = layers.groupby("method").cka.mean()
        of = records[pair]
        p = [of[when][what] for what in ("diagonal_mean", "off_diagonal_rms") for when in ("before", "after")]
        values = [ends["scratch"], ends["rsd"], means["scratch"], means["rsd"], *p, of["teacher_rms"]]
        lines.append([pair_name(pair), *(f"{value:.2f}" for value in values)])
    return table(lines)


def pair_name(name: str) -> str:
    """`fashion/cnn-vit` as the tables have it: CNN -> ViT."""
    teacher, student = name.rpartition("/")[2].split("-")
    names = {"cnn": "CNN", "vit": "ViT", "mlp": "MLP"}
    return f"{names[teacher]} -> {names[student]}"


def bounds(span: Interval) -> str:
    """An interval in words; nothing for a single value."""
    return "" if span.low is None else f"{span.low:+.2f} to {span.high:+.2f}"


def mean_and_deviation(values: pd.Series) -> str:
    """Over the seeds, in per cent."""
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"
