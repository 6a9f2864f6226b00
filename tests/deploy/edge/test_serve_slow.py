"""What holds only over many requests: nothing malformed harms the server, no switch fails a request."""

import http.client
import itertools
import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from rsd_edge import health
from rsd_edge.releases import Releases

from .malformed import malformed
from .serving import NAME, Tiny, ask, images, infer_body, png, point, process, read_logits, write_release

pytestmark = pytest.mark.slow
REQUESTS, CLIENTS = 10_000, 8
SOAK_SECONDS, SWITCHES, SOAK_CLIENTS = 120.0, 20, 16
GROWTH = 8e6
"""Bytes by which the memory may grow over the second half of the requests."""


def status_of(address: str, request: bytes) -> int | None:
    """The status of the first answer to these bytes, None if the connection ends without one."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        answer = b""
        with suppress(ConnectionError):
            client.sendall(request)
            with suppress(OSError):  # the server has hung up on what is no HTTP; its answer is still here
                client.shutdown(socket.SHUT_WR)
            while part := client.recv(65536):
                answer += part
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None


def test_malformed_requests_cause_no_crash_5xx_or_growth(tmp_path: Path) -> None:
    write_release(tmp_path, 1)
    point(tmp_path, 1)
    body, headers = infer_body(images(2), binary=True)
    with process(tmp_path, workers=2, timeout=20.0) as (address, server):
        memory: list[int] = []
        counts: dict[int | None, int] = {}

        def client(number: int) -> list[int | None]:
            statuses = []
            for turn in range(number, REQUESTS, CLIENTS):
                statuses.append(status_of(address, malformed(random.Random(turn))))
                if turn % 250 == 0:
                    memory.append(server.memory_info().rss)
                    status, answer_headers, answer = ask(address, "POST", f"/v2/models/{NAME}/infer", body, headers)
                    assert status == 200
                    np.testing.assert_array_equal(read_logits(answer_headers, answer), Tiny().infer(images(2)))
            return statuses

        with ThreadPoolExecutor(CLIENTS) as clients:
            for statuses in clients.map(client, range(CLIENTS)):
                for status in statuses:
                    counts[status] = counts.get(status, 0) + 1
        connections = [c for c in server.net_connections() if c.status == psutil.CONN_ESTABLISHED]
    print(f"answers by status: {counts}; memory, MB: {[round(rss / 1e6) for rss in memory]}")
    assert sum(counts.values()) == REQUESTS
    assert not {status for status in counts if status is not None and status >= 500}
    assert {200, 400, 404, 405} <= set(counts)
    assert np.median(memory[-8:]) < np.median(memory[len(memory) // 2 - 4 : len(memory) // 2 + 4]) + GROWTH
    assert len(connections) <= 2


def test_no_request_fails_in_two_minutes_of_switches(tmp_path: Path) -> None:
    for release in range(1, 4):
        write_release(tmp_path, release)
    point(tmp_path, 1)
    expected = {str(release): Tiny(release=release).infer(images(1)) for release in range(1, 4)}
    picture = png(images(1)[0])
    requests = [
        (f"/v2/models/{NAME}/infer", *infer_body(images(1), binary=True)),
        (f"/v2/models/{NAME}/infer", *infer_body(images(1), binary=False)),
        ("/v1/classify", picture, {}),
    ]
    stop = threading.Event()

    def client(address: str) -> tuple[int, set[str]]:
        connection = http.client.HTTPConnection(address, timeout=60)
        releases: set[str] = set()
        for served, (path, body, headers) in enumerate(itertools.cycle(requests)):
            if stop.is_set():
                return served, releases
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == 200, content
            if path != "/v1/classify":
                answer_headers = {name.lower(): value for name, value in answer.getheaders()}
                release = content.split(b'"model_version":"')[1].split(b'"')[0].decode()
                np.testing.assert_array_equal(read_logits(answer_headers, content), expected[release])
                releases.add(release)
        raise AssertionError

    with process(tmp_path) as (address, server), ThreadPoolExecutor(SOAK_CLIENTS) as clients:
        jobs = [clients.submit(client, address) for _ in range(SOAK_CLIENTS)]
        memory = []
        for switch in range(1, SWITCHES + 1):
            time.sleep(SOAK_SECONDS / (SWITCHES + 1))
            point(tmp_path, 1 + switch % 3)
            memory.append(server.memory_info().rss)
        time.sleep(SOAK_SECONDS / (SWITCHES + 1))
        stop.set()
        results = [job.result() for job in jobs]
        metrics = ask(address, "GET", "/metrics")[2].decode()
    print(f"{sum(served for served, _ in results)} requests; memory, MB: {[round(rss / 1e6) for rss in memory]}")
    assert f"rsd_edge_switches_total {SWITCHES}.0\n" in metrics
    assert "rsd_edge_switch_failures_total 0.0\n" in metrics
    assert 'code="5' not in metrics
    assert set().union(*(releases for _, releases in results)) == {"1", "2", "3"}
    assert np.median(memory[-5:]) < np.median(memory[5:10]) + GROWTH


def test_no_request_fails_while_releases_come_and_go(shared, tmp_path: Path) -> None:
    """By the commands of the device, which keep one good release only: what was served is gone from the disk."""
    releases = Releases(tmp_path)
    for number in range(1, 7):  # made before the clock starts
        shared.bundle(number)
    releases.install(shared.bundle(1), shared.keys)
    releases.activate(shared.keys)
    image = (shared.bundle(1) / "golden" / "files" / "wide.jpg").read_bytes()
    stop = threading.Event()

    def client(address: str) -> set[int]:
        numbers = set()
        while not stop.is_set():
            status, _, body = ask(address, "POST", "/v1/classify", image)
            assert status == 200, body
            numbers.add(json.loads(body)["release"])
        return numbers

    with process(tmp_path) as (address, _), ThreadPoolExecutor(4) as clients:
        jobs = [clients.submit(client, address) for _ in range(4)]
        try:
            for number in range(2, 7):
                releases.install(shared.bundle(number), shared.keys, keep=1)
                releases.activate(shared.keys, window=1, healthy=health.ready_at(f"http://{address}"), keep=1)
        finally:
            stop.set()
        assert set().union(*(job.result() for job in jobs)) == {1, 2, 3, 4, 5, 6}
    assert [path.name for path in releases.folder.iterdir()] == ["tiny-6"]
