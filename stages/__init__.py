"""One short script per stage of dvc.yaml, named as the stage: read params, call rsd, write outputs."""

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from rsd.machine.errors import PATIENCE, UserError
from rsd.run import times
from rsd.run.paths import Run

_START = time.time() - time.process_time()  # about when Python started: what it has done until here is to compute
_STARTS = sys.argv[:1] == ["-m"]  # while Python looks for the module of `python -m stages.NAME`
if _STARTS:
    # What PyTorch and the like leave is no garbage. To look through it, while they are imported and at the end, took
    # almost half of the time of a short stage; `run` excepts it and switches the collector on.
    gc.disable()
OUT = Run("out")  # the folder that the stages fill


def run(stage: Callable[[], None]) -> None:
    """Run a stage's `main`; what the user can mend becomes one sentence on stderr and exit status 1."""
    gc.freeze()
    gc.enable()
    work = time.time()
    try:
        stage()
        _note_time(work)
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"expected to read and write under {OUT.folder}, found: {error}; free space or mend rights, run again")
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on")
    except Exception as error:
        if _STARTER in os.environ:
            # The likely cause is that another process has died, which torchrun must notice first: it then ends
            # this one, which says nothing. On another machine `rsd nodes` must notice, which takes longer.
            try:
                time.sleep(float(os.environ.get(PATIENCE, 3)) if isinstance(error, RuntimeError) else 3)
            except KeyboardInterrupt:
                sys.exit(1)
        traceback.print_exc()
        sys.exit(1)


_STARTER = "TORCHELASTIC_ERROR_FILE"
"""Set by torchrun: where one of several processes says what went wrong, for its starter to print once."""


def _note_time(work: float) -> None:
    """Note how long a stage of DVC took that began its work at `work`; a stage that torchrun started is part of one."""
    if (name := os.environ.get("DVC_STAGE")) and _STARTER not in os.environ:
        now = time.time()
        with suppress(OSError):  # the stage has succeeded; its time is not worth a failure
            times.note(times.StageTime(stage=name, start=_START, seconds=now - _START, imports=work - _START))


def _fail(sentence: str) -> NoReturn:
    if file := os.environ.get(_STARTER):
        Path(file).write_text(json.dumps({"message": sentence, "timestamp": int(time.time())}))
        sys.exit(1)
    sys.exit(f"error: {sentence}")


def _print_sentence(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The sentence of a fault that comes before `run`: a library of the pipeline is not installed."""
    if isinstance(error, ModuleNotFoundError) and not isinstance(error, UserError):
        print(
            f"error: expected the library {error.name}, found none; run `pip install 'rsd[pipeline]'`", file=sys.stderr
        )
    elif isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if _STARTS:
    sys.excepthook = _print_sentence
