"""Starts stages of a test's project from a process that has loaded PyTorch and the like once: that takes three seconds.

    python starter.py ADDRESS               # the process: says when it listens, and ends with its standard input
    python starter.py ADDRESS -m stages.X   # as `python -m stages.X`, started by that process

Only libraries are shared. `stages` and `rsd` are loaded anew, from the folder in which the stage is called.
"""

import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
from typing import Any

LIBRARIES = ("torch", "torch._dynamo", "torchvision", "timm", "onnx", "onnxscript", "torchmetrics", "pandas", "sklearn")
MOST_BYTES = 1 << 20


def ask(address: str, arguments: list[str]) -> int:
    """Have a stage started with the environment, folder and streams of this process; its status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        call = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
        assert len(call) < MOST_BYTES
        socket.send_fds(connection, [len(call).to_bytes(4, "big")], [0, 1, 2])
        connection.sendall(call)
        return int(connection.recv(16) or b"137")


def serve(address: str) -> list[str]:
    """Fork at each call. Returns in the fork only: what follows `python` there."""
    for name in LIBRARIES:
        __import__(name)
    gc.freeze()  # a fork that looked through the libraries' objects would copy their memory
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the guards
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("listening", flush=True)
        while server in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return guard(connection)
            connection.close()
    sys.exit()


def guard(connection: socket.socket) -> list[str]:
    """Fork once more, and tell how that process ended. It is killed when its caller is."""
    size, streams, _, _ = socket.recv_fds(connection, 4, 3)
    call = b""
    while len(call) < int.from_bytes(size, "big"):
        part = connection.recv(MOST_BYTES)
        if not part:  # the caller has died
            os._exit(1)
        call += part
    arguments, folder, variables = json.loads(call)
    if (process := os.fork()) == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(variables)
        return list(arguments)
    for stream in streams:
        os.close(stream)
    ends: list[Any] = [connection, os.pidfd_open(process)]
    if connection in select.select(ends, [], [])[0]:
        os.kill(process, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    try:
        connection.sendall(str(status if status >= 0 else 128 - status).encode())
    finally:
        os._exit(0)


if __name__ == "__main__":
    if sys.argv[2:]:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
    _, module, *rest = serve(sys.argv[1])
    sys.argv = ["-m", *rest]
    sys.path[0] = os.getcwd()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
