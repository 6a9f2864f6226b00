"""One stage per GPU, over all flows of a machine: a global concurrency limit of the Prefect server for each GPU.

The limits of a machine are named `gpu-HOST-NUMBER`. One limit with as many slots as GPUs would not say which GPU is
free. When a flow is killed, the server frees its limits after five minutes without a renewal; until then other flows
wait.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import httpx
from prefect import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency

from rsd.machine.fingerprint import fingerprint

POLL_SECONDS = 2.0


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number in range(len(fingerprint()["gpus"]))]


def limit_of(gpu: str) -> str:
    return f"gpu-{socket.gethostname()}-{gpu}".lower().replace(".", "-")


def create_limits(gpus: Sequence[str]) -> None:
    """Make sure that the server has a limit of one for each GPU of this machine."""
    if gpus:
        with get_client(sync_client=True) as client:
            for gpu in gpus:
                client.upsert_global_concurrency_limit_by_name(limit_of(gpu), 1)


def gpus_for(
    compute: Mapping[str, object], stop: threading.Event, say: Callable[[str], None], *, alone: bool = False
) -> AbstractContextManager[dict[str, str]]:
    """`reserved` for a node's share of the processes, or all GPUs for a stage that runs `alone`; none on the CPU."""
    gpus = [] if compute.get("device") == "cpu" else visible_gpus()
    create_limits(gpus)
    processes, nodes = (value if isinstance(value := compute.get(key), int) else 1 for key in ("processes", "nodes"))
    count = len(gpus) if alone else max(1, processes // max(1, nodes))
    return reserved(count, gpus, stop, say)


@contextmanager
def reserved(
    count: int, gpus: Sequence[str], stop: threading.Event, say: Callable[[str], None]
) -> Iterator[dict[str, str]]:
    """Hold `count` of `gpus` (all, if there are no more) for the block; yields the environment that shows only them.

    Waits for stages of other flows, and says once which GPUs are in use. Holds nothing where there is no GPU, or once
    `stop` is set.
    """
    needed = min(count, len(gpus))
    waiting = False
    with ExitStack() as holding:
        mine: list[str] = []
        while len(mine) < needed and not stop.is_set():
            for gpu in gpus:
                if len(mine) < needed and gpu not in mine and _try(holding, gpu):
                    mine.append(gpu)
            if len(mine) < needed:  # all or nothing, or two stages that want two would wait for each other
                busy = [gpu for gpu in gpus if gpu not in mine]
                if not waiting:
                    say(f"GPU {', '.join(busy)} {'is' if len(busy) == 1 else 'are'} in use; waiting")
                waiting = True
                holding.close()
                mine.clear()
                stop.wait(POLL_SECONDS)
        yield {"CUDA_VISIBLE_DEVICES": ",".join(mine)} if mine else {}


def _try(holding: ExitStack, gpu: str) -> bool:
    try:
        # A lease that could not be renewed, because the server is away, is no reason to kill a training.
        slot = concurrency(limit_of(gpu), max_retries=0, strict=True, raise_on_lease_renewal_failure=False)
        holding.enter_context(slot)
    except ConcurrencySlotAcquisitionError as error:
        answer = error.__cause__
        if isinstance(answer, httpx.HTTPStatusError) and answer.response.status_code == httpx.codes.LOCKED:
            return False  # another stage has it
        raise
    return True
