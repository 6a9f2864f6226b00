"""A stage without the libraries of an extra says which command installs them."""

import subprocess
import sys

from tests.stages.conftest import ROOT

WITHOUT_ONNX = """
import runpy, sys
from importlib.machinery import PathFinder

class WithoutOnnx:
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "onnx" else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [WithoutOnnx() if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv = ["-m", "fp32"]
runpy.run_module("stages.convert", run_name="__main__", alter_sys=True)
"""


def test_a_missing_extra_is_a_sentence():
    done = subprocess.run([sys.executable, "-c", WITHOUT_ONNX], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: expected the library onnx, found none; run `pip install 'rsd[pipeline]'`\n"
