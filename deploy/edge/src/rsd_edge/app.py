"""The active release over HTTP, as an ASGI application: routes and limits.

One event loop reads requests and writes answers; a few threads decode images and run the model; at most so many
requests wait for a thread. Everything a client can send too much of has a limit (`serve_options.py`).
"""

import asyncio
import hmac
import json
import logging
import re
import time
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsd_edge import protocol
from rsd_edge.errors import EdgeError
from rsd_edge.live import LiveModel, NoModelError
from rsd_edge.metrics import Metrics, resident_bytes
from rsd_edge.model import Model
from rsd_edge.protocol import RefusedError, to_json
from rsd_edge.serve_options import ServeOptions

PAGE = (Path(__file__).parent / "page.html").read_bytes()
TOP = 5
"""Classes in the answer of /v1/classify."""
MODEL_PATH = re.compile(
    r"/v2/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?(/(?P<verb>infer|ready|config|stats))?"
)
JSON = {"content-type": "application/json"}
GONE = 499
"""The status, in the metrics only, of a request whose client left."""


class Answer(NamedTuple):
    body: bytes
    headers: dict[str, str] = JSON
    status: int = 200
    inference: float | None = None
    """Seconds in the model."""
    images: int = 1


class Served(NamedTuple):
    """A request as routes see it."""

    path: str
    body: bytes
    headers: dict[str, str]


class App:
    """The server as an ASGI application."""

    def __init__(self, live: LiveModel, options: ServeOptions, *, token: str | None = None) -> None:
        self.live, self.options = live, options
        self.metrics = Metrics()
        self._token = None if token is None else f"Bearer {token}".encode()
        self._pool = ThreadPoolExecutor(options.workers, thread_name_prefix="infer")
        self._admitted = 0
        self._held = 0

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http":  # the lifespan, which uvicorn is told not to ask for
            return
        start = time.perf_counter()
        route, methods, work = self._route(scope["path"])
        try:
            if scope["method"] not in methods:
                raise RefusedError(
                    405, f"expected {' or '.join(methods)} {scope['path'][:80]!a}, found {scope['method'][:20]!a}"
                )
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self._authorize(route, headers)
            if "POST" in methods:
                answer = await self._worked_on(work, scope["path"], headers, receive)
            else:
                answer = work(Served(scope["path"], b"", headers))
        except RefusedError as refused:
            answer = _refusal(refused.status, str(refused))
        except NoModelError as error:
            answer = _refusal(503, str(error))
        except ConnectionResetError:
            self.metrics.requests[route, GONE] += 1
            return
        except Exception:
            logging.getLogger("rsd_edge").exception("%s failed", route)
            answer = _refusal(500, "the server failed at this request; its log says how")
        self.metrics.requests[route, answer.status] += 1
        if answer.inference is not None:
            self.metrics.served(route, time.perf_counter() - start, answer.inference, answer.images)
        head = {**answer.headers, "content-length": str(len(answer.body)), "x-content-type-options": "nosniff"}
        if answer.status == 405:
            head["allow"] = ", ".join(methods)
        encoded = [(name.encode(), value.encode()) for name, value in head.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
        await send({"type": "http.response.body", "body": answer.body})

    def close(self) -> None:
        self._pool.shutdown()

    def _route(self, path: str) -> tuple[str, tuple[str, ...], Callable[[Served], Answer]]:
        """Its name for the metrics, its methods, and what answers."""
        get, post = ("GET", "HEAD"), ("POST",)
        match path:
            case "/":
                return "page", get, self._page
            case "/v2/health/live":
                return "live", get, lambda request: Answer(to_json({"live": True}))
            case "/v2/health/ready":
                return "ready", get, self._ready
            case "/v1/classify":
                return "classify", post, self._classify
            case "/v1/status":
                return "status", get, self._status
            case "/metrics":
                return "metrics", get, self._prometheus
            case "/v2" | "/v2/":
                return "server", get, self._server
            case "/v2/repository/index":
                return "index", post, self._index
            case "/v2/models/stats":
                return "stats", get, self._stats
        if found := MODEL_PATH.fullmatch(path):
            match found["verb"]:
                case "infer":
                    return "infer", post, self._infer
                case "ready":
                    return "model_ready", get, self._model_ready
                case "config":
                    return "config", get, self._config
                case "stats":
                    return "stats", get, self._stats
            return "model", get, self._model
        return "unknown", ("GET", "HEAD", "POST"), self._unknown

    def _authorize(self, route: str, headers: dict[str, str]) -> None:
        # Health is for whoever starts and switches it, and the page holds nothing but the place to type the token.
        if self._token is None or route in ("live", "ready", "model_ready", "page"):
            return
        if not hmac.compare_digest(headers.get("authorization", "").encode(), self._token):
            raise RefusedError(401, "expected the header Authorization: Bearer TOKEN with this server's token")

    # Requests with a body.

    async def _worked_on(
        self, work: Callable[[Served], Answer], path: str, headers: dict[str, str], receive: Callable[..., Any]
    ) -> Answer:
        """Read the body and let a thread do the work, within the limits."""
        held = [0]
        try:
            try:
                body = await asyncio.wait_for(self._body(headers, receive, held), self.options.timeout)
            except (asyncio.TimeoutError, TimeoutError):
                raise RefusedError(408, f"expected the whole body within {self.options.timeout:g} s") from None
            if self._admitted >= self.options.workers + self.options.queue:
                raise RefusedError(
                    429, f"expected to wait, found {self._admitted} requests before this one; try again later"
                )
            self._admitted += 1
            task = self._pool.submit(self._work, work, path, headers, body)
            job = asyncio.wrap_future(task)
            job.add_done_callback(self._released)
            # Not `wait_for`, which would cancel: a thread cannot be, and its place is taken until it is done.
            await asyncio.wait([job], timeout=self.options.timeout)
            if not job.done():
                if task.cancel():
                    raise RefusedError(429, "expected a free worker in time, found none; try again later")
                raise RefusedError(503, f"expected the model to answer within {self.options.timeout:g} s, found none")
            return job.result()
        finally:
            self._held -= held[0]

    async def _body(self, headers: dict[str, str], receive: Callable[..., Any], held: list[int]) -> bytes:
        most = self.options.max_body
        declared = headers.get("content-length", "0")
        if int(declared[:20]) > most:  # h11 lets nothing but digits through
            raise RefusedError(413, f"expected at most {most} bytes of body, found {declared[:20]}")
        parts = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            part = message.get("body", b"")
            held[0] += len(part)
            self._held += len(part)
            if held[0] > most:
                raise RefusedError(413, f"expected at most {most} bytes of body, found more")
            if self._held > 4 * most:
                raise RefusedError(429, "expected room for this body, found too many others; try again later")
            parts.append(part)
            if not message.get("more_body"):
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _work(self, work: Callable[[Served], Answer], path: str, headers: dict[str, str], body: bytes) -> Answer:
        """In a thread of the pool."""
        encoding = headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            # Not before: of all bodies that wait, no more are unpacked than there are workers.
            body = protocol.unpacked(body, encoding, self.options.max_body)
        return work(Served(path, body, headers))

    def _released(self, job: "asyncio.Future[Answer]") -> None:
        self._admitted -= 1
        if not job.cancelled():
            job.exception()  # seen, even if the client waits no more

    def _infer(self, request: Served) -> Answer:
        with self.live.use() as model:
            _must_be(request.path, model)
            asked = protocol.parse(
                request.body,
                request.headers.get(protocol.HEADER_LENGTH),
                shape=model.input_shape,
                max_batch=self.options.max_batch,
            )
            logits, seconds = _timed(model, asked.images)
            body, headers = protocol.answer(logits, asked, name=model.name, release=model.release)
        return Answer(body, headers, inference=seconds, images=len(logits))

    def _classify(self, request: Served) -> Answer:
        with self.live.use() as model:
            try:
                image = model.preprocess(model.decode(request.body, most_pixels=self.options.max_pixels))
            except EdgeError as error:
                raise RefusedError(400, str(error)) from None
            (logits,), seconds = _timed(model, image[None])
            shares = np.exp(logits - logits.max())
            shares /= shares.sum()
            best = [
                {"label": model.labels[index], "index": int(index), "probability": float(shares[index])}
                for index in np.argsort(-shares, kind="stable")[:TOP]
            ]
            body = {"model": model.name, "release": model.release, "classes": best, "inference_ms": seconds * 1e3}
        return Answer(to_json(body), inference=seconds)

    # The rest is answered at once.

    def _ready(self, request: Served) -> Answer:
        with self.live.use():
            return Answer(to_json({"ready": True}))

    def _model_ready(self, request: Served) -> Answer:
        """Asked without a token, too: says nothing of what is served but whether it is this."""
        with self.live.use() as model:
            try:
                _must_be(request.path, model)
            except RefusedError:
                raise RefusedError(404, "expected the model and the version that are served, found others") from None
            return Answer(to_json({"ready": True}))

    def _server(self, request: Served) -> Answer:
        extensions = ["binary_tensor_data", "model_configuration", "statistics"]
        return Answer(to_json({"name": "rsd-edge", "version": "1", "extensions": extensions}))

    def _model(self, request: Served) -> Answer:
        with self.live.use() as model:
            _must_be(request.path, model)
            body = {
                "name": model.name,
                "versions": [str(model.release)],
                "platform": "onnxruntime_onnx",
                "inputs": [{"name": protocol.INPUT, "datatype": "UINT8", "shape": [-1, *model.input_shape]}],
                "outputs": [{"name": protocol.OUTPUT, "datatype": "FP32", "shape": [-1, len(model.labels)]}],
            }
        return Answer(to_json(body))

    def _config(self, request: Served) -> Answer:
        """Triton's model configuration: its clients ask for the batch size and the labels."""
        with self.live.use() as model:
            _must_be(request.path, model)
            body = {
                "name": model.name,
                "platform": "onnxruntime_onnx",
                "max_batch_size": self.options.max_batch,
                "input": [{"name": protocol.INPUT, "data_type": "TYPE_UINT8", "dims": list(model.input_shape)}],
                "output": [{"name": protocol.OUTPUT, "data_type": "TYPE_FP32", "dims": [len(model.labels)]}],
                "parameters": {"labels": {"string_value": json.dumps(model.labels)}},
            }
        return Answer(to_json(body))

    def _index(self, request: Served) -> Answer:
        """Triton's repository index: the one model that is served."""
        with self.live.use() as model:
            entry = {"name": model.name, "version": str(model.release), "state": "READY", "reason": ""}
        return Answer(to_json([entry]))

    def _stats(self, request: Served) -> Answer:
        """Triton's statistics; see `Metrics.triton`."""
        with self.live.use() as model:
            if request.path != "/v2/models/stats":
                _must_be(request.path, model)
            entry: dict[str, Any] = {"name": model.name, "version": str(model.release)}
        return Answer(to_json({"model_stats": [entry | self.metrics.triton()]}))

    def _status(self, request: Served) -> Answer:
        p50, p99 = (self.metrics.percentile(share) for share in (0.5, 0.99))
        body: dict[str, Any] = {
            "ready": True,
            "error": self.live.error,
            "requests": sum(self.metrics.requests.values()),
            "served": len(self.metrics.recent),
            "p50_ms": p50 and p50 * 1e3,
            "p99_ms": p99 and p99 * 1e3,
            "waiting": max(0, self._admitted - self.options.workers),
            "uptime_seconds": time.time() - self.metrics.started,
            "resident_bytes": resident_bytes(),
        }
        try:
            with self.live.use() as model:
                body |= _description(model)
        except NoModelError as error:
            body |= {"ready": False, "error": str(error)}
        return Answer(to_json(body))

    def _prometheus(self, request: Served) -> Answer:
        try:
            with self.live.use() as model:
                release = {key: str(value) for key, value in _description(model).items()}
        except NoModelError:
            release = {}
        gauges: dict[str, float] = {
            "ready": int(bool(release)),
            "admitted_requests": self._admitted,
            "switches_total": self.live.switches,
            "switch_failures_total": self.live.failures,
        }
        text = self.metrics.prometheus(gauges, release)
        return Answer(text.encode(), {"content-type": "text/plain; version=0.0.4; charset=utf-8"})

    def _page(self, request: Served) -> Answer:
        return Answer(PAGE, PAGE_HEADERS)

    def _unknown(self, request: Served) -> Answer:
        raise RefusedError(404, f"expected a path of this server, found {request.path[:80]!a}; see / and /v2")


def _policy(page: bytes) -> str:
    """The page may run its own script and style and talk to its own server, and nothing else."""
    digests = {}
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), page, re.S)
        digests[tag] = f"'sha256-{b64encode(sha256(text).digest()).decode()}'"
    return (
        f"default-src 'none'; script-src {digests['script']}; style-src {digests['style']}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


PAGE_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": _policy(PAGE),
    "cache-control": "no-cache",
}


def _refusal(status: int, sentence: str) -> Answer:
    extra = {429: {"retry-after": "1"}, 401: {"www-authenticate": "Bearer"}}.get(status, {})
    return Answer(to_json({"error": sentence}), {**JSON, **extra}, status)


def _description(model: Model) -> dict[str, Any]:
    return {"model": model.name, "release": model.release, "precision": model.precision, "provider": model.provider}


def _must_be(path: str, model: Model) -> None:
    """A path that names a model and a version must name what is served."""
    found = MODEL_PATH.fullmatch(path)
    if found and found["model"] != model.name:
        raise RefusedError(404, f"expected the model {model.name!a}, found {found['model'][:80]!a}")
    if found and found["version"] not in (None, str(model.release)):
        raise RefusedError(404, f"expected version {model.release} of {model.name!a}, found {found['version'][:40]!a}")


def _timed(model: Model, images: np.ndarray) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    logits = model.infer(images)
    seconds = time.perf_counter() - start
    if not np.isfinite(logits).all():
        raise RefusedError(
            422, "expected finite logits of this input, found NaN or infinity; the release needs mending"
        )
    return logits, seconds
