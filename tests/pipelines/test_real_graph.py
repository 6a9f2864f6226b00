"""The flow on the project's own graph gives what `dvc repro` gives."""

import os
import subprocess
import sys

import pytest

from pipelines.dvc_graph import stages
from rsd.machine.yaml_file import read_yaml
from tests.pipelines.lock import lock_entries
from tests.stages.conftest import ROOT, copy_of_the_project


def test_the_benchmark_is_alone_and_marked_as_measured():
    nodes = {node.address: node for node in stages(ROOT)}
    assert [name for name, node in nodes.items() if node.alone] == ["benchmark"]
    graph = read_yaml(ROOT / "dvc.yaml")["stages"]
    measured = {name for name in nodes if graph[name.partition("@")[0]].get("meta", {}).get("measured")}
    versions = [key for key in graph["convert"]["params"] if "out/device.json" in key]
    assert versions == [{"out/device.json": ["versions.onnxruntime", "versions.openvino"]}]
    for name, node in nodes.items():
        # `convert` reads of the device what two runs of one machine share, the versions of its runtimes.
        shared = {"device"} if name.startswith("convert@") else set()
        assert name in measured or (measured - shared).isdisjoint(node.upstream), name


@pytest.mark.parametrize("path", ["dvc_plots/index.html", "build/lib/rsd/losses.py"])
def test_git_ignores_what_tools_write_here(path):
    subprocess.run(["git", "check-ignore", "--quiet", "--no-index", path], cwd=ROOT, check=True)


@pytest.mark.slow
def test_flow_and_dvc_repro_give_equal_lock_entries(tmp_path, prefect_server):
    by_dvc, by_flow = (copy_of_the_project(tmp_path / name) for name in ("dvc", "flow"))
    by_dvc.run("dvc", "repro")
    os.environ.update(prefect_server)
    output = by_flow.run(sys.executable, "-m", "pipelines.reproduce").stdout
    assert "error:" not in output
    assert lock_entries(by_flow.folder) == lock_entries(by_dvc.folder)
    assert len(lock_entries(by_dvc.folder)) > 8
