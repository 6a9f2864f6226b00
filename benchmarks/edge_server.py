"""What `rsd-edge serve` adds to bare ONNX Runtime: start, latency, throughput and memory; and `rsd-edge install`.

    python -m benchmarks.edge_server
    python -m benchmarks.edge_server --bundle BUNDLE

A minute and a half. Serves a bundle (by default that of the last `dvc repro`, signed or not) on loopback in a process
of its own. It infers one image at a time, in turn with bare ONNX Runtime in this process on one thread, so that a slow
moment of the machine slows both. The overhead is the median of the differences within a turn. The client is a socket
that writes one request and reads one answer; the row tritonclient shows what a client library adds. Throughput is that
of several clients at once, each in a process of its own, against as many processes of ONNX Runtime alone. A bundle that
is not signed is also filled up to 100 MB, signed and installed (`benchmarks/edge_install.py`). Ends with status 1 if
the overhead is above 1 ms or the start above 2 s.
"""

import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
from PIL import Image

from benchmarks import edge_install
from benchmarks.command import command
from benchmarks.interleaved import interleaved, markdown
from rsd.export.runtimes.onnxruntime import session_of
from rsd.machine.errors import UserError

OVERHEAD, START = 1.0, 2.0
"""Limits: milliseconds, seconds."""
STARTS, ROUNDS, SECONDS, CLIENTS = 7, 2000, 5.0, 4
MEGABYTES = 100
"""Size of the bundle that is installed."""


@contextmanager
def serving(root: Path) -> Iterator[tuple[int, subprocess.Popen[str], float]]:
    """`rsd-edge serve` on a free port: the port, the process, and the seconds until it said that it is ready."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "rsd_edge", "--root", str(root), "serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=60) as answer:
            assert answer.status == 200
        yield port, process, time.perf_counter() - start
    finally:
        process.terminate()
        process.wait()


class Client:
    """A connection that is kept open."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> None:
        self._socket.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._more()
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(head.decode() + body.decode(errors="replace"))
        left = int(head.lower().split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0]) - len(body)
        while left:
            left -= len(self._more())

    def _more(self) -> bytes:
        part = self._socket.recv(65536)
        if not part:
            raise RuntimeError("expected an answer, found the connection closed")
        return part


def requests(name: str, image: np.ndarray) -> dict[str, bytes]:
    """Requests that send the same image in each format."""
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, *image.shape]}
    sized = {**tensor, "parameters": {"binary_data_size": image.nbytes}}
    head = json.dumps({"inputs": [sized], "parameters": {"binary_data_output": True}}).encode()
    text = json.dumps({"inputs": [{**tensor, "data": image.ravel().tolist()}]}).encode()
    jpeg = io.BytesIO()
    Image.fromarray(image.squeeze()).save(jpeg, "JPEG", quality=95)
    infer = f"/v2/models/{name}/infer"
    return {
        "server, binary": _post(infer, head + image.tobytes(), f"Inference-Header-Content-Length: {len(head)}\r\n"),
        "server, JSON": _post(infer, text),
        "server, JPEG": _post("/v1/classify", jpeg.getvalue()),
    }


def _post(path: str, body: bytes, headers: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: device\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def hammer(port: int, request: bytes, seconds: float) -> int:
    """Number of requests of one client that were answered."""
    client = Client(port)
    return _count(lambda: client.ask(request), seconds)


def infer(model: Path, image: np.ndarray, seconds: float) -> int:
    """Number of inferences of one process."""
    bare = session_of(model)
    return _count(lambda: bare.run(None, {"image": image[None]}), seconds)


def _count(work: Callable[[], object], seconds: float) -> int:
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        work()
        count += 1
    return count


def main(bundle: Path = Path("out/bundle")) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    model = bundle / next(iter(manifest["models"].values()))["onnx"]["onnxruntime"]
    bare = session_of(model)
    image = np.random.default_rng(0).integers(0, 256, bare.get_inputs()[0].shape[1:], dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "current").symlink_to(bundle.resolve())
        starts = []
        for _ in range(STARTS):
            with serving(root) as (_, _, seconds):
                starts.append(seconds)
        with serving(root) as (port, process, _), ProcessPoolExecutor(CLIENTS, get_context("spawn")) as pool:
            client, formats = Client(port), requests(manifest["name"], image)
            runs: dict[str, Callable[[], object]] = {
                "ONNX Runtime": lambda: bare.run(None, {"image": image[None]}),
                **{name: lambda request=request: client.ask(request) for name, request in formats.items()},  # type: ignore[misc]
                "server, tritonclient": _triton(port, manifest["name"], image),
            }
            before = psutil.Process(process.pid).memory_info().rss
            times = interleaved(runs, rounds=ROUNDS, warmup=100) * 1e3
            rates = {}
            every = range(CLIENTS)
            jobs = [pool.submit(hammer, port, formats["server, binary"], SECONDS) for _ in every]
            rates["server, binary"] = sum(job.result() for job in jobs) / SECONDS
            jobs = [pool.submit(infer, model, image, SECONDS) for _ in every]
            rates["ONNX Runtime"] = sum(job.result() for job in jobs) / SECONDS
            after = psutil.Process(process.pid).memory_info().rss
    overheads = {name: float((times[name] - times["ONNX Runtime"]).median()) for name in runs}
    rows = []
    for name in runs:
        p50, p99 = np.percentile(times[name], [50, 99])
        rate = f"{rates[name]:.0f}/s" if name in rates else "-"
        over = "-" if name == "ONNX Runtime" else f"{overheads[name]:.2f}"
        row = {"": name, "p50, ms": f"{p50:.2f}", "p99, ms": f"{p99:.2f}", "overhead, ms": over}
        rows.append({**row, f"{CLIENTS} clients": rate})
    print(markdown(rows))
    load = os.getloadavg()[0]
    print(f"\nstart to ready: {np.median(starts):.2f} s (median of {STARTS}, {min(starts):.2f} to {max(starts):.2f})")
    print(f"memory of the server: {before / 1e6:.0f} MB when ready, {after / 1e6:.0f} MB after these requests")
    print(f"{os.cpu_count()} cores, load {load:.1f} at the end")
    if not manifest["signed"]:
        print("\n" + edge_install.table(bundle, MEGABYTES))
    if overheads["server, binary"] > OVERHEAD or np.median(starts) > START:
        raise UserError(f"expected an overhead below {OVERHEAD} ms and a start below {START} s, found more")


def _triton(port: int, name: str, image: np.ndarray) -> Callable[[], object]:
    import tritonclient.http as triton

    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    tensor = triton.InferInput("image", [1, *image.shape], "UINT8")
    tensor.set_data_from_numpy(image[None])
    return lambda: client.infer(name, [tensor]).as_numpy("logits")


if __name__ == "__main__":
    command(main, __doc__)
