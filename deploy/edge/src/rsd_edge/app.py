"""The active release over HTTP, as a Starlette application.

The event loop reads requests and writes answers; a few threads decode images and run the model (`work_queue.py`).
Everything that a client can send too much of has a limit (`serve_options.py`).
"""

import hmac
import json
import re
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rsd_edge import protocol
from rsd_edge.errors import EdgeError
from rsd_edge.form import uploaded
from rsd_edge.live import LiveModel
from rsd_edge.metrics import Metrics, resident_bytes
from rsd_edge.model import Model, top_classes
from rsd_edge.records import ONNXRUNTIME, OPENVINO
from rsd_edge.serve_options import ServeOptions
from rsd_edge.work_queue import WorkQueue

PAGE = (Path(__file__).parent / "page.html").read_bytes()
TOP = 5
"""Classes in the answer of /v1/classify."""
PLATFORMS = {ONNXRUNTIME: "onnxruntime_onnx", OPENVINO: "openvino"}
"""Triton's names of the runtimes."""


def _by_a_worker(work: Callable[["App", Request, bytes], Response]) -> Callable[["App", Request], Awaitable[Response]]:
    """An endpoint that reads the body and lets a thread of the queue do the work, which calls `_logits`."""

    @wraps(work)
    async def endpoint(app: "App", request: Request) -> Response:
        start = time.perf_counter()
        response = await app.queue.run(request, partial(work, app))
        app._metrics.record(work.__name__, time.perf_counter() - start, request.state.seconds, request.state.images)
        return response

    return endpoint


class App(Starlette):
    """The server as an ASGI application. The name of an endpoint is its `route` in the metrics."""

    def __init__(self, live: LiveModel, options: ServeOptions, *, token: str | None = None) -> None:
        self._live, self._options = live, options
        self._token = None if token is None else f"Bearer {token}".encode()
        self.queue = WorkQueue(options)
        self._metrics = Metrics(live, lambda: self.queue.admitted)
        guarded = partial(Route, middleware=[Middleware(self._guarded)])
        paths = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        super().__init__(
            routes=[
                *(guarded(f"{path}/infer", self.infer, methods=["POST"]) for path in paths),
                guarded("/v1/classify", self.classify, methods=["POST"]),
                # Health is for whatever starts and switches the server; the page holds a field for the token, no more.
                Route("/v2/health/live", self.live),
                Route("/v2/health/ready", self.ready),
                *(Route(f"{path}/ready", self.model_ready) for path in paths),
                Route("/", self.page),
                guarded("/v1/status", self.status),
                guarded("/metrics", self.metrics),
                *(guarded(path, self.server) for path in ("/v2", "/v2/")),
                guarded("/v2/repository/index", self.index, methods=["POST"]),
                guarded("/v2/models/stats", self.stats),
                *(guarded(f"{path}/stats", self.stats) for path in paths),
                *(guarded(f"{path}/config", self.config) for path in paths),
                *(guarded(path, self.model) for path in paths),
            ],
            exception_handlers={HTTPException: _refused, 405: _wrong_method, Exception: _failed},
        )
        self.router.redirect_slashes = False
        self.router.default = self._guarded(_unknown_path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope["endpoint"].__name__ if "endpoint" in scope else "unknown"
                self._metrics.requests.labels(route, message["status"]).inc()
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        await super().__call__(scope, receive, counted)

    def _guarded(self, app: ASGIApp) -> ASGIApp:
        """`app` for those who send the token; for everyone if the server has none."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            sent = Headers(scope=scope).get("authorization", "").encode()
            if self._token is not None and not hmac.compare_digest(sent, self._token):
                sentence = "expected the header Authorization: Bearer TOKEN with this server's token"
                raise HTTPException(401, sentence, {"www-authenticate": "Bearer"})
            await app(scope, receive, send)

        return guarded

    # Endpoints that run the model.

    @_by_a_worker
    def infer(self, request: Request, body: bytes) -> Response:
        """The Open Inference Protocol."""
        with self._live.use() as model:
            _check_served(request, model)
            length = request.headers.get(protocol.HEADER_LENGTH)
            parsed = protocol.parse(body, length, shape=model.input_shape, max_batch=self._options.max_batch)
            logits = _logits(request, model, parsed.images)
            return protocol.answer(logits, parsed, name=model.name, release=model.release)

    @_by_a_worker
    def classify(self, request: Request, body: bytes) -> Response:
        """The most probable classes of an image file, which is the body or the file of a form."""
        data = uploaded(body, request.headers.get("content-type", ""))
        with self._live.use() as model:
            try:
                image = model.pixels(data, max_pixels=self._options.max_pixels)
            except EdgeError as error:
                raise HTTPException(400, str(error)) from None
            (logits,) = _logits(request, model, image[None])
            classes = [
                {"label": model.labels[index], "index": index, "probability": probability}
                for index, probability in top_classes(logits, TOP)
            ]
            milliseconds = request.state.seconds * 1e3
            content = {"model": model.name, "release": model.release, "classes": classes, "inference_ms": milliseconds}
        return JSONResponse(content)

    # Endpoints that the event loop answers at once.

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        with self._live.use():
            return JSONResponse({"ready": True})

    async def model_ready(self, request: Request) -> Response:
        """Whether this model is served; needs no token, so that a refusal does not name the model that is."""
        with self._live.use() as model:
            try:
                _check_served(request, model)
            except HTTPException:
                raise HTTPException(404, "expected the model and version that are served, found others") from None
            return JSONResponse({"ready": True})

    async def page(self, request: Request) -> Response:
        return Response(PAGE, headers=PAGE_HEADERS)

    async def status(self, request: Request) -> Response:
        """Everything that the page shows."""
        p50, p99 = (self._metrics.percentile(share) for share in (0.5, 0.99))
        served = self._live.description()
        content = {
            "ready": bool(served),
            "error": self._live.error,
            "requests": int(self._metrics.total("requests_total")),
            "served": len(self._metrics.recent),
            "p50_ms": p50 and p50 * 1e3,
            "p99_ms": p99 and p99 * 1e3,
            "waiting": max(0, self.queue.admitted - self._options.workers),
            "uptime_seconds": time.time() - self._metrics.started,
            "resident_bytes": resident_bytes(),
            **served,
        }
        return JSONResponse(content)

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})

    async def server(self, request: Request) -> Response:
        extensions = ["binary_tensor_data", "model_configuration", "statistics"]
        return JSONResponse({"name": "rsd-edge", "version": "1", "extensions": extensions})

    async def model(self, request: Request) -> Response:
        with self._live.use() as model:
            _check_served(request, model)
            content = {
                "name": model.name,
                "versions": [str(model.release)],
                "platform": PLATFORMS[model.pair.runtime],
                "inputs": [{"name": protocol.INPUT, "datatype": "UINT8", "shape": [-1, *model.input_shape]}],
                "outputs": [{"name": protocol.OUTPUT, "datatype": "FP32", "shape": [-1, len(model.labels)]}],
            }
        return JSONResponse(content)

    async def config(self, request: Request) -> Response:
        """Triton's model configuration: its clients read the batch size and the labels there."""
        with self._live.use() as model:
            _check_served(request, model)
            content = {
                "name": model.name,
                "platform": PLATFORMS[model.pair.runtime],
                "max_batch_size": self._options.max_batch,
                "input": [{"name": protocol.INPUT, "data_type": "TYPE_UINT8", "dims": list(model.input_shape)}],
                "output": [{"name": protocol.OUTPUT, "data_type": "TYPE_FP32", "dims": [len(model.labels)]}],
                "parameters": {"labels": {"string_value": json.dumps(model.labels)}},
            }
        return JSONResponse(content)

    async def index(self, request: Request) -> Response:
        """Triton's repository index: the one model that is served."""
        with self._live.use() as model:
            entry = {"name": model.name, "version": str(model.release), "state": "READY", "reason": ""}
        return JSONResponse([entry])

    async def stats(self, request: Request) -> Response:
        """Triton's statistics; see `Metrics.triton`."""
        with self._live.use() as model:
            _check_served(request, model)
            entry = {"name": model.name, "version": str(model.release), **self._metrics.triton()}
        return JSONResponse({"model_stats": [entry]})


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


async def _unknown_path(scope: Scope, receive: Receive, send: Send) -> None:
    raise HTTPException(404, f"expected a path of this server, found {scope['path'][:80]!a}; see / and /v2")


# Answers to exceptions. Starlette would run them in a thread if they were not async.


async def _refused(request: Request, error: Any) -> Response:
    retry = {"retry-after": "1"} if error.status_code == 429 else {}
    return JSONResponse({"error": error.detail}, error.status_code, {**(error.headers or {}), **retry})


async def _wrong_method(request: Request, error: Any) -> Response:
    allowed = sorted(error.headers["Allow"].split(", "))
    path, method = request.scope["path"][:80], request.method[:20]
    sentence = f"expected {' or '.join(allowed)} {path!a}, found {method!a}"
    return JSONResponse({"error": sentence}, 405, {"allow": ", ".join(allowed)})


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed at this request; its log says how"}, 500)


def _check_served(request: Request, model: Model) -> None:
    """HTTPException if the path names another model or version than the one that is served."""
    name = request.path_params.get("model", model.name)
    version = request.path_params.get("version", str(model.release))
    if name != model.name:
        raise HTTPException(404, f"expected the model {model.name!a}, found {name[:80]!a}")
    if version != str(model.release):
        raise HTTPException(404, f"expected version {model.release} of {model.name!a}, found {version[:40]!a}")


def _logits(request: Request, model: Model, images: np.ndarray) -> np.ndarray:
    """Logits float32 `[N, classes]`; the state of the request keeps N and the seconds in the model, for the metrics."""
    start = time.perf_counter()
    logits = model.infer(images)
    request.state.seconds, request.state.images = time.perf_counter() - start, len(images)
    if not np.isfinite(logits).all():
        raise HTTPException(422, "expected finite logits of this input, found NaN or infinity; mend the release")
    return logits
