"""What the server counts, for Prometheus, for Triton's statistics and for the page."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rsd_edge.live import LiveModel

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds."""
ROUTES = ("infer", "classify")
"""The routes that run the model."""

disable_created_metrics()  # else every series is followed by one with the time of its start


class Metrics(Collector):
    """The metrics of one server, in a registry of their own."""

    def __init__(self, live: LiveModel, admitted: Callable[[], int]) -> None:
        self._live = live
        self._registry = CollectorRegistry()
        self._registry.register(self)
        common: dict[str, Any] = {"namespace": "rsd_edge", "registry": self._registry}
        self.requests = Counter("requests", "Requests by route and status.", ("route", "code"), **common)
        histogram: dict[str, Any] = {"buckets": BUCKETS, **common}
        self.seconds = Histogram(
            "request_seconds", "From a request's head to its answer of 200.", ("route",), **histogram
        )
        self.inference = Histogram("inference_seconds", "In the model, for the same requests.", **histogram)
        for route in ROUTES:
            self.seconds.labels(route)  # so that it is zero, not absent, before the first request
        self.started = time.time()
        Gauge("start_time_seconds", "Start of the server in seconds since 1970.", **common).set(self.started)
        Gauge("resident_bytes", "Memory of the server.", **common).set_function(resident_bytes)
        Gauge("admitted_requests", "Requests at work or in the queue.", **common).set_function(admitted)
        self.images = 0
        """In the requests that were answered with 200; a request may hold several."""
        self.last = 0.0
        """Time of the last of these answers in seconds since 1970."""
        self.recent: deque[float] = deque(maxlen=1000)
        """Seconds of the last of these requests."""

    def record(self, route: str, seconds: float, inference: float, images: int) -> None:
        """Count a request that was answered with 200."""
        self.seconds.labels(route).observe(seconds)
        self.inference.observe(inference)
        self.recent.append(seconds)
        self.images += images
        self.last = time.time()

    def collect(self) -> Iterator[Metric]:
        """The metrics that the live model counts itself."""
        served = self._live.description()
        yield GaugeMetricFamily("rsd_edge_ready", "1 if a release is served.", int(bool(served)))
        yield CounterMetricFamily("rsd_edge_switches", "Changes to another release.", self._live.switches)
        yield CounterMetricFamily("rsd_edge_switch_failures", "Failures to open a release.", self._live.failures)
        if served:
            release = GaugeMetricFamily("rsd_edge_release", "What is served; always 1.", labels=list(served))
            release.add_metric([str(value) for value in served.values()], 1)
            yield release

    def text(self) -> bytes:
        """All metrics in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)

    def total(self, sample: str, matches: Callable[[dict[str, str]], bool] = lambda labels: True) -> float:
        """Sum of a sample such as `requests_total` over the labels for which `matches` is true."""
        samples = (each for metric in self._registry.collect() for each in metric.samples)
        return sum(each.value for each in samples if each.name == f"rsd_edge_{sample}" and matches(each.labels))

    def percentile(self, share: float) -> float | None:
        """Seconds within which this share of the recent requests was answered; None before the first."""
        ordered = sorted(self.recent)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    def triton(self) -> dict[str, Any]:
        """Triton's statistics since the server was started, over all releases that it has served.

        `queue` is the time outside the model: reading, waiting, decoding and answering.
        """
        count = int(self.total("inference_seconds_count"))
        inside, whole = self.total("inference_seconds_sum"), self.total("request_seconds_sum")
        failed = self.total("requests_total", lambda labels: labels["route"] in ROUTES and labels["code"] != "200")
        seconds = {"success": whole, "queue": whole - inside, "compute_infer": inside}
        seconds |= {"compute_input": 0.0, "compute_output": 0.0}
        durations = {name: {"count": count, "ns": round(value * 1e9)} for name, value in seconds.items()}
        return {
            "last_inference": round(self.last * 1e3),
            "inference_count": self.images,
            "execution_count": count,
            "inference_stats": {**durations, "fail": {"count": int(failed), "ns": 0}},
            "batch_stats": [],
        }


def resident_bytes() -> int:
    """Memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
