"""uvicorn's HTTP connection, made patient only up to a limit.

uvicorn lets a client take any time to send the head of its first request and to read an answer; its limit for the head
of a later request ends at the first byte. Here each has a limit, so that a few slow clients cannot hold a device.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def limited(connections: int) -> type[H11Protocol]:
    """The protocol for `uvicorn.Config(http=...)`; `timeout_keep_alive` there is the limit in seconds.

    Args:
        connections: the most that may be open; the next one is closed at once.
    """

    class Connection(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._read_timer: asyncio.TimerHandle | None = None
            if len(self.connections) > connections:
                transport.abort()
                return
            # The base class's own timer, which it starts after an answer and stops when a head is complete.
            self.timeout_keep_alive_task = self._later(self.timeout_keep_alive_handler)

        def data_received(self, data: bytes) -> None:
            # As in the base class, but the timer stops at a whole head, not at the first byte.
            try:
                self.conn.receive_data(data)
                self.handle_events()
                if self.cycle and not self.cycle.response_complete:
                    self._unset_keepalive_if_required()
            except h11.ProtocolError:  # malformed bytes after an answer: a second answer is not possible
                self.transport.abort()

        def send_400_response(self, msg: str) -> None:
            if self.cycle:  # the body is malformed; this is its answer, so the application must not send another
                self.cycle.disconnected = True
            super().send_400_response(msg)

        def eof_received(self) -> bool:  # type: ignore[override]
            # A client may close its side after a whole request and still read the answer; after half a request, not.
            whole = self.cycle is not None and not (self.cycle.response_complete or self.cycle.more_body)
            if whole:
                self.cycle.keep_alive = False
            return whole

        def timeout_keep_alive_handler(self) -> None:
            # After half a head or in the middle of a refused body, h11 offers no regular end.
            self.transport.abort()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._read_timer = self._later(self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_read_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_read_timer()
            self._unset_keepalive_if_required()
            super().connection_lost(exc)

        def _later(self, action: Any) -> asyncio.TimerHandle:
            return self.loop.call_later(self.timeout_keep_alive, action)

        def _stop_read_timer(self) -> None:
            if self._read_timer:
                self._read_timer.cancel()
                self._read_timer = None

    return Connection
