"""A server while releases switch below it."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from rsd_edge.errors import EdgeError
from rsd_edge.live import LiveModel
from rsd_edge.model import Model

from .serving import NAME, Tiny, ask, images, infer_body, png, read_logits, served, until

# The switch.


class Switch:
    """A link `current` and the models it may name."""

    def __init__(self) -> None:
        self.now: str | None = None
        self.models: dict[str, Tiny] = {}

    def live(self) -> LiveModel:
        return LiveModel(lambda: Path(self.now) if self.now else None, self._open)

    def _open(self, folder: Path) -> Model:
        if folder.name == "broken":
            raise EdgeError("expected an ONNX file, found none")
        model = self.models[folder.name] = Tiny(release=int(folder.name))
        return cast(Model, model)


def test_without_a_release_it_is_alive_not_ready() -> None:
    switch = Switch()
    with served(switch.live()) as address:
        assert ask(address, "GET", "/v2/health/live")[0] == 200
        status, _, body = ask(address, "GET", "/v2/health/ready")
        assert (status, json.loads(body)["error"]) == (503, "no release is active; install and activate one")
        assert ask(address, "POST", "/v1/classify", png(images(1)[0]))[0] == 503
        assert json.loads(ask(address, "GET", "/v1/status")[2])["ready"] is False
        assert ask(address, "GET", "/metrics")[0] == 200
        switch.now = "2"
        until(lambda: ask(address, "GET", "/v2/health/ready")[0] == 200)


def test_no_request_fails_or_mixes_releases_while_switching() -> None:
    switch = Switch()
    switch.now = "1"
    expected = {release: Tiny(release=release).infer(images(1)) for release in range(1, 6)}
    body, headers = infer_body(images(1), binary=True)
    stop = threading.Event()
    releases: list[int] = []

    def client(address: str) -> None:
        while not stop.is_set():
            status, answer_headers, answer = ask(address, "POST", f"/v2/models/{NAME}/infer", body, headers)
            assert status == 200
            length = int(answer_headers["inference-header-content-length"])
            releases.append(int(json.loads(answer[:length])["model_version"]))
            np.testing.assert_array_equal(read_logits(answer_headers, answer), expected[releases[-1]])

    def saw(release: int) -> bool:
        return release in releases[-4:]

    live = switch.live()
    with served(live) as address, ThreadPoolExecutor(4) as clients:
        jobs = [clients.submit(client, address) for _ in range(4)]
        for release in (2, 3, 4, 5):
            switch.now = str(release)
            until(partial(saw, release))
        stop.set()
        for job in jobs:
            job.result()
        until(lambda: [model.closed for model in switch.models.values()] == [True] * 4 + [False])
        assert live.switches == 4
    assert all(model.closed for model in switch.models.values())


def test_a_stop_during_a_check_closes_every_model() -> None:
    models: list[Tiny] = []

    def current() -> Path:
        if models:
            live.stop()
        return Path("1")

    def open_model(folder: Path) -> Model:
        models.append(Tiny())
        return cast(Model, models[-1])

    live = LiveModel(current, open_model)
    live.refresh()
    live.watch()
    assert [model.closed for model in models] == [True]


def test_a_release_that_cannot_open_changes_nothing() -> None:
    switch = Switch()
    switch.now = "1"
    with served(switch.live()) as address:
        switch.now = "broken"
        status = lambda: json.loads(ask(address, "GET", "/v1/status")[2])  # noqa: E731
        until(lambda: status()["error"])
        assert status()["error"] == "release broken cannot be served: expected an ONNX file, found none"
        assert (status()["ready"], status()["release"]) == (True, 1)
        assert ask(address, "POST", "/v1/classify", png(images(1)[0]))[0] == 200
        switch.now = "1"
        until(lambda: status()["error"] is None)
        assert len(switch.models) == 1


def test_a_broken_release_is_retried_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, tries, damaged = [0.0], list[float](), True

    def open_model(folder: Path) -> Model:
        tries.append(clock[0])
        if damaged:
            raise EdgeError("expected an ONNX file, found none")
        return cast(Model, Tiny())

    monkeypatch.setattr("rsd_edge.live.time", SimpleNamespace(monotonic=lambda: clock[0]))
    live = LiveModel(lambda: Path("1"), open_model)
    for clock[0] in np.arange(0, 20, 0.1):
        live.refresh()
    waits = np.diff(tries)
    assert live.failures == len(tries) < 12
    assert (np.diff(waits) > -0.11).all()
    assert waits.max() < 4.11
    damaged = False
    clock[0] += 4.0
    live.refresh()
    assert live.error is None
    with live.use() as model:
        assert model.release == 1


def test_another_way_to_run_is_a_switch() -> None:
    models: list[Tiny] = []
    versions: list[object] = [1]

    def open_model(folder: Path) -> Model:
        models.append(Tiny())
        return cast(Model, models[-1])

    live = LiveModel(lambda: Path("1"), open_model, lambda folder: versions[0])
    for version, count in ((1, 1), (1, 1), (2, 2), (2, 2), (None, 2), (2, 2)):  # None: it is lost, what is served stays
        versions[0] = version
        live.refresh()
        assert len(models) == count
    assert [model.closed for model in models] == [True, False]
    assert live.switches == 1
