"""What the server refuses, over loopback: its limits, the token, and how it starts and stops."""

import gzip
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from rsd_edge import protocol
from rsd_edge.errors import EdgeError
from rsd_edge.serve import Server, listen, read_token
from rsd_edge.serve_options import ServeOptions

from .serving import NAME, Tiny, always, ask, images, infer_body, png, served, until


def connect(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def raw(address: str, request: bytes) -> bytes:
    with connect(address) as client:
        client.sendall(request)
        return client.recv(65536)


def is_refused(address: str) -> bool:
    try:
        return ask(address, "GET", "/v2/health/live")[0] != 200
    except OSError:
        return True


def test_a_body_that_is_too_large_is_refused() -> None:
    with served(always(Tiny()), max_body=5000) as address:
        status, _, body = ask(address, "POST", "/v1/classify", bytes(5001))
        assert (status, json.loads(body)["error"]) == (413, "expected at most 5000 bytes of body, found 5001")
        chunk = b"3e8\r\n" + bytes(1000) + b"\r\n"
        head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert raw(address, head + 6 * chunk).startswith(b"HTTP/1.1 413 ")
        assert ask(address, "POST", "/v1/classify", bytes(5000))[0] == 400
        packed = {"Content-Encoding": "gzip"}
        status, _, body = ask(address, "POST", "/v1/classify", gzip.compress(bytes(100_000)), packed)
        assert (status, "after unpacking" in json.loads(body)["error"]) == (413, True)


def test_only_workers_unpack_bodies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = threading.Event()
    gate.set()
    model = Tiny(wait=lambda: gate.wait(60))
    threads: list[str] = []
    real = protocol.unpacked

    def recorded(body: bytes, encoding: str, most: int) -> bytes:
        threads.append(threading.current_thread().name)
        return real(body, encoding, most)

    monkeypatch.setattr(protocol, "unpacked", recorded)
    apps: list[Server] = []
    body, headers = gzip.compress(png(images(1)[0])), {"Content-Encoding": "gzip"}
    with served(always(model), opened=apps.append, workers=2, queue=10) as address, ThreadPoolExecutor(10) as clients:
        gate.clear()
        jobs = [clients.submit(ask, address, "POST", "/v1/classify", body, headers) for _ in range(10)]
        until(lambda: apps[0].app.queue.admitted == 10 and len(threads) == 2)
        assert apps[0].app.queue.held.total() == 10 * len(body)
        assert len(threads) == 2
        gate.set()
        assert [job.result()[0] for job in jobs] == [200] * 10
    assert len(threads) == 10
    assert all(name.startswith("infer") for name in threads)


def test_a_batch_that_is_too_large_is_refused() -> None:
    with served(always(Tiny()), max_batch=2) as address:
        for count, expected in ((2, 200), (3, 400)):
            body, headers = infer_body(images(count), binary=True)
            assert ask(address, "POST", f"/v2/models/{NAME}/infer", body, headers)[0] == expected


def test_too_many_pixels_are_refused_before_decoding() -> None:
    with served(always(Tiny()), max_pixels=1000) as address:
        for side, expected in ((31, 200), (32, 400)):
            status, _, body = ask(address, "POST", "/v1/classify", png(np.zeros((side, side, 3), np.uint8)))
            assert status == expected
        assert json.loads(body)["error"].startswith("expected at most 1000 pixels, found 32 x 32")


def test_a_full_queue_answers_429_and_serves_others() -> None:
    gate = threading.Event()
    gate.set()
    model = Tiny(wait=lambda: gate.wait(60))
    apps: list[Server] = []
    with (
        served(always(model), opened=apps.append, workers=2, queue=3) as address,
        ThreadPoolExecutor(5) as clients,
    ):
        gate.clear()
        body, headers = infer_body(images(1), binary=True)
        path = f"/v2/models/{NAME}/infer"
        admitted = [clients.submit(ask, address, "POST", path, body, headers) for _ in range(5)]
        until(lambda: apps[0].app.queue.admitted == 5)
        status, answer_headers, text = ask(address, "POST", path, body, headers)
        assert (status, answer_headers["retry-after"]) == (429, "1")
        assert "try again later" in json.loads(text)["error"]
        assert ask(address, "GET", "/v2/health/ready")[0] == 200  # health is not in the queue
        gate.set()
        assert [job.result()[0] for job in admitted] == [200] * 5
        assert ask(address, "POST", path, body, headers)[0] == 200


def test_a_wait_beyond_the_limit_is_refused() -> None:
    gate = threading.Event()
    gate.set()
    model = Tiny(wait=lambda: gate.wait(60))
    with served(always(model), workers=1, queue=3, timeout=0.3) as address, ThreadPoolExecutor(2) as clients:
        gate.clear()
        body, headers = infer_body(images(1), binary=True)
        jobs = [clients.submit(ask, address, "POST", f"/v2/models/{NAME}/infer", body, headers) for _ in range(2)]
        assert sorted(job.result()[0] for job in jobs) == [429, 503]  # waited for a worker; waited for the model
        gate.set()


def test_slow_clients_are_cut_off_and_others_served() -> None:
    with served(always(Tiny()), timeout=1.0) as address:
        heads = {
            "half a head": b"GET /v2/health/live HTTP/1.1\r\nHost: ",
            "half a body": b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
            "half a second head": b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\nGET /v2/",
            "rest of a refused body": b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n",
            "nothing": b"",
        }
        slow = {what: connect(address) for what in heads}
        start = time.monotonic()
        for what, client in slow.items():
            client.sendall(heads[what])
        answers = dict.fromkeys(slow, b"")
        while slow:
            assert time.monotonic() - start < 20, f"still connected: {list(slow)}"
            assert ask(address, "GET", "/v2/health/ready")[0] == 200
            for what, client in list(slow.items()):
                try:
                    client.sendall(b"a" if what != "nothing" else b"")
                    client.settimeout(0.05)
                    part = client.recv(4096)
                    answers[what] += part
                    gone = not part
                except TimeoutError:
                    gone = False
                except OSError:
                    gone = True
                if gone:
                    slow.pop(what).close()
        assert answers["half a body"].startswith(b"HTTP/1.1 408 ")
        assert answers["rest of a refused body"].startswith(b"HTTP/1.1 413 ")


def test_a_client_that_leaves_frees_its_body() -> None:
    servers: list[Server] = []
    with served(always(Tiny()), opened=servers.append) as address:
        with connect(address) as client:
            client.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
            until(lambda: servers[0].app.queue.held.total() == 4)
        until(lambda: b'requests_total{code="499",route="classify"} 1.0\n' in ask(address, "GET", "/metrics")[2])
        assert servers[0].app.queue.held.total() == 0


def test_open_connections_are_limited() -> None:
    with served(always(Tiny()), connections=3, timeout=30) as address:
        held = [connect(address) for _ in range(3)]
        until(lambda: is_refused(address))
        for client in held:
            client.close()
        until(lambda: not is_refused(address))


# The token.


def test_the_token_guards_everything_but_health_and_page() -> None:
    token = "0123456789abcdef-secret"
    with served(always(Tiny()), token=token) as address:
        for path in ("/v2", f"/v2/models/{NAME}", "/v1/status", "/metrics", "/nowhere"):
            for headers in (
                {},
                {"Authorization": "Bearer "},
                {"Authorization": f"Bearer {token}x"},
                {"Authorization": f"Bearer {token[:-1]}"},
                {"Authorization": f"Basic {token}"},
                {"Authorization": token},
            ):
                status, answer_headers, body = ask(address, "GET", path, headers=headers)
                assert (status, answer_headers["www-authenticate"]) == (401, "Bearer")
                assert token not in body.decode()
            assert ask(address, "GET", path, headers={"Authorization": f"Bearer {token}"})[0] in (200, 404)
        assert ask(address, "POST", "/v1/classify", png(images(1)[0]))[0] == 401
        for path in ("/", "/v2/health/live", "/v2/health/ready", f"/v2/models/{NAME}/versions/1/ready"):
            assert ask(address, "GET", path)[0] == 200
        status, _, body = ask(address, "GET", "/v2/models/guessed/ready")
        assert (status, NAME in body.decode()) == (404, False)


def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = []

    def compare(sent: bytes, token: bytes) -> bool:
        pairs.append((sent, token))
        return False

    monkeypatch.setattr("hmac.compare_digest", compare)
    with served(always(Tiny()), token="0123456789abcdef") as address:
        assert ask(address, "GET", "/metrics", headers={"Authorization": "Bearer 0123"})[0] == 401
    assert pairs == [(b"Bearer 0123", b"Bearer 0123456789abcdef")]


@pytest.mark.parametrize("content", ["", "short", "two words that are long enough", "t\ten-0123456789abcdef", "ü" * 20])
def test_a_file_without_one_good_token_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(EdgeError, match="expected (a|one) token"):
        read_token(tmp_path / "token")
    with pytest.raises(EdgeError, match="expected a token in"):
        read_token(tmp_path / "none")


def test_it_listens_on_loopback_only_unless_told_otherwise() -> None:
    assert ServeOptions().host == "127.0.0.1"
    with listen(ServeOptions(port=0)) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(EdgeError, match=f"expected to listen on 127.0.0.1 port {port}, found: .*in use"):
            listen(ServeOptions(port=port))


def test_requests_at_work_are_answered_before_the_stop() -> None:
    gate = threading.Event()
    gate.set()
    model = Tiny(wait=lambda: gate.wait(60))
    servers: list[Server] = []
    with ThreadPoolExecutor(1) as clients:
        with served(always(model), opened=servers.append) as address:
            gate.clear()
            body, headers = infer_body(images(1), binary=True)
            job = clients.submit(ask, address, "POST", f"/v2/models/{NAME}/infer", body, headers)
            until(lambda: servers[0].app.queue.admitted == 1)
            servers[0].should_exit = True
            time.sleep(0.2)
            gate.set()
        assert job.result()[0] == 200
