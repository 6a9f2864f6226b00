"""What the nodes of a run agree on before a stage starts."""

import socket

import pytest
import torch
from pydantic import ValidationError

from rsd.machine import node_stage
from rsd.machine.compute import ComputeOptions, on_this_machine
from rsd.machine.errors import UserError
from rsd.machine.node_stage import Announcement, Part, check_count, difference, digests, interface, part, refusal

TWO = ComputeOptions(device="cpu", processes=4, nodes=2)


@pytest.mark.parametrize(("processes", "nodes"), [(1, 2), (3, 2), (4, 3)])
def test_nodes_must_share_the_processes_evenly(processes, nodes):
    with pytest.raises(ValidationError, match=rf"a multiple of the {nodes} nodes .compute.nodes., found {processes}"):
        ComputeOptions(processes=processes, nodes=nodes)


def test_every_process_belongs_to_one_node():
    for nodes in range(1, 9):
        for share in range(1, 5):
            options = ComputeOptions(processes=nodes * share, nodes=nodes)
            arguments = [Part(node, "head", 1, 2, "head").torchrun(options) for node in range(nodes)]
            assert [words[words.index("--node-rank") + 1] for words in arguments] == [str(n) for n in range(nodes)]
            assert {words[words.index("--nproc-per-node") + 1] for words in arguments} == {str(share)}


def test_the_number_of_nodes_is_not_decisive():
    assert TWO.decisive() == ComputeOptions(device="cpu", processes=4).decisive()


def test_work_of_one_machine_takes_its_share():
    assert on_this_machine(TWO) == ComputeOptions(device="cpu", processes=2)
    alone = ComputeOptions(device="cpu", processes=4)
    assert on_this_machine(alone) == alone


def test_a_node_with_other_inputs_says_which(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.json").write_text("1")
    leaders = digests(["out", "missing"])
    assert {"out/a.json", "rsd/losses.py", "stages/distill.py", "version of torch"} < leaders.keys()
    assert difference(1, leaders, digests(["out"])) == ""
    (tmp_path / "out" / "a.json").write_text("2")
    assert "expected node 1 to have the first node's out/a.json, found another; " in difference(
        1, leaders, digests(["out"])
    )
    (tmp_path / "out" / "a.json").unlink()
    assert "out/a.json, found none; " in difference(2, leaders, digests(["out"]))
    assert "out/a.json, found one that the first node lacks; " in difference(2, digests(["out"]), leaders)
    other = {name: "x" if name.startswith(("rsd/", "version")) else digest for name, digest in leaders.items()}
    assert "version of python, found another (and " in difference(1, leaders, other)


@pytest.mark.parametrize(
    ("leaders", "own", "sentence"),
    [
        (True, False, "expected node 1 to have a GPU, like the first node, found none; mend its driver, or set"),
        (False, True, "expected node 1 to have no GPU, like the first node, found one; mend the first node's driver"),
        (True, True, ""),
        (None, True, ""),
    ],
)
def test_all_nodes_or_none_have_a_gpu(monkeypatch, leaders, own, sentence):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: own)
    stage = Announcement(
        number=1, module="stages.distill", arguments=[], nodes=2, port=1, inputs=[], digests=digests([]), gpu=leaders
    )
    assert refusal(1, stage).startswith(sentence)
    assert bool(refusal(1, stage)) == bool(sentence)


def test_a_users_method_counts_as_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "mine.py").write_text("a = 1\n")
    assert "methods/mine.py" in digests([])


def test_a_stage_outside_the_run_says_the_commands(monkeypatch):
    monkeypatch.delenv(node_stage.STORE, raising=False)
    with (
        pytest.raises(UserError, match=r"expected 2 nodes .compute.nodes., found one; run `rsd nodes -- dvc repro`"),
        part("stages.distill", [], TWO, []),
    ):
        pass


def test_slurms_nodes_must_be_those_of_params(monkeypatch):
    check_count(TWO)
    monkeypatch.setenv(node_stage.COUNT, "2")
    check_count(TWO)
    monkeypatch.setenv(node_stage.COUNT, "3")
    with pytest.raises(UserError, match=r"expected 2 nodes .compute.nodes., found 3 by Slurm"):
        check_count(TWO)


@pytest.mark.parametrize("module", ["os", "stages", "stages.x.y", "rsd.cli", "stages.distill\n", "stages.-c"])
def test_a_node_runs_nothing_but_stages(module):
    with pytest.raises(ValidationError):
        Announcement(number=1, module=module, arguments=[], nodes=2, port=1, inputs=[], digests={})


def test_the_interface_is_that_of_the_way():
    assert interface("127.0.0.1") == "lo"
    assert interface("no address") is None
    assert interface("127.0.0.1") in {name for _, name in socket.if_nameindex()}
