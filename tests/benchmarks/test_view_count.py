import json
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import view_count
from rsd.config.resolve import resolve
from rsd.machine.files import write_json
from rsd.machine.yaml_file import read_yaml
from rsd.models.folder import save_trained
from rsd.models.make import ModelOptions, create
from rsd.sources.images import DatasetRecord, write_arrays
from rsd.training.recipe import Recipe
from tests.stages.conftest import ROOT, TINY

FOUND = pd.DataFrame(
    [{"views": views, "seed": seed, "top1": 90.0 + views + seed} for views in (0, 1, 4) for seed in (0, 1)]
)


def test_each_seed_trains_every_count_and_the_twin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = Path("out")
    params = read_yaml(ROOT / "params.yaml") | TINY
    Path("params.yaml").write_text(json.dumps(params))
    resolved = resolve(Path("params.yaml"), ROOT / "conf")
    write_json(out / "params" / "student.json", resolved["student"])
    for method in ("scratch", "rsd"):
        write_json(out / "params" / "method" / f"{method}.json", resolved["method"][method])
    generator = np.random.default_rng(0)
    for split in ("train", "validation"):
        pixels = generator.integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
        write_arrays(out / "data" / split, pixels, np.arange(20) % 10)
    record = DatasetRecord(
        source="digits", classes=[str(n) for n in range(10)], height=8, width=8, channels=1, mean=[0.5], std=[0.25],
        counts={"train": 20, "validation": 20}, checksums={},
    )  # fmt: skip
    write_json(out / "data" / "dataset.json", record.model_dump())
    options = ModelOptions(name=resolved["teacher"]["name"], args=resolved["teacher"]["args"])
    teacher = create(options, classes=10, image_shape=(8, 8, 1))
    save_trained(out / "teacher", teacher, teacher.state_dict(), record, mean=record.mean, std=record.std)
    recipe = Recipe.model_validate(resolved["recipe"] | {"epochs": 2, "batch_size": 10, "warmup_epochs": 0})
    result = view_count.measure([1, 2], [0], recipe)
    assert list(zip(result.views, result.seed, strict=True)) == [(0, 0), (1, 0), (2, 0)]
    assert result.top1.between(0, 100).all()


def test_the_table_compares_seeds_with_the_most_views():
    lines = view_count.table(FOUND, epochs=4).splitlines()
    assert lines[2] == "| scratch, new views each epoch | 90.50 ± 0.71 |  |"
    assert lines[3] == "| RSD, V = 1 | 91.50 ± 0.71 | -3.00 |"
    assert lines[4] == "| RSD, V = 4 (all) | 94.50 ± 0.71 |  |"


def test_the_picture_has_every_seed_and_the_twin():
    drawn = view_count.chart(FOUND, epochs=4).to_dict()
    assert [layer["mark"]["type"] for layer in drawn["layer"]] == ["line", "circle", "rule", "text"]
    assert sorted(len(rows) for rows in drawn["datasets"].values()) == [1, 4]
