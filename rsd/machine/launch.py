"""A stage in several processes, started by torchrun on this machine or on several."""

import logging
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rsd.machine.compute import ComputeOptions
from rsd.machine.errors import PATIENCE, UserError
from rsd.machine.node_stage import SILENCE, interface, part


def is_launcher(options: ComputeOptions) -> bool:
    """Whether this process only starts the others, and does none of the work."""
    return options.processes > 1 and "RANK" not in os.environ


def launch(module: str, arguments: Sequence[str], options: ComputeOptions, inputs: Sequence[Path] = ()) -> None:
    """Run `python -m module arguments` in `options.processes` processes, and wait for them.

    The first failure ends all of them.

    Args:
        inputs: files and folders that the numbers depend on; several nodes compare theirs before they start.

    Raises:
        UserError: a process failed; the sentence is the process's own if it left one (see `stages.run`).
        KeyboardInterrupt: a signal ended this process, which has ended the others.
    """
    # Late, because the import takes seconds.
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # The sentence below says more than its tables; and an agent that ends after the first node's complains of that.
    for name in ("torch.distributed", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    # Silences DistributedDataParallel's advice on unused parameters (see Distiller.prepare_distributed).
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    count = ["--standalone", "--nproc-per-node", str(options.processes)]
    try:
        with ExitStack() as stack:
            if options.nodes > 1:
                own = stack.enter_context(part(module, arguments, options, inputs))
                count = own.torchrun(options)
                if own_interface := interface(own.peer):
                    os.environ.setdefault("GLOO_SOCKET_IFNAME", own_interface)
                os.environ[PATIENCE] = str(SILENCE + 10)
            run(parse_args([*count, "-m", module, *arguments]))
    except SignalException as ended:
        raise KeyboardInterrupt from ended
    except ChildFailedError as error:
        # A process that lost its peers fails as well, but leaves no sentence: those with one come first.
        number, failure = min(error.failures.items(), key=lambda item: (not _sentence(item[1]), item[1].timestamp))
        raise UserError(_sentence(failure) or _end_of(number, failure.exitcode, options)) from error


def _sentence(failure: Any) -> str:
    """What a failed process wrote for its starter; empty if nothing."""
    return str(failure.error_file_data["message"]) if os.path.isfile(failure.error_file) else ""


def _end_of(number: int, status: int, options: ComputeOptions) -> str:
    end = f"was killed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"
    memory = "; if the machine ran out of memory, raise recipe.accumulation" if status == -signal.SIGKILL else ""
    return (
        f"process {number + 1} of {options.processes} {end}{memory}; "
        "run the same command again to go on from the last checkpoint"
    )
