"""uvicorn's HTTP connection, made patient only up to a limit.

uvicorn limits neither how long a client may take for the head of its first request nor how slowly it may read its
answer, and drops its limit for later requests at the first byte. A handful of such clients must not hold a device.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def limited(connections: int) -> type[H11Protocol]:
    """The protocol for `uvicorn.Config(http=...)`; `timeout_keep_alive` there is the limit in seconds.

    Args:
        connections: how many may be open; the next one is closed at once.
    """

    class Connection(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._reading: asyncio.TimerHandle | None = None
            if len(self.connections) > connections:
                transport.abort()
                return
            # The base class's own timer: it starts it after an answer, and stops it when a head is complete.
            self.timeout_keep_alive_task = self._later(self.timeout_keep_alive_handler)

        def data_received(self, data: bytes) -> None:
            # As in the base class, but not a byte stops the timer: a whole head does.
            try:
                self.conn.receive_data(data)
                self.handle_events()
                if self.cycle and not self.cycle.response_complete:
                    self._unset_keepalive_if_required()
            except h11.ProtocolError:  # nonsense after an answer, which leaves nothing to say
                self.transport.abort()

        def send_400_response(self, msg: str) -> None:
            if self.cycle:  # its body is nonsense: this is its answer, the application's would be a second one
                self.cycle.disconnected = True
            super().send_400_response(msg)

        def eof_received(self) -> bool:  # type: ignore[override]
            # A client may end its side after a whole request and still read the answer; half a request is over.
            whole = self.cycle is not None and not (self.cycle.response_complete or self.cycle.more_body)
            if whole:
                self.cycle.keep_alive = False
            return whole

        def timeout_keep_alive_handler(self) -> None:
            # Half a head, or the rest of a body that was refused: h11 has no polite end for these.
            self.transport.abort()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._reading = self._later(self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_reading_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_reading_timer()
            self._unset_keepalive_if_required()
            super().connection_lost(exc)

        def _later(self, action: Any) -> asyncio.TimerHandle:
            return self.loop.call_later(self.timeout_keep_alive, action)

        def _stop_reading_timer(self) -> None:
            if self._reading:
                self._reading.cancel()
                self._reading = None

    return Connection
