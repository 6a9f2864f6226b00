"""What cells share runs first and once; a cell's name holds what its result depends on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.git import snapshot
from pipelines.sweep.grid import Grid, points
from pipelines.sweep.units import Unit, units_of
from rsd.machine.errors import UserError
from tests.pipelines.conftest import ToyRepo
from tests.pipelines.sweep.sweep_project import SweepRepo

REAL = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, make_dvc_repo: Callable[[Path], ToyRepo]) -> SweepRepo:
    return SweepRepo(tmp_path_factory.mktemp("plan") / "project", make_dvc_repo)


def planned(
    repo: SweepRepo, existing: dict[str, str] | None = None, **grid: object
) -> tuple[list[Unit], dict[str, str]]:
    root = repo.path.resolve()
    _, commit = snapshot(root, "refs/sweeps/s", [])
    return units_of(root, "s", points([Grid.model_validate(grid)], root / "params.yaml"), commit, existing or {})


def named(units: list[Unit]) -> dict[str, Unit]:
    return {unit.label: unit for unit in units}


def test_cells_of_other_weights_share_teacher_and_twins(repo: SweepRepo) -> None:
    units, done = planned(repo, grid=["method.rsd.weight=0.1,0.2,0.3"])

    shared = [unit for unit in units if not unit.cell]
    assert [unit.targets for unit in shared] == [("teacher",), ("distill@scratch-0",), ("distill@scratch-1",)]
    assert [unit.needs for unit in shared] == [(), (shared[0].name,), (shared[0].name,)]
    cells = [unit for unit in units if unit.cell]
    assert [unit.label for unit in cells] == [f"method.rsd.weight={weight}" for weight in ("0.1", "0.2", "0.3")]
    for cell in cells:
        assert set(cell.needs) == {unit.name for unit in shared}
        assert set(cell.shared) == {"teacher", "distill@scratch-0", "distill@scratch-1"}
    assert not done


def test_a_task_is_named_after_label_and_params(repo: SweepRepo) -> None:
    units, _ = planned(repo, grid=["pair=near,far", "method.rsd.weight=0.1,0.2"], methods=["kd"], seeds=[3])

    titles = [unit.title("folder") for unit in units]
    assert titles[0] == "shared: teacher of near"
    assert titles[-1] == "pair=far, method.rsd.weight=0.2 of far: scratch, kd; seeds 3"
    [alone], _ = planned(repo, seeds=[0])
    assert alone.title("folder") == "near: scratch, rsd; seeds 0"


def test_each_pair_has_a_teacher_of_its_own(repo: SweepRepo) -> None:
    units, _ = planned(repo, grid=["pair=near,far", "method.rsd.weight=0.1,0.2"])

    teachers = {unit.name for unit in units if unit.targets == ("teacher",)}
    cells = [unit for unit in units if unit.cell]
    assert len(teachers) == 2
    assert [len(teachers & {*cell.needs}) for cell in cells] == [1, 1, 1, 1]
    near = [teachers & {*cell.needs} for cell in cells if cell.values["pair"] == "near"]
    assert near[0] == near[1]


def test_a_single_cell_shares_nothing(repo: SweepRepo) -> None:
    [unit], _ = planned(repo, seeds=[0])

    assert (unit.needs, unit.shared, unit.cell) == ((), (), True)


def test_finished_cells_and_their_needs_are_not_planned(repo: SweepRepo) -> None:
    units, _ = planned(repo, grid=["pair=near,far", "method.rsd.weight=0.1,0.2"])
    existing = {unit.name: f"refs/{unit.name}" for unit in units if unit.cell and unit.values["pair"] == "near"}

    again, done = planned(repo, existing, grid=["pair=near,far", "method.rsd.weight=0.1,0.2"])

    assert done == existing
    left = [unit for unit in again if unit.name not in done]
    assert {unit.values["pair"] for unit in left} == {"far"}
    assert sum(unit.targets == ("teacher",) for unit in left) == 1


def test_a_grown_grid_keeps_its_old_cells_names(repo: SweepRepo) -> None:
    units, _ = planned(repo, grid=["pair=near", "method.rsd.weight=0.1,0.2"])
    existing = {unit.name: f"refs/{unit.name}" for unit in units}

    _, done = planned(repo, existing, grid=["pair=near,far", "method.rsd.weight=0.1,0.2,0.4"])

    assert {unit.name for unit in units if unit.cell} <= done.keys()


def test_only_code_that_stages_read_renames_cells(tmp_path: Path, make_dvc_repo: Callable[[Path], ToyRepo]) -> None:
    repo = SweepRepo(tmp_path / "project", make_dvc_repo)
    grid: Any = {"grid": ["method.rsd.weight=0.1,0.2"]}
    before = [unit.name for unit in planned(repo, **grid)[0]]
    (repo.path / "README.md").write_text("Words")
    repo.git("add", "README.md")
    assert [unit.name for unit in planned(repo, **grid)[0]] == before
    with (repo.path / "work.py").open("a") as file:
        file.write("# another line\n")

    assert not {*before} & {unit.name for unit in planned(repo, **grid)[0]}


def test_an_unknown_target_is_refused(repo: SweepRepo) -> None:
    with pytest.raises(UserError, match="no stage named evalute"):
        planned(repo, targets=["evalute"])


@pytest.mark.slow
def test_the_real_project_is_planned_or_refused_early() -> None:
    base = REAL / "params.yaml"
    good = [Grid(grid=["method.rsd.weight=0.1,0.2"], methods=["rsd", "kd"], seeds=[0])]
    wrong = [Grid(grid=["method.rsd.kappa=0.01,-1", "views.count=3"])]

    units, _ = units_of(REAL, "s", points(good, base), "HEAD", {})

    assert {unit.targets for unit in units if not unit.cell} == {("embed",), ("distill@scratch-0",), ("distill@kd-0",)}
    assert units[0].targets == ("embed",)
    with pytest.raises(UserError) as refused:
        units_of(REAL, "s", points(wrong, base), "HEAD", {})
    assert str(refused.value).splitlines()[1:] == [
        "  method.rsd.kappa=-1: params.yaml: method.rsd.kappa: expected at least 0, found -1"
    ]
