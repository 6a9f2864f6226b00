"""A folder of JPEG files, from the index to the bundle; the stages are called in this process, as DVC would order."""

import json
import shutil
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from rsd.machine.yaml_file import read_yaml
from rsd.sources.image_file import SUFFIXES
from stages import (
    OUT,
    benchmark,
    bundle,
    convert,
    device,
    distill,
    embed,
    engine,
    evaluate,
    export,
    params,
    prepare,
    sources,
    students,
    teacher,
)
from tests.stages.conftest import ROOT

CLASSES = {"disc": (210, 60, 50), "frame": (60, 190, 80), "cross": (70, 90, 220)}
RECIPE: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 12,
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "warmup_epochs": 1,
    "label_smoothing": 0.1,
    "augment": {"crop": {"scale": [0.5, 1.0]}, "flip": True, "randaugment": "rand-m3-mstd0.5-inc1", "mixup": 0.4},
}
RESNET: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 16], "stem_type": "deep", "stem_width": 8}
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "class_token": False,
       "global_pool": "avg"}  # fmt: skip


def draw(name, number):
    """A coloured shape somewhere on grey, in images of several sizes."""
    generator = np.random.default_rng([number, *name.encode()])
    width, height = generator.integers(40, 80, 2).tolist()
    image = Image.new("RGB", (width, height), tuple(generator.integers(90, 160, 3).tolist()))
    left, top = generator.integers(4, 12, 2).tolist()
    box = (left, top, width - 8, height - 8)
    colour = tuple((np.array(CLASSES[name]) + generator.integers(-30, 30, 3)).tolist())
    pen = ImageDraw.Draw(image)
    if name == "disc":
        pen.ellipse(box, fill=colour)
    elif name == "frame":
        pen.rectangle(box, outline=colour, width=6)
    else:
        pen.line(box, fill=colour, width=7)
        pen.line((box[0], box[3], box[2], box[1]), fill=colour, width=7)
    return image


def state(folder):
    """Everything that is below a folder, with contents and times."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [folder, *folder.rglob("*")]
    }


def contents(folder):
    return {name: content for name, (_, content) in state(folder).items()}


@pytest.fixture
def images(tmp_path, monkeypatch):
    """`~/my-images`, and beside it an empty project whose params name it."""
    root = tmp_path / "home" / "my-images"
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for number in range(30):
            draw(name, number).save(root / name / f"{number:02}.jpg", quality=90)
    (root / "frame" / "07.jpg").write_bytes((root / "frame" / "07.jpg").read_bytes()[:500])
    (root / "notes.txt").write_text("where they come from")
    (root / "disc" / ".hidden").write_text("")
    project = tmp_path / "project"
    shutil.copytree(ROOT / "conf", project / "conf")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(project)
    data = {"source": "folder", "root": "~/my-images", "size": 32, "on_bad": "skip"}
    pair = {
        "data": "mine",
        "recipe": "mine",
        "teacher": {"name": "resnet18", "args": RESNET, "recipe": "mine"},
        "student": {"name": "vit_tiny_patch16_224", "args": VIT},
    }
    for kind, content in (("data", data), ("recipe", RECIPE), ("pair", pair)):
        (project / "conf" / kind / "mine.yaml").write_text(json.dumps(content))
    chosen = read_yaml(ROOT / "params.yaml") | {
        "pair": "mine",
        "methods": ["scratch", "rsd"],
        "seeds": [0],
        "precisions": ["fp32"],
        "views": {"count": 2, "seed": 0, "batch_size": 16},
        "override": {"teacher_recipe": {"epochs": 12}},
        "benchmark": {"warmup_seconds": 0.01, "min_seconds": 0.01, "min_samples": 10, "rounds": 2},
    }
    (project / "params.yaml").write_text(json.dumps(chosen))
    yield root
    torch.use_deterministic_algorithms(False)


def test_a_folder_of_jpegs_passes_every_stage_unchanged(images, monkeypatch, capsys):
    def run(stage, *arguments):
        monkeypatch.setattr(sys, "argv", [stage.__name__, *arguments])
        stage.main()

    before = state(images)
    for stage in (device, params, sources, prepare):
        run(stage)
    output = capsys.readouterr().out
    assert f"left out of {images}, since data.on_bad is skip:\n  1. frame/07.jpg: truncated or damaged" in output
    assert f"ignored in {images}, not {', '.join(SUFFIXES)}, or hidden: 1 .txt, 1 hidden\n" in output
    assert "folder: train 65, validation 6, test 18; images of 32 x 32, 3 classes" in output

    run(teacher)
    run(embed)
    for method in ("scratch", "rsd"):
        run(distill, method, "0")
    run(students)
    run(evaluate)
    metrics = json.loads((OUT.folder / "evaluate" / "metrics.json").read_text())
    assert metrics["teacher"]["top1"] > 60  # chance is 33 %
    alone = contents(OUT.folder / "evaluate")
    compute = OUT.folder / "params" / "compute.json"
    compute.write_text(json.dumps(json.loads(compute.read_text()) | {"workers": 1}))
    run(evaluate)
    assert contents(OUT.folder / "evaluate") == alone  # whoever decodes

    run(export)
    for stage in (convert, engine):
        run(stage, "fp32")
    run(benchmark)
    run(bundle)
    assert json.loads((OUT.folder / "bundle" / "labels.json").read_text()) == sorted(CLASSES)
    golden = np.load(OUT.folder / "bundle" / "golden" / "images.npy")
    assert golden.shape[1:] == (32, 32, 3)
    # But for the bundle's golden files, which are drawn anew from a few test images, no image is copied.
    assert not [path for path in OUT.folder.rglob("*.jpg") if path.parent != OUT.folder / "bundle" / "golden" / "files"]
    assert state(images) == before
