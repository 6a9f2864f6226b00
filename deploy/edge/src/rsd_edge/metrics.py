"""What the server counts, for Prometheus and for the page."""

import os
import time
from bisect import bisect_left
from collections import Counter, deque
from typing import Any

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends in seconds."""


class Histogram:
    """Seconds, counted in `BUCKETS`."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds


class Metrics:
    """Only the server's event loop writes and reads these, so there is no lock."""

    def __init__(self) -> None:
        self.started = time.time()
        self.requests: Counter[tuple[str, int]] = Counter()
        """By route (one of a fixed few, so that clients cannot make more of them) and status."""
        self.seconds = {route: Histogram() for route in ("infer", "classify")}
        """From the head of a request to its answer; served ones only."""
        self.inference = Histogram()
        """In the model; of the same requests."""
        self.images = 0
        """In them; there may be several in one."""
        self.last = 0.0
        """When the last of them was answered, in seconds since 1970."""
        self.recent: deque[float] = deque(maxlen=1000)
        """Seconds of the last requests served, for the page."""

    def served(self, route: str, seconds: float, inference: float, images: int = 1) -> None:
        self.seconds[route].observe(seconds)
        self.inference.observe(inference)
        self.recent.append(seconds)
        self.images += images
        self.last = time.time()

    def percentile(self, share: float) -> float | None:
        """Seconds within which this share of the recent requests was served."""
        ordered = sorted(self.recent)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    def triton(self) -> dict[str, Any]:
        """The figures of Triton's statistics extension since the server was started, whatever releases it has served.

        `queue` is all that was not spent in the model: reading, waiting, decoding, answering.
        """
        count = sum(self.inference.counts)
        seconds = sum(histogram.sum for histogram in self.seconds.values())
        failed = sum(
            number for (route, status), number in self.requests.items() if route in self.seconds and status != 200
        )
        spent = {"success": seconds, "queue": seconds - self.inference.sum, "compute_infer": self.inference.sum}
        spent |= dict.fromkeys(("compute_input", "compute_output"), 0.0)
        figures = {name: {"count": count, "ns": round(value * 1e9)} for name, value in spent.items()}
        return {
            "last_inference": round(self.last * 1e3),
            "inference_count": self.images,
            "execution_count": count,
            "inference_stats": {**figures, "fail": {"count": failed, "ns": 0}},
            "batch_stats": [],
        }

    def prometheus(self, gauges: dict[str, float], release: dict[str, str] | None) -> str:
        """The text format 0.0.4; `gauges` are the values of now, `release` labels what is served."""
        lines = _head("requests_total", "counter", "Requests by route and status.")
        lines += [
            f'rsd_edge_requests_total{{route="{route}",code="{code}"}} {count}'
            for (route, code), count in sorted(self.requests.items())
        ]
        lines += _head("request_seconds", "histogram", "From a request's head to its answer, of those served.")
        for route, histogram in self.seconds.items():
            lines += _histogram("request_seconds", f'route="{route}"', histogram)
        lines += _head("inference_seconds", "histogram", "In the model, of the same requests.")
        lines += _histogram("inference_seconds", "", self.inference)
        if release:
            lines += _head("release", "gauge", "What is served; always 1.")
            labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in release.items())
            lines += [f"rsd_edge_release{{{labels}}} 1"]
        for name, value in {**gauges, "start_time_seconds": self.started, "resident_bytes": resident_bytes()}.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# TYPE rsd_edge_{name} {kind}", f"rsd_edge_{name} {value}"]
        return "\n".join(lines) + "\n"


def resident_bytes() -> int:
    """Memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP rsd_edge_{name} {text}", f"# TYPE rsd_edge_{name} {kind}"]


def _histogram(name: str, label: str, histogram: Histogram) -> list[str]:
    lines, total = [], 0
    comma = "," if label else ""
    for end, count in zip((*map(str, BUCKETS), "+Inf"), histogram.counts, strict=True):
        total += count
        lines.append(f'rsd_edge_{name}_bucket{{{label}{comma}le="{end}"}} {total}')
    braces = f"{{{label}}}" if label else ""
    return [*lines, f"rsd_edge_{name}_sum{braces} {histogram.sum}", f"rsd_edge_{name}_count{braces} {total}"]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
