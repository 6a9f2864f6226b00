import subprocess
import sys

import pytest

from benchmarks.fashion_memory import ROOT, copy_of_the_project, peak_of, settings
from rsd.config.resolve import resolve
from rsd.machine.yaml_file import read_yaml

HELD = """
import sys
from pathlib import Path
from benchmarks.fashion_memory import peak_of
for command in ("pass", "held = bytearray(300_000_000)"):
    print(peak_of([sys.executable, "-c", command], Path())[0])
"""


def test_the_peak_is_that_of_the_process():
    """Asked in a small process: a child's peak is never below what its starter held."""
    done = subprocess.run([sys.executable, "-c", HELD], cwd=ROOT, capture_output=True, text=True, check=True)
    small, large = map(float, done.stdout.split())
    assert small < 250
    assert 300 < large < 400


def test_a_stage_that_fails_is_an_error(tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        peak_of([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)


def test_the_measured_run_is_valid_with_all_images(tmp_path):
    copy_of_the_project(tmp_path, settings(1, 2))
    resolved = resolve(tmp_path / "params.yaml", tmp_path / "conf")
    assert (resolved["data"]["source"], resolved["views"]["count"]) == ("fashion_mnist", 2)
    assert resolved["recipe"]["epochs"] == resolved["teacher_recipe"]["epochs"] == 1
    original = read_yaml(ROOT / "params.yaml")
    assert resolved["run"]["methods"] == original["methods"]
