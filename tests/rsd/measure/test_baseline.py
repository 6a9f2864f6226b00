import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from rsd.measure import baseline as module
from rsd.measure.baseline import baseline
from rsd.measure.latency import Candidate
from rsd.run.records import Latency

SHAPE = (4, 4, 1)


@pytest.fixture
def model():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()


def rows(model, **options):
    return baseline(model, [0.5], [0.25], name="m", image_shape=SHAPE, threads=[1], **options)


def test_without_a_compiler_eager_alone_is_timed(model, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    eager, compiled = rows(model)
    assert isinstance(eager, Candidate)
    assert isinstance(compiled, Latency)
    assert compiled.status.startswith("not measured: torch.compile needs a C++ compiler")
    with eager.start() as infer:
        assert infer().shape == (1, 3)


def test_a_compiler_that_fails_is_a_sentence_too(model, monkeypatch):
    def broken(module):
        raise RuntimeError("the linker is missing\nand a long trace")

    monkeypatch.setattr(module.shutil, "which", lambda name: "/bin/true")
    monkeypatch.setattr(torch, "compile", broken)
    assert rows(model)[1].status == "not measured: torch.compile failed here (the linker is missing)"


def test_the_compiled_row_gives_threads_back(model, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: "/bin/true")
    monkeypatch.setattr(torch, "compile", lambda module: module)
    result = rows(model)
    assert [one.row["runtime"] for one in result] == ["pytorch", "pytorch compiled"]
    before = torch.get_num_threads()
    with module._session(model, before + 1, SHAPE):
        assert torch.get_num_threads() == before + 1
        assert torch.is_inference_mode_enabled()
    assert torch.get_num_threads() == before


def test_a_cuda_toolkit_without_gpu_warns_nobody(tmp_path):
    environment = {**os.environ, "CUDA_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", "import rsd.measure.baseline, torch.utils.cpp_extension"]
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr == ""
