"""The contract with DVC's internal API: what `pipelines.dvc_graph` says of a small real project."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.dvc_graph import StageNode, stages
from rsd.machine.errors import UserError
from tests.pipelines.conftest import ToyRepo


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, make_dvc_repo: Callable[[Path], ToyRepo]) -> ToyRepo:
    return make_dvc_repo(tmp_path_factory.mktemp("graph") / "project")


def test_each_stage_is_a_node_with_its_upstream(repo: ToyRepo) -> None:
    assert {node.address: node for node in stages(repo.path)} == {
        node.address: node
        for node in [
            StageNode("prepare"),
            StageNode("train@rsd", ("prepare",)),
            StageNode("train@scratch", ("prepare",)),
            StageNode("merge", ("train@rsd", "train@scratch")),
            StageNode("beside"),
            StageNode("shaky", ("prepare",)),
            StageNode("behind", ("shaky",)),
            StageNode("benchmark", ("train@rsd",), alone=True),
            StageNode("report", ("benchmark",)),
        ]
    }


def test_independent_stages_have_one_order_in_every_process(repo: ToyRepo) -> None:
    addresses = [node.address for node in stages(repo.path)]
    assert addresses == [
        *("beside", "prepare", "shaky", "behind", "train@rsd", "benchmark", "report", "train@scratch", "merge")
    ]


def test_every_stage_comes_after_its_upstream(repo: ToyRepo) -> None:
    earlier: set[str] = set()
    for node in stages(repo.path):
        assert earlier.issuperset(node.upstream)
        earlier.add(node.address)


def test_addresses_are_those_dvc_repro_takes(repo: ToyRepo) -> None:
    listed = repo.dvc("stage", "list", "--name-only").split()

    assert sorted(node.address for node in stages(repo.path)) == sorted(listed)


def test_addresses_do_not_depend_on_the_current_folder(
    repo: ToyRepo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = stages(repo.path)
    monkeypatch.chdir(tmp_path)

    assert stages(repo.path) == before


@pytest.mark.parametrize(
    ("target", "addresses"),
    [
        ("train@rsd", {"prepare", "train@rsd"}),
        ("train", {"prepare", "train@rsd", "train@scratch"}),
    ],
)
def test_a_target_brings_only_what_it_needs(repo: ToyRepo, target: str, addresses: set[str]) -> None:
    assert {node.address for node in stages(repo.path, [target])} == addresses


def test_an_unknown_target_is_refused_with_the_known(repo: ToyRepo) -> None:
    with pytest.raises(UserError, match=r"no stage named trian; there are .*train"):
        stages(repo.path, ["trian"])


def test_a_folder_without_dvc_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="DVC cannot read the pipeline"):
        stages(tmp_path)


def test_a_broken_pipeline_file_is_one_clear_sentence(dvc_repo: ToyRepo) -> None:
    (dvc_repo.path / "dvc.yaml").write_text("stages:\n  prepare:\n    outs: [x]\n")

    with pytest.raises(UserError, match="DVC cannot read the pipeline"):
        stages(dvc_repo.path)
