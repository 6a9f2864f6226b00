"""How a device chose to run each release: `choices/NAME-RELEASE.json`. `choosing` makes it."""

import contextlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rsd_edge import disk
from rsd_edge.errors import EdgeError
from rsd_edge.records import MAX_THREADS, MalformedError, Pair, load, seal

FOLDER = "choices"
MAX_BYTES = 1 << 20
NEAR = 1.02
"""A median within this factor of the best one is a tie."""


@dataclass(frozen=True)
class Pins:
    """What a person fixed; None leaves it to the device."""

    precision: str | None = None
    runtime: str | None = None
    threads: int | None = None

    def __str__(self) -> str:
        return ", ".join(str(value) for value in (self.precision, self.runtime) if value) or "any pair"

    def allows(self, pair: Pair) -> bool:
        """Whether a pair is of the precision and the runtime."""
        return self.precision in (None, pair.precision) and self.runtime in (None, pair.runtime)


@dataclass(frozen=True)
class Row:
    """A pair that the device tried."""

    precision: str
    runtime: str
    threads: int | None
    """None: it was refused before it was timed."""
    p50_ms: float | None
    """None: it was not timed."""
    spread: float | None
    """Half the medians of its turns lie within this share of `p50_ms`."""
    difference: float | None
    """The largest one of a golden logit."""
    refusal: str | None
    """Why it must not be served; None: it may."""

    @property
    def pair(self) -> Pair:
        return Pair(self.precision, self.runtime)


@dataclass(frozen=True)
class Choice:
    """How a release is run on this device, and what else was tried."""

    manifest_sha256: str
    fingerprint: dict[str, str]
    """Of the device, see `rsd_edge.fingerprint`."""
    pins: Pins
    precision: str
    runtime: str
    threads: int
    reason: str
    p50_ms: float | None
    p99_ms: float | None
    """None: the release has no limit, or it was not measured."""
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= MAX_THREADS:
            raise MalformedError(f"expected 1 to {MAX_THREADS} threads, found {self.threads}")

    @property
    def pair(self) -> Pair:
        return Pair(self.precision, self.runtime)

    def lines(self) -> Iterable[str]:
        """A table for people, the chosen pair first, then the others by their time, the refused ones last."""

        def is_chosen(row: Row) -> bool:
            return (row.pair, row.threads) == (self.pair, self.threads)

        def place(row: Row) -> tuple[bool, bool, float]:
            return not is_chosen(row), row.refusal is not None, row.p50_ms or float("inf")

        cells: list[tuple[str, ...]] = [("pair", "threads", "p50 ms", "largest difference", "verdict")]
        for row in sorted(self.rows, key=place):
            verdict = row.refusal or ("right" if row.p50_ms else "right, not timed")
            verdict = f"chosen: {self.reason}" if is_chosen(row) else verdict
            numbers = ("" if value is None else f"{value:.3g}" for value in (row.threads, row.p50_ms, row.difference))
            cells.append((str(row.pair), *numbers, verdict))
        widths = [max(len(row[column]) for row in cells) for column in range(4)]
        for first, *middle, verdict in cells:
            numbers = (text.rjust(width) for text, width in zip(middle, widths[1:], strict=True))
            yield "  ".join([first.ljust(widths[0]), *numbers, verdict])


@dataclass(frozen=True)
class _Sealed:
    sha256: str
    choice: Choice


def fastest(rows: Iterable[Row]) -> Row:
    """The row with the least median; of those within `NEAR` of it the one of fewest threads, then the first."""
    rows = list(rows)
    times = [row.p50_ms or float("inf") for row in rows]
    near = [row for row, time in zip(rows, times, strict=True) if time <= NEAR * min(times)]
    return min(near, key=lambda row: row.threads or 0)


def read(root: Path, release: str, manifest_sha256: str | None) -> Choice | None:
    """The choice for a release; None if there is none, it is damaged, or it is of another manifest."""
    with contextlib.suppress(OSError, EdgeError, MalformedError):
        sealed = load(_Sealed, disk.read(path_of(root, release), MAX_BYTES))
        if sealed.sha256 == seal(sealed.choice) and sealed.choice.manifest_sha256 == manifest_sha256:
            return sealed.choice
    return None


def save(root: Path, release: str, choice: Choice) -> None:
    """Replace the choice for a release."""
    (root / FOLDER).mkdir(exist_ok=True)
    disk.write_json(path_of(root, release), {"sha256": seal(choice), "choice": asdict(choice)})


def path_of(root: Path, release: str) -> Path:
    """Where the choice for a release lies."""
    return root / FOLDER / f"{release}.json"
