"""A process that dies ends the others, soon, and its words are said once."""

import os
import signal
import subprocess
import sys
import time

import pytest

from rsd.machine.compute import ComputeOptions
from rsd.machine.errors import UserError
from rsd.machine.launch import is_launcher
from rsd.machine.parallel import join

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import torch
from rsd.machine.compute import ComputeOptions, set_up
from rsd.machine.errors import UserError
from rsd.machine.launch import is_launcher, launch
from rsd.machine.parallel import all_of, leave, rank
from stages import run

def main():
    how, options = sys.argv[1], ComputeOptions(device="cpu", processes=2)
    if is_launcher(options):
        launch("work", sys.argv[1:], options)
        return
    set_up(options)
    Path(f"{how}-{rank()}.pid").write_text(str(os.getpid()))
    if rank() == 1:
        if how == "refuse":
            raise UserError("expected sense, found none")
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "break":
            raise ValueError("a fault of the program")
        if how == "wait":
            time.sleep(600)
    found = all_of(torch.tensor(float(rank())))  # waits for the other
    if rank() == 0:
        print("together", found)
    leave()

run(main)
"""


def start(folder, how):
    return subprocess.Popen(
        [sys.executable, "-m", "work", how],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(folder, *ways):
    """Output and status of each way to end; they run side by side, since starting takes what time there is."""
    (folder / "work.py").write_text(SCRIPT)
    started = [start(folder, how) for how in ways]
    try:
        return [(process.communicate(timeout=120)[0], process.returncode) for process in started]
    finally:
        for process in started:
            process.kill()


def test_a_failed_process_ends_the_run_in_words(tmp_path):
    refused, killed = ended(tmp_path, "refuse", "die")
    assert refused == ("error: expected sense, found none\n", 1)  # once, and nothing else
    output, status = killed
    assert status == 1
    assert output.startswith("error: process 2 of 2 was killed (SIGKILL)"), output
    assert output.endswith("run the same command again to go on from the last checkpoint\n")


@pytest.mark.slow
def test_output_and_tracebacks_are_kept(tmp_path):
    finished, broken = ended(tmp_path, "finish", "break")
    assert finished == ("together [tensor(0.), tensor(1.)]\n", 0)
    output, status = broken
    assert status == 1
    assert "ValueError: a fault of the program" in output
    assert "process 2 of 2 ended with status 1" in output.splitlines()[-1]


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_no_process_outlives_its_starter(tmp_path, how):
    """One that went on would write into the checkpoint of the run that resumes."""
    (tmp_path / "work.py").write_text(SCRIPT)
    starter = start(tmp_path, "wait")
    try:
        deadline = time.monotonic() + 60
        while len(pids := [path.read_text() for path in tmp_path.glob("*.pid")]) < 2 or not all(pids):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        starter.send_signal(how)
        output = starter.communicate(timeout=60)[0]
        assert how == signal.SIGKILL or "error: interrupted; run the same command again" in output
        while any(alive(int(pid)) for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        starter.kill()


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_process_is_the_launcher(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert is_launcher(ComputeOptions(processes=2))
    assert not is_launcher(ComputeOptions(processes=1))
    monkeypatch.setenv("RANK", "0")
    assert not is_launcher(ComputeOptions(processes=2))


def test_another_number_of_processes_is_refused(monkeypatch):
    import torch

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="expected 2 processes .compute.processes., found 3 by torchrun"):
        join(torch.device("cpu"), 2)
