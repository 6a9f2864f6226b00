"""A grid is read as DVC reads it, and what is wrong with it is one sentence."""

from pathlib import Path

import pytest
from dvc.utils.serialize import parse_yaml

from pipelines.sweep.grid import Grid, covers, points, read_grids
from rsd.machine.errors import UserError

PARAMS = """\
methods: [scratch, rsd] # a comment
seeds: [0, 1]
method: {rsd: {weight: 0.1}, kd: {weight: 1.0}}
override: {}
export: {method: rsd}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(PARAMS)
    return tmp_path / "params.yaml"


def chosen(base: Path, *names: str, **grid: object) -> list[tuple[object, ...]]:
    cells = []
    for point in points([Grid.model_validate(grid)], base):
        values = parse_yaml(point.params, "params.yaml")
        row = []
        for name in names:
            value = values
            for part in name.split("."):
                value = value[part]
            row.append(value)
        cells.append(tuple(row))
    return cells


def test_a_grid_is_its_axes_product_in_order(base: Path) -> None:
    grid = ["method.rsd.weight=0.1,0.2", "+override.recipe.epochs=range(5,8)"]

    cells = chosen(base, "method.rsd.weight", "override.recipe.epochs", grid=grid)

    assert cells == [(weight, epochs) for weight in (0.1, 0.2) for epochs in (5, 6, 7)]


def test_small_numbers_of_an_axis_stay_numbers(base: Path) -> None:
    assert chosen(base, "method.rsd.weight", grid=["method.rsd.weight=0.1,1e-5"]) == [(0.1,), (1e-5,)]


def test_a_cell_holds_methods_and_seeds_unless_split(base: Path) -> None:
    methods, seeds = ["rsd", "kd"], [3, 4]

    assert chosen(base, "methods", "seeds", methods=methods, seeds=seeds) == [(["scratch", "rsd", "kd"], [3, 4])]
    assert chosen(base, "methods", "seeds", methods=methods, seeds=seeds, split=["methods", "seeds"]) == [
        (["scratch", method], [seed]) for method in methods for seed in seeds
    ]


def test_split_seeds_come_from_params_by_default(base: Path) -> None:
    assert chosen(base, "seeds", split=["seeds"]) == [([0],), ([1],)]


def test_what_is_shipped_is_one_of_the_methods(base: Path) -> None:
    assert chosen(base, "export.method", methods=["kd"]) == [("kd",)]
    assert chosen(base, "export.method", methods=["kd", "rsd"]) == [("rsd",)]
    assert chosen(base, "export.method", methods=["kd", "rsd"], grid=["export.method=scratch"]) == [("scratch",)]


def test_params_keep_comments_and_the_file_stays(base: Path) -> None:
    [point] = points([Grid(grid=["method.rsd.weight=0.3"])], base)

    assert "# a comment" in point.params
    assert base.read_text() == PARAMS
    assert point.values == {"method.rsd.weight": "0.3"}


def test_several_grids_are_their_union(base: Path) -> None:
    both = [Grid(grid=["method.rsd.weight=0.1,0.2"]), Grid(grid=["method.rsd.weight=0.2,0.3"])]

    assert [point.values["method.rsd.weight"] for point in points(both, base)] == ["0.1", "0.2", "0.3"]


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        (
            {"grid": ["method.rsd.weigth=1"]},
            "the grid: no method.rsd.weigth in params.yaml; did you mean method.rsd.weight?",
        ),
        ({"grid": ["zebra=1"]}, "the grid: no zebra in params.yaml; +zebra=... adds it"),
        ({"grid": ["a b"]}, "the grid: expected PARAM=VALUE,VALUE as in `dvc exp run -S`, found 'a b'"),
        ({"grid": ["seeds=[1"]}, "the grid: no viable alternative"),
        ({"grid": ["seeds=[1],[2]"], "seeds": [1]}, "seeds: expected either an axis seeds=... or seeds of their own"),
    ],
)
def test_a_wrong_axis_is_refused(base: Path, grid: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        points([Grid.model_validate(grid)], base)

    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


def test_a_named_sweep_is_a_grid_or_list(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("grid: [a=1]\nseeds: [0]\n")
    (tmp_path / "two.yaml").write_text("- grid: [a=1]\n- {grid: [b=2], split: [seeds]}\n")

    assert read_grids(tmp_path / "one.yaml") == [Grid(grid=["a=1"], seeds=[0])]
    assert read_grids(tmp_path / "two.yaml") == [Grid(grid=["a=1"]), Grid(grid=["b=2"], split=["seeds"])]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: [0]", "seed: unknown key; did you mean seeds?"),
        ("seeds: 3", "seeds: expected a list, found 3"),
        ("a: [", "expected YAML in"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)

    with pytest.raises(UserError, match=sentence):
        read_grids(tmp_path / "wrong.yaml")


def test_an_unknown_sweep_is_refused_with_the_known(tmp_path: Path) -> None:
    (tmp_path / "weights.yaml").write_text("grid: [a=1]")

    with pytest.raises(UserError, match=r"expected a sweep out of .* \(weights\), found 'wieghts'"):
        read_grids(tmp_path / "wieghts.yaml")


def test_each_pair_method_and_seed_is_listed_once() -> None:
    params = {"pair": "near", "methods": ["scratch", "rsd"], "seeds": [0, 1]}
    own = [Grid(grid=["pair=far,near", "method.rsd.weight=1,2"], methods=["kd"], seeds=[3]), Grid()]

    assert covers([Grid()], params) == {"pair": ["near"], "methods": ["scratch", "rsd"], "seeds": ["0", "1"]}
    assert covers(own, params) == {
        "pair": ["far", "near"],
        "methods": ["scratch", "kd", "rsd"],
        "seeds": ["3", "0", "1"],
    }
    assert covers([Grid(grid=["seeds=[0],[0,1]"])], {})["seeds"] == ["0", "1"]
