"""The TensorRT engines of a release, built on this device."""

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rsd_edge import child, disk
from rsd_edge.errors import EdgeError

LONGEST = 3600
"""Seconds for an engine."""
PROGRESS = 10.0
"""Seconds between two lines of progress."""


def prepare(folder: Path, log: Callable[..., None]) -> None:
    """Let TensorRT, if this device has it, build the engines of a release that are missing; `log` is `Events.add`.

    Raises:
        EdgeError: TensorRT refuses the precision that is served; for another precision this is only logged.
    """
    from rsd_edge.bundle import manifest_of
    from rsd_edge.model import engine_folder
    from rsd_edge.onnxruntime_session import has_tensorrt

    if not has_tensorrt():
        return
    for number, precision in enumerate(manifest_of(folder).models):
        target = engine_folder(folder, precision)
        if target.is_dir():
            continue
        try:
            usable = _build(folder, precision, target, log)
        except EdgeError as error:
            log("engine not built", release=folder.name, precision=precision, reason=str(error))
            if not number:
                raise
            continue
        if not usable:
            log("engine not built", release=folder.name, reason="TensorRT is not usable here")
            return


def _build(folder: Path, precision: str, target: Path, log: Callable[..., None]) -> bool:
    """Build an engine; False if the runtime does not find TensorRT's libraries and uses another provider."""
    from rsd_edge.onnxruntime_session import TENSORRT

    task = f"{folder.name}: TensorRT builds its {precision} engine"
    print(f"{task}, which can take minutes", file=sys.stderr)
    started = time.monotonic()
    building = target.with_name(f".{target.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        with _progress(task):
            provider = child.run(lambda: _warm_up(folder, precision, building), folder.name, seconds=LONGEST)
        if provider != TENSORRT:
            return False
        for path in [*building.rglob("*"), building]:  # before the rename
            disk.sync(path)
        for old in target.parent.glob(f"{precision}-*"):  # of another runtime
            disk.remove(old)
        os.replace(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    disk.sync(target.parent)
    seconds = round(time.monotonic() - started)
    log("engine built", release=folder.name, precision=precision, seconds=seconds)
    return True


def _warm_up(folder: Path, precision: str, building: Path) -> str:
    """The provider of a model that has inferred once, for which TensorRT builds its engine."""
    from rsd_edge.model import Model

    model = Model.open(folder, precision=precision, engines=building)
    model.warm_up()
    return model.provider


@contextlib.contextmanager
def _progress(task: str) -> Iterator[None]:
    """Print on stderr, every `PROGRESS` seconds, that the task still runs."""
    done, started = threading.Event(), time.monotonic()

    def report() -> None:
        while not done.wait(PROGRESS):
            print(f"{task}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()
