"""Requests with a body: read on the event loop, worked on by a few threads, both within limits."""

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from rsd_edge import protocol
from rsd_edge.serve_options import ServeOptions

Result = TypeVar("Result")
CLIENT_LEFT = 499
"""The status, in the metrics only, of a request whose client left before its body was complete."""


class WorkQueue:
    """A pool of threads that as many requests may wait for as the options allow."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._pool = ThreadPoolExecutor(options.workers, thread_name_prefix="infer")
        self.admitted = 0
        """Requests at work or in the queue."""
        self.held: Counter[Request] = Counter()
        """Bytes of the bodies in memory, as they were sent."""

    async def run(self, request: Request, work: Callable[[Request, bytes], Result]) -> Result:
        """Read the body of a request and let a thread do the work with it.

        Raises:
            HTTPException: with status 408, 413, 415, 429 or 503 if a limit is reached, and what `work` raises.
        """
        limit = self._options.timeout
        try:
            try:
                body = await asyncio.wait_for(self._read(request), limit)
            except (asyncio.TimeoutError, TimeoutError):  # two classes before Python 3.11
                raise HTTPException(408, f"expected the whole body within {limit:g} s; send it faster") from None
            except ClientDisconnect:
                raise HTTPException(CLIENT_LEFT) from None
            if self.admitted >= self._options.workers + self._options.queue:
                raise HTTPException(429, f"expected a shorter queue, found {self.admitted} requests; try again later")
            self.admitted += 1
            task = self._pool.submit(self._work, request, body, work)
            job = asyncio.wrap_future(task)
            job.add_done_callback(self._release)
            # Not `wait_for`, which would cancel: a thread cannot be, and its place is taken until it is done.
            await asyncio.wait([job], timeout=limit)
            if not job.done():
                if task.cancel():
                    raise HTTPException(429, f"expected a free worker within {limit:g} s, found none; try again later")
                raise HTTPException(503, f"expected the model to answer within {limit:g} s; try again later")
            return job.result()
        finally:
            self.held.pop(request, None)

    async def _read(self, request: Request) -> bytes:
        limit = self._options.max_body
        declared = request.headers.get("content-length", "0")[:20]  # h11 lets nothing but digits through
        if int(declared) > limit:
            raise HTTPException(413, f"expected at most {limit} bytes of body, found {declared}")
        chunks = []
        async for chunk in request.stream():
            self.held[request] += len(chunk)
            if self.held[request] > limit:
                raise HTTPException(413, f"expected at most {limit} bytes of body, found more")
            if self.held.total() > 4 * limit:
                raise HTTPException(429, "expected room for this body, found it taken by others; try again later")
            chunks.append(chunk)
        return b"".join(chunks)

    def _work(self, request: Request, body: bytes, work: Callable[[Request, bytes], Result]) -> Result:
        """In a thread of the pool."""
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            # Only here: no more bodies are unpacked at a time than there are workers.
            body = protocol.unpacked(body, encoding, self._options.max_body)
        return work(request, body)

    def _release(self, job: "asyncio.Future[Any]") -> None:
        self.admitted -= 1
        if not job.cancelled():
            job.exception()  # marks it as read: the client may have stopped waiting

    def close(self) -> None:
        self._pool.shutdown()
