"""Code of a release in a child process: a model may ask for any memory and any time, and crash the runtime.

The current release serves on meanwhile, whatever becomes of the child.
"""

import contextlib
import ctypes
import errno
import gc
import multiprocessing
import os
import re
import resource
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar, cast

from rsd_edge.errors import EdgeError

T = TypeVar("T")
SHARE = 0.75
"""Of the free memory that a child may use; what is served keeps the rest."""
_OUT_OF_MEMORY = re.compile("alloc|out of memory|available memory", re.IGNORECASE)
"""In the messages of a runtime: "Failed to allocate memory", "std::bad_alloc", "CUDA out of memory"."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run(work: Callable[[], T], release: str, *, seconds: int) -> T:
    """The result of `work` in a forked child; arguments and errors as of `steps`."""
    with steps(lambda: (work() for _ in range(1)), release, seconds=seconds) as step:
        return step()


@contextlib.contextmanager
def steps(work: Callable[[], Iterator[T]], release: str, *, seconds: int) -> Iterator[Callable[[], T]]:
    """A call that runs `work` in a forked child up to its next value. Between calls all of the child's threads stand
    still, so that it takes no time from others.

    Args:
        work: its values must be picklable.
        release: the id, for the sentence.
        seconds: after which the child ends, unless `work` sets the timer again.

    Raises:
        EdgeError: by the call: `work` raised one or any other exception, or used more memory or time than it may, or
            crashed.
    """
    from rsd_edge.bundle import free_memory

    memory = int(SHARE * free_memory())
    context = multiprocessing.get_context("fork")  # a new interpreter would load the runtime for half a second
    reader, writer = context.Pipe(duplex=False)
    gate, opener = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(work, writer, gate, memory, seconds), daemon=True)
    # A session of this process that is garbage must not be collected in the child: it would wait there, for ever, for
    # its threads, which the child has not.
    gc.freeze()
    try:
        child.start()
    finally:
        gc.unfreeze()
    writer.close()
    gate.close()

    def step() -> T:
        os.kill(child.pid or 0, signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # it was ended meanwhile; `recv` tells
            opener.send(None)
        try:
            error, result = reader.recv()
            os.kill(child.pid or 0, signal.SIGSTOP)
        except EOFError:
            child.join()
            error, result = _fate(release, child.exitcode or 0, memory), None
        if error:
            raise EdgeError(error)
        return cast(T, result)

    try:
        yield step
    finally:
        child.kill()
        child.join()
        reader.close()
        opener.close()


def _child(
    work: Callable[[], Iterator[object]], writer: Connection, gate: Connection, memory: int, seconds: int
) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # The locks of the parent must not outlive it.
    low, high = sorted((writer.fileno(), gate.fileno()))
    os.closerange(3, low)
    os.closerange(low + 1, high)
    os.closerange(high + 1, 1 << 16)
    with contextlib.suppress(OSError):  # so that the kernel, too, ends this process first
        Path("/proc/self/oom_score_adj").write_text("1000")
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    with contextlib.suppress(ValueError):  # a lower limit stands already, or a sandbox forbids to set one
        resource.setrlimit(resource.RLIMIT_DATA, (used + memory, used + memory))
    signal.alarm(seconds)
    try:
        values = work()
        while True:
            gate.recv()
            writer.send((None, next(values)))
    except EdgeError as error:
        writer.send((str(error), None))
    except Exception as error:  # a runtime raises classes of its own
        writer.send((_sentence(error, memory), None))


def _sentence(error: Exception, memory: int) -> str:
    reason = f"{type(error).__name__}: {(str(error).strip() or 'no reason').splitlines()[0]}"
    module = type(error).__module__
    of_runtime = module.startswith(("onnxruntime", "rsd_edge.openvino"))
    no_memory = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or no_memory or (of_runtime and _OUT_OF_MEMORY.search(str(error))):
        return (
            f"expected the model to run within {memory >> 20} MiB of memory, found {reason}; use another release, or "
            "end other programs"
        )
    if of_runtime:
        title = "ONNX Runtime" if module.startswith("onnxruntime") else "OpenVINO"
        return f"expected {title} to run the model, found {reason}; use another release, or repair the runtime"
    if isinstance(error, OSError):
        return f"expected to read the release, found {reason}; install it again"
    return f"expected no fault of rsd-edge itself, found {reason}; report it, and use another release"


def _fate(release: str, exitcode: int, memory: int) -> str:
    if exitcode == -signal.SIGALRM:
        return (
            f"expected {release} to open and to infer within the time that a device has, found it still at work; "
            "use another release"
        )
    if exitcode == -signal.SIGKILL:
        return (
            f"expected {release} to run within {memory >> 20} MiB of memory, found that the system ended it; use "
            "another release, or end other programs"
        )
    return (
        f"expected {release} to run on this device, found that the runtime ended with status {exitcode}; use another "
        "release, or repair the runtime"
    )
