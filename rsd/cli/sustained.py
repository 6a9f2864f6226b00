"""Drift of one model's latency under load that does not end: heat, clock, neighbours.

    python -m rsd.cli.sustained MODEL.onnx --for 10m --folder FOLDER

One image after another for the whole time, outside of the graph because it takes so long. FOLDER gets every raw
sample, `sustained.json`, `sustained.md` and `sustained.svg`.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rsd.machine.errors import UserError
from rsd.machine.files import write_json, written_aside
from rsd.machine.fingerprint import fingerprint, short_name
from rsd.measure.latency import (
    NOISY_SPREAD,
    SAMPLES_NEEDED,
    Infer,
    conditions,
    duration,
    onnx_session,
    statistics,
    timed,
)
from rsd.report.charts.speed import drift
from rsd.report.charts.style import save_svg
from rsd.report.table import milliseconds

WINDOWS = 60


def sustained(
    infer: Infer, seconds: float, *, progress: Callable[[float], object] = lambda _: None
) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """Call for `seconds`: 60 windows of equal length with their statistics and conditions, and all samples.

    There is no warm-up: what it would hide is what is looked for.
    """
    windows, samples = [], []
    start = time.monotonic()
    for _ in range(WINDOWS):
        found = timed(infer, seconds / WINDOWS, 1)
        now = time.monotonic() - start
        figures = statistics([found], 1)
        kept = {key: figures[key] for key in ("samples", "mean_ms", *(f"p{q}_ms" for q in SAMPLES_NEEDED))}
        windows.append({"seconds": round(now, 3), **kept, **conditions()})
        samples.append(found)
        progress(seconds / WINDOWS)
    return windows, samples


def verdict(windows: list[dict[str, Any]]) -> str:
    """The drift in a sentence: the median of the last tenth of the windows over that of the first, of p50 and p99."""
    first, last = _ends(windows, "p50_ms")
    medians = [w["p50_ms"] for w in windows]
    spread = (max(medians) - min(medians)) / float(np.median(medians))
    change = last / first - 1
    said = f"p50 went from {milliseconds(first)} to {milliseconds(last)}, {change:+.1%}"
    if all(w["p99_ms"] is not None for w in windows):
        said += ", p99 from {} to {}".format(*map(milliseconds, _ends(windows, "p99_ms")))
    said += f"; the p50 of the windows in between differ by {spread:.0%}"
    return f"{said}: the machine was noisy, or its clock moved" if spread > NOISY_SPREAD else said


def _ends(windows: list[dict[str, Any]], figure: str) -> tuple[float, float]:
    tenth = max(1, len(windows) // 10)
    first, last = (float(np.median([w[figure] for w in part])) for part in (windows[:tenth], windows[-tenth:]))
    return first, last


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rsd.cli.sustained", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="an ONNX file with one uint8 input [N, H, W, C]")
    parser.add_argument("--for", dest="seconds", type=duration, default=600.0, metavar="TIME", help="default: 10m")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("out/sustained"))
    given = parser.parse_args()
    if not given.model.is_file():
        raise UserError(f"expected an ONNX file at {given.model}, found none; `dvc repro export` writes one")
    with (
        onnx_session(given.model, given.threads) as infer,
        tqdm(total=round(given.seconds), unit="s", disable=None) as bar,
    ):
        windows, samples = sustained(infer, given.seconds, progress=bar.update)
    said = verdict(windows)
    device = fingerprint()
    record = {"model": given.model.name, "threads": given.threads, "device": device, "verdict": said}
    write_json(given.folder / "sustained.json", {**record, "windows": windows})
    with written_aside(given.folder / "samples.npz") as aside, aside.open("wb") as file:
        window = np.repeat(np.arange(len(samples)), [len(one) for one in samples])
        np.savez_compressed(file, window=window.astype(np.uint8), nanoseconds=np.concatenate(samples))
    save_svg(drift(windows), given.folder / "sustained.svg")
    few = " A p99 is drawn for windows of at least 662 samples."
    text = f"{given.model.name}, {given.threads} thread(s), {short_name(device)}, {given.seconds:g} s: {said}.{few}\n"
    with written_aside(given.folder / "sustained.md") as aside:
        aside.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    import sys

    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
