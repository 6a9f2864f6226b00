"""The project whose overhead is measured."""

import subprocess
import sys
from pathlib import Path

from benchmarks.flow_overhead import chain, fresh
from pipelines.dvc_graph import stages


def test_the_chain_runs_anew_in_every_round(tmp_path: Path) -> None:
    folder = tmp_path / "chain"
    chain(folder, stages=2, seconds=0)
    assert [(node.address, node.upstream) for node in stages(folder)] == [("s0", ()), ("s1", ("s0",))]

    for _ in range(2):
        command = [sys.executable, "-P", "-m", "dvc", "repro"]
        output = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
        assert output.count("Running stage") == 2
        assert (folder / "out1").exists()
        fresh(folder)
        assert not (folder / "out1").exists()
