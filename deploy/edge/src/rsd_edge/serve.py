"""`rsd-edge serve`: the application on a socket, until a signal stops it."""

import contextlib
import logging
import socket
import threading
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from rsd_edge import choices, choosing
from rsd_edge.app import App
from rsd_edge.connection import limited
from rsd_edge.errors import EdgeError
from rsd_edge.live import LiveModel
from rsd_edge.model import Model
from rsd_edge.releases import Releases
from rsd_edge.serve_options import ServeOptions


class Server(uvicorn.Server):
    """uvicorn's server for `App`; while it runs, a thread watches for another release."""

    def __init__(self, live: LiveModel, options: ServeOptions, *, token: str | None = None) -> None:
        self.app = App(live, options, token=token)
        self._live = live
        super().__init__(
            uvicorn.Config(
                self.app,
                host=options.host,
                port=options.port,
                http=limited(options.connections),
                ws="none",
                loop="asyncio",
                lifespan="off",
                interface="asgi3",
                log_level="error",  # at a lower level, every malformed request writes a line
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=max(1, round(options.timeout)),
                timeout_graceful_shutdown=max(1, round(2 * options.timeout)),
            )
        )

    def serve_on(self, listener: socket.socket) -> None:
        """Serve until SIGTERM, SIGINT or `should_exit`; requests at work are still answered."""
        self._live.refresh()
        watcher = threading.Thread(target=self._live.watch, name="watch", daemon=True)
        watcher.start()
        try:
            self.run(sockets=[listener])
        finally:
            self._live.stop()
            watcher.join()
            self.app.queue.close()


def listen(options: ServeOptions) -> socket.socket:
    """A socket on the host and port of the options; EdgeError if the system refuses it, such as a port in use."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listener = socket.create_server((options.host, options.port), family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        raise EdgeError(
            f"expected to listen on {options.host} port {options.port}, found: {error}; give another --host or --port"
        ) from None
    # Connections inherit it. Without it, an answer's body waits 40 ms for the client to acknowledge the head. asyncio
    # sets it only on sockets that it made itself.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def read_token(file: Path | None) -> str | None:
    """The token in `file`; EdgeError if it cannot be read or holds none."""
    if file is None:
        return None
    try:
        token = file.read_text("ascii").strip()
    except (OSError, UnicodeError) as error:
        raise EdgeError(f"expected a token in {file}, found: {error}; write one line of ASCII into it") from None
    if len(token) < 16 or not token.isprintable() or " " in token:
        raise EdgeError(
            f"expected one token of 16 or more letters and digits in {file}, found something else; "
            "make one with: openssl rand -hex 32"
        )
    return token


def main(root: Path, options: ServeOptions, keys: Sequence[Path]) -> None:
    """Serve the active release of `root`, and each one that is activated later, until SIGTERM or SIGINT.

    It runs as `activate` chose, or as the options pin it; if the choice is lost, as the first pair that is right. If
    the release is damaged, an earlier good one that one of the pinned `keys` signed is served instead.

    Raises:
        EdgeError: the server cannot listen, or the token cannot be read.
    """
    token = read_token(options.token_file)
    releases = Releases(root)

    @lru_cache(maxsize=1)
    def whole(folder: Path, inode: int) -> Path:
        """Reads a release once, and again if it is installed again."""
        return releases.whole_or_earlier(folder, keys) or folder

    def to_serve() -> Path | None:
        folder = releases.to_serve()
        return whole(folder, folder.stat().st_ino) if folder and folder.is_dir() else folder

    def open_chosen(folder: Path) -> Model:
        return choosing.open_model(root, folder, options.pins, logging.getLogger("rsd_edge").warning)

    def version(folder: Path) -> object:
        try:
            facts = choices.path_of(root, folder.name).stat()
        except OSError:  # lost: what is served stays
            return None
        return facts.st_ino, facts.st_mtime_ns

    live = LiveModel(to_serve, open_chosen, version)
    with listen(options) as listener:
        host, port = listener.getsockname()[:2]
        print(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        if token is None and not ip_address(host).is_loopback:
            print("warning: any host that reaches this address may use the server; give --token-file", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after its stop
            Server(live, options, token=token).serve_on(listener)
