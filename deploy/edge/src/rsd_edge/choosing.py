"""Which pair of precision and runtime serves a release here: the fastest of those that give the golden answers."""

import contextlib
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

from rsd_edge import bundle, child, choices, runtimes, selftest, timing
from rsd_edge.bundle import manifest_digest, manifest_of
from rsd_edge.choices import Choice, Pins, Row
from rsd_edge.errors import EdgeError
from rsd_edge.fingerprint import fingerprint
from rsd_edge.model import Model
from rsd_edge.records import ONNXRUNTIME, Manifest, Pair
from rsd_edge.selftest import Deadline

T = TypeVar("T")
Log = Callable[..., None]
"""`Events.add`."""
Way = tuple[Pair, int]
"""A pair and its threads."""
TRIES = 3
"""The fastest ways of which one must hold the limit of p99."""


def choose(
    folder: Path,
    pins: Pins,
    log: Log,
    *,
    check_p99: bool | None = True,
    seconds: float | None = None,
) -> Choice:
    """Check every pair of a release that this device can run, time those that are right, and take the fastest.

    Args:
        log: gets a line for each refusal.
        check_p99: whether the choice must hold the release's limit of p99; None: it does if any of the fastest can;
            False: it is only measured.
        seconds: for all of it; by default `selftest.LONGEST`.

    Raises:
        EdgeError: no pair is right, none of the fastest holds the limit, or the golden files are not as they should be.
    """
    manifest = manifest_of(folder)
    deadline = Deadline(folder.name, selftest.LONGEST if seconds is None else seconds)
    pairs = allowed(manifest, pins)
    _in_child(lambda: selftest.check_files(folder), folder, deadline)
    refusals: list[Row] = []
    ways: list[Way] = []
    differences: dict[Pair, float] = {}
    for pair, provider, difference in _right(folder, manifest, pairs, pins.threads or 1, deadline, refusals):
        differences[pair] = difference
        counts = timing.thread_counts() if provider.startswith("CPU") else [1]
        ways += [(pair, count) for count in ([pins.threads] if pins.threads else counts)]
    for row in refusals:
        log("pair refused", release=folder.name, pair=str(row.pair), reason=row.refusal)
    if not ways:
        raise EdgeError(_causes(refusals))
    ways.sort(key=lambda way: way[1])  # where memory ends, it ends for those with many threads
    turns, reasons = _timed(folder, ways, deadline, log)
    for (pair, threads), reason in reasons.items():
        log("pair refused", release=folder.name, pair=str(pair), threads=threads, reason=reason)
    rows = []
    for pair, threads in ways:
        way = (pair, threads)
        times = None if way in reasons else turns.get(way)
        p50, spread = (median(times) * 1e3, timing.spread(times)) if times else (None, None)
        rows.append(Row(*pair, threads, p50, spread, differences[pair], reasons.get(way)))
    ranking, reason = _ranked(rows, turns, list(differences), pins)
    best, p99 = ranking[0], None
    if manifest.p99_ms is not None:
        try:
            best, p99 = _within(manifest.p99_ms, folder, ranking, rows, deadline, log, check=check_p99 is not False)
        except EdgeError:
            if check_p99:
                raise
    return Choice(
        manifest_sha256=manifest_digest(folder),
        fingerprint=fingerprint(),
        pins=pins,
        precision=best.precision,
        runtime=best.runtime,
        threads=best.threads or 1,
        reason=reason,
        p50_ms=best.p50_ms,
        p99_ms=p99,
        rows=[*rows, *refusals],
    )


def first_right(folder: Path, pins: Pins) -> Pair:
    """The first pair that gives the golden answers here, ONNX Runtime's first, untimed; EdgeError if none does."""
    manifest, deadline = manifest_of(folder), Deadline(folder.name, selftest.LONGEST)
    refusals: list[Row] = []
    pairs = sorted(allowed(manifest, pins), key=lambda pair: pair.runtime != ONNXRUNTIME)
    for pair, _, _ in _right(folder, manifest, pairs, pins.threads or 1, deadline, refusals):
        return pair
    raise EdgeError(_causes(refusals))


def to_run(folder: Path, choice: Choice | None, pins: Pins) -> Way:
    """The pair to serve, and its threads: as chosen, or as pinned.

    Without a choice, or if it did not try what is pinned, this is the first that gives the golden answers.

    Raises:
        EdgeError: what is pinned is not in the bundle or was refused here, or nothing is right.
    """
    if choice is not None and pins == Pins():
        return choice.pair, choice.threads
    matches = [row for row in choice.rows if pins.allows(row.pair)] if choice else []
    matches = [row for row in matches if pins.threads in (None, row.threads)] or matches
    if right := [row for row in matches if not row.refusal]:
        row = choices.fastest(right)
        return row.pair, pins.threads or row.threads or 1
    if matches:
        raise EdgeError(_causes(matches))
    return first_right(folder, pins), pins.threads or 1


def open_model(root: Path, folder: Path, pins: Pins, warn: Callable[[str], None]) -> Model:
    """Open a release as it was chosen or pinned; if the choice is lost or cannot be opened, as the fall-back.

    `warn` gets a sentence if it is not as chosen.

    Raises:
        EdgeError: nothing is right, or what is pinned is not.
    """
    choice = choices.read(root, folder.name, manifest_digest(folder))
    if choice is None:
        warn(f"expected a choice for {folder.name}, found none; the first right pair runs until `rsd-edge recover`")
    pair, threads = to_run(folder, choice, pins)
    try:
        return Model.open(folder, precision=pair.precision, runtime=pair.runtime, threads=threads)
    except EdgeError as error:
        if pins != Pins() or choice is None or choice.pins != Pins():
            raise
        warn(f"{error}; the first right pair is served instead")
    pair = first_right(folder, pins)
    return Model.open(folder, precision=pair.precision, runtime=pair.runtime)


def allowed(manifest: Manifest, pins: Pins) -> list[Pair]:
    """The pairs of a bundle that the pins allow; EdgeError if there is none."""
    pairs = [pair for pair in manifest.pairs if pins.allows(pair)]
    if not pairs:
        raise EdgeError(
            f"expected a pair out of {', '.join(map(str, manifest.pairs))}, found {pins}; pin one of these, or none"
        )
    return pairs


def _in_child(work: Callable[[], T], folder: Path, deadline: Deadline) -> T:
    return child.run(work, folder.name, seconds=_seconds(deadline))


def _seconds(deadline: Deadline) -> int:
    return max(1, round(min(selftest.STEP, deadline.left)))


def _right(
    folder: Path, manifest: Manifest, pairs: list[Pair], threads: int, deadline: Deadline, refusals: list[Row]
) -> Iterator[tuple[Pair, str, float]]:
    """The pairs that give the golden answers, with provider and largest difference; `refusals` gets the others."""

    def work(pair: Pair) -> tuple[str, float]:
        model, difference = selftest.check_pair(folder, pair, threads, deadline)
        return model.provider, difference

    for pair in pairs:
        try:
            if reason := runtimes.refusal(pair.runtime, manifest.requires):
                raise EdgeError(reason)
            provider, difference = _in_child(partial(work, pair), folder, deadline)
        except EdgeError as error:
            refusals.append(Row(*pair, None, None, None, None, str(error)))
        else:
            yield pair, provider, difference


def _timed(
    folder: Path, ways: list[Way], deadline: Deadline, log: Log
) -> tuple[dict[Way, list[float]], dict[Way, str]]:
    """Seconds of each turn of each way, and why some ways are refused. Each way has a process of its own.

    In one process the threads of one way would slow the others: they wait for work without sleep.
    """
    refusals: dict[Way, str] = {}

    def guarded(way: Way, step: Callable[[], float]) -> float:
        try:
            return math.inf if way in refusals else step()
        except EdgeError as error:
            refusals[way] = str(error)
            return math.inf

    least = (1 - child.SHARE) * bundle.free_memory()  # what is served keeps it
    with contextlib.ExitStack() as stack:
        racing: dict[Way, Callable[[], float]] = {}
        for number, way in enumerate(ways):
            if racing and bundle.free_memory() < least:
                log("not timed", release=folder.name, ways=len(ways) - number, reason="there is no memory for them")
                break
            work = partial(_turns, folder, way, deadline)
            step = stack.enter_context(child.steps(work, folder.name, seconds=_seconds(deadline)))
            guarded(way, step)
            racing[way] = partial(guarded, way, step)
        turns = timing.in_turns(
            {way: step for way, step in racing.items() if way not in refusals},
            seconds=min(timing.LONGEST, deadline.left),
        )
    return turns, refusals


def _turns(folder: Path, way: Way, deadline: Deadline) -> Iterator[float]:
    """In a child: 0 when the model is open and right, then the seconds of each turn."""
    (pair, threads), seconds = way, 0.0
    model, _ = selftest.check_pair(folder, pair, threads, deadline, images=2)
    batches = selftest.singles(selftest.golden_images(folder))
    while True:
        signal.setitimer(signal.ITIMER_REAL, 0)  # it would run on while this process stands still
        yield seconds
        deadline.start_step()
        seconds = timing.turn(lambda: model.infer(next(batches)))


def _ranked(rows: list[Row], turns: dict[Way, list[float]], order: list[Pair], pins: Pins) -> tuple[list[Row], str]:
    """The ways that may be served, the best first, and why it is the best; EdgeError if there is none."""
    right = [row for row in rows if not row.refusal]
    if not right:
        raise EdgeError(_causes(rows))
    racing = [row for row in right if row.p50_ms is not None]
    if racing and not timing.is_unstable(turns[row.pair, row.threads or 1] for row in racing):
        ranking = []
        while racing:
            ranking.append(choices.fastest(racing))
            racing.remove(ranking[-1])
        return ranking, "the fastest" if pins == Pins() else "the fastest of what is pinned"
    right.sort(key=lambda row: (row.runtime != ONNXRUNTIME, order.index(row.pair), row.threads))
    why = "no timing on this device was stable" if racing else "nothing could be timed"
    return right, f"the fall-back, because {why}"


def _within(
    limit: float,
    folder: Path,
    ranking: list[Row],
    rows: list[Row],
    deadline: Deadline,
    log: Log,
    *,
    check: bool,
) -> tuple[Row, float]:
    """The best way whose p99 is within the limit in milliseconds, and its p99; the others' rows in `rows` say so."""
    sentences: list[str] = []
    for row in ranking[:TRIES]:
        measure = partial(selftest.p99_of, folder, row.pair, row.threads or 1, deadline)
        try:
            p99 = _in_child(measure, folder, deadline)
            if p99 <= limit or not check:
                return row, p99
            sentences.append(
                f"expected a 99th percentile of at most {limit} ms, found {p99:.3f} ms on this device; end other "
                "programs, or use a smaller model"
            )
        except EdgeError as error:
            sentences.append(str(error))
        log("pair refused", release=folder.name, pair=str(row.pair), threads=row.threads, reason=sentences[-1])
        rows[rows.index(row)] = replace(row, refusal=sentences[-1])
    raise EdgeError(sentences[0])


def _causes(refusals: list[Row]) -> str:
    """Why nothing may be served, in one sentence."""
    causes = {row.refusal or "": row.pair for row in refusals}
    if len(causes) == 1:
        return next(iter(causes))
    listed = "; ".join(f"{pair}: {cause}" for cause, pair in causes.items())
    return f"expected one pair at least to be right on this device, found none; {listed}"
