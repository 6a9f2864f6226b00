"""The drift of a latency under sustained load as a sentence, a record and a plot; `rsd sustained`."""

from pathlib import Path

import numpy as np

from rsd.machine.files import write_json, written_aside
from rsd.machine.fingerprint import fingerprint, short_name
from rsd.machine.words import counted
from rsd.measure.latency import NOISY_SPREAD
from rsd.measure.sustained import Window
from rsd.report.charts.speed import drift
from rsd.report.charts.style import save_svg
from rsd.report.table import milliseconds


def verdict(windows: list[Window]) -> str:
    """How p50 and p99 changed: the median over the last tenth of the windows against that over the first tenth."""
    medians = [window["p50_ms"] for window in windows]
    first, last = _ends(medians)
    spread = (max(medians) - min(medians)) / float(np.median(medians))
    sentence = f"p50 went from {milliseconds(first)} to {milliseconds(last)}, {last / first - 1:+.1%}"
    tails = [window["p99_ms"] for window in windows if window["p99_ms"] is not None]
    if len(tails) == len(windows):
        sentence += ", p99 from {} to {}".format(*map(milliseconds, _ends(tails)))
    sentence += f"; the p50 of the windows in between differ by {spread:.0%}"
    return sentence + (": the machine was noisy, or its clock moved" if spread > NOISY_SPREAD else "")


def write(
    folder: Path, model: Path, threads: int, seconds: float, windows: list[Window], samples: list[list[int]]
) -> str:
    """Write what `rsd.measure.sustained` returns as `sustained.json`, `.md` and `.svg`, with every sample; the text."""
    device, sentence = fingerprint(), verdict(windows)
    record = {"model": model.name, "threads": threads, "device": device, "verdict": sentence}
    write_json(folder / "sustained.json", {**record, "windows": windows})
    with written_aside(folder / "samples.npz") as aside, aside.open("wb") as file:
        window = np.repeat(np.arange(len(samples)), [len(nanoseconds) for nanoseconds in samples])
        np.savez_compressed(file, window=window.astype(np.uint8), nanoseconds=np.concatenate(samples))
    save_svg(drift(windows), folder / "sustained.svg")
    few = "A p99 is drawn for windows of at least 662 samples."
    text = f"{model.name}, {counted(threads, 'thread')}, {short_name(device)}, {seconds:g} s: {sentence}. {few}\n"
    with written_aside(folder / "sustained.md") as aside:
        aside.write_text(text)
    return text


def _ends(values: list[float]) -> tuple[float, float]:
    tenth = max(1, len(values) // 10)
    return float(np.median(values[:tenth])), float(np.median(values[-tenth:]))
