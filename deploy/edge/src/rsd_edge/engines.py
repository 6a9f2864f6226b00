"""The engines that TensorRT builds for a release on this device."""

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rsd_edge import disk
from rsd_edge.errors import EdgeError

PROGRESS = 10.0
"""Seconds between two lines while an engine is built."""


def prepare(folder: Path, log: Callable[..., None]) -> None:
    """Let TensorRT build the engines of a release, if it is on this device and has not built them before.

    Args:
        folder: of the installed release.
        log: `Events.add`.

    Raises:
        EdgeError: it has not taken the model that is served; for another precision this is only logged.
    """
    from rsd_edge.model import engine_folder, has_tensorrt

    if not has_tensorrt():
        return
    for number, precision in enumerate(disk.read_json(folder / "manifest.json")["models"]):
        built = engine_folder(folder, precision)
        if built.is_dir():
            continue
        try:
            usable = _build(folder, precision, built, log)
        except EdgeError as error:
            log("engine not built", release=folder.name, precision=precision, reason=str(error))
            if not number:
                raise
            continue
        if not usable:
            log("engine not built", release=folder.name, reason="TensorRT is not usable here")
            return


def _build(folder: Path, precision: str, built: Path, log: Callable[..., None]) -> bool:
    """Have an engine built; False if the runtime has TensorRT but finds no libraries of it, and does without."""
    from rsd_edge.model import TENSORRT, Model

    what = f"{folder.name}: TensorRT builds its {precision} engine"
    print(f"{what}, which can take minutes", file=sys.stderr)
    started = time.monotonic()
    building = built.with_name(f".{built.name}.building")
    if building.exists():
        shutil.rmtree(building)
    building.mkdir(parents=True)
    try:
        with _told_every(PROGRESS, what):
            model = Model.open(folder, precision=precision, engines=building)
            model.warm_up()
        model.close()
        if model.provider != TENSORRT:
            return False
        for path in [*building.rglob("*"), building]:  # whole before it has its name
            disk.sync(path)
        for old in built.parent.glob(f"{precision}-*"):  # of another runtime
            disk.remove(old)
        os.replace(building, built)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    disk.sync(built.parent)
    seconds = round(time.monotonic() - started)
    log("engine built", release=folder.name, precision=precision, seconds=seconds)
    return True


@contextlib.contextmanager
def _told_every(seconds: float, what: str) -> Iterator[None]:
    """Say on stderr that something still goes on."""
    done, started = threading.Event(), time.monotonic()

    def tell() -> None:
        while not done.wait(seconds):
            print(f"{what}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
