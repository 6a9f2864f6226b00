"""A tiny release and a server of it over loopback, for the tests of `rsd-edge serve`."""

import http.client
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import psutil  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from rsd_edge import disk
from rsd_edge.images import MAX_PIXELS, Preprocessing, decode, preprocess
from rsd_edge.live import LiveModel
from rsd_edge.model import Model
from rsd_edge.records import Pair
from rsd_edge.serve import Server, listen
from rsd_edge.serve_options import ServeOptions

SHAPE = (5, 4, 3)
LABELS = ["cat", "dog", "m\u00f6we"]
NAME = "tiny"
PREPROCESSING = Preprocessing(5, 4, 3, resize="bilinear", crop_share=None)


def graph(seed: int) -> bytes:
    """An ONNX file: uint8 `[N, H, W, C]` -> the logits of a linear classifier, float32 `[N, classes]`."""
    generator = np.random.default_rng(seed)
    pixels = int(np.prod(SHAPE))
    weight = generator.normal(0, 1 / pixels, (pixels, len(LABELS))).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *SHAPE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(LABELS)])
    body = helper.make_graph(nodes, "tiny", [image], [logits], [numpy_helper.from_array(weight, "weight")])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(onnx.ModelProto.SerializeToString(model))


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


class Tiny:
    """What the server needs of a `Model`, without a release on disk; `wait` is called in every inference."""

    name, labels, input_shape, provider = NAME, LABELS, SHAPE, "CPUExecutionProvider"
    pair, threads = Pair("fp32", "onnxruntime"), 1

    def __init__(self, release: int = 1, wait: Callable[[], object] = lambda: None) -> None:
        self.release, self.wait, self.closed = release, wait, False
        self._session = onnxruntime.InferenceSession(graph(release), providers=[self.provider])

    def pixels(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        return preprocess(decode(data, PREPROCESSING, max_pixels=max_pixels), PREPROCESSING)

    def infer(self, images: np.ndarray) -> np.ndarray:
        assert not self.closed, "used after it was closed"
        self.wait()
        return np.asarray(self._session.run(["logits"], {"image": images})[0])

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True


def always(model: Tiny) -> LiveModel:
    """A live model that never switches."""
    return LiveModel(lambda: Path("1"), lambda folder: cast(Model, model))


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def served(
    live: LiveModel, *, token: str | None = None, opened: Callable[[Server], None] = lambda _: None, **options: Any
) -> Iterator[str]:
    """A server in a thread; yields its host and port."""
    chosen = ServeOptions(port=0, **options)
    server = Server(live, chosen, token=token)
    opened(server)
    with listen(chosen) as listener:
        thread = threading.Thread(target=server.serve_on, args=(listener,))
        thread.start()
        try:
            deadline = time.monotonic() + 60
            while not server.started:
                assert time.monotonic() < deadline
                assert thread.is_alive()
                time.sleep(0.005)
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def ask(
    address: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own: status, headers, body."""
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def infer_body(array: np.ndarray, *, binary: bool, **extra: Any) -> tuple[bytes, dict[str, str]]:
    """The body and headers of an `infer` request for `array`, which asks for the same encoding back."""
    tensor: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": list(array.shape)}
    tensor |= {"parameters": {"binary_data_size": array.nbytes}} if binary else {"data": array.ravel().tolist()}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": binary}, **extra}).encode()
    if not binary:
        return head, {}
    return head + array.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def read_logits(headers: dict[str, str], body: bytes) -> np.ndarray:
    """float32 `[N, classes]` of an answer in either encoding."""
    length = int(headers.get("inference-header-content-length", len(body)))
    (output,) = json.loads(body[:length])["outputs"]
    flat = np.frombuffer(body[length:], "<f4") if "parameters" in output else np.array(output["data"], np.float32)
    return flat.reshape(output["shape"])


def write_release(root: Path, release: int) -> None:
    """A release folder below `root`, not signed, as `install` leaves one."""
    folder = root / "releases" / str(release)
    (folder / "fp32").mkdir(parents=True)
    (folder / "golden").mkdir()
    (folder / "fp32" / "model.onnx").write_bytes(graph(release))
    (folder / "labels.json").write_text(json.dumps(LABELS))
    golden = images(1)
    (folder / "golden" / "image.png").write_bytes(png(golden[0]))
    np.save(folder / "golden" / "images.npy", golden)
    np.save(folder / "golden" / "logits.npy", Tiny(release).infer(golden))
    names = ["labels.json", "preprocessing.json", "fp32/model.onnx"]
    names += ["golden/image.png", "golden/images.npy", "golden/logits.npy"]
    manifest = {
        "schema_version": 3, "name": NAME, "release": release, "p99_ms": None,
        "requires": {"architectures": ["x86_64"], "onnxruntime": "1.18", "openvino": None, "memory_mib": 0},
        "models": {"fp32": {"onnx": {"onnxruntime": "fp32/model.onnx"}}},
        "golden": {
            "images": "golden/images.npy", "files": [{"path": "golden/image.png", "row": 0}],
            "logits": {"fp32": {"onnxruntime": "golden/logits.npy"}},
            "tolerances": {"pixels": 0, "logits": {"fp32": 1e-3}},
        },
        "files": {name: {"bytes": 0, "sha256": 64 * "0"} for name in names},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "preprocessing.json").write_text(json.dumps(asdict(PREPROCESSING)))


def point(root: Path, release: int) -> None:
    """Switch `current`, as `activate` does it once it has tested a release."""
    disk.link(root / "current", f"releases/{release}")


@contextmanager
def process(root: Path, *, keys: Path = Path("none"), **options: Any) -> Iterator[tuple[str, psutil.Process]]:
    """`rsd-edge serve` in a process of its own; yields its host and port, and the process."""
    command = [sys.executable, "-m", "rsd_edge", "--root", str(root), "--keys", str(keys), "serve", "--port", "0"]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert started.stdout
        address = started.stdout.readline().split("http://")[1].strip()
        deadline = time.monotonic() + 60
        while not _ready(address):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield address, psutil.Process(started.pid)
        assert started.poll() is None, f"it has ended by itself, with status {started.returncode}"
    finally:
        started.terminate()
        started.wait(60)


def _ready(address: str) -> bool:
    try:
        return ask(address, "GET", "/v2/health/ready")[0] == 200
    except OSError:
        return False


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
