"""A teacher with an input of its own, through the stages that meet it; called in this process, without DVC."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from rsd.machine.errors import UserError
from rsd.machine.files import sha256
from rsd.machine.yaml_file import read_yaml
from rsd.models.outputs import outputs
from rsd.sources.images import read_split
from rsd.views.augment import AugmentOptions, views
from stages import OUT, distill, embed, evaluate, params, prepare, sources, students, teacher
from tests.rsd.training.test_checkpoint import held
from tests.stages.conftest import ROOT, TINY, killed

ARGS: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16], "stem_type": "deep", "stem_width": 4}
SIDE = 12  # of the teacher's input; the images are served at 8


def settings(**changes):
    """Run what comes before the teacher, for a pair whose teacher is fine-tuned from `theirs/`."""
    pair = read_yaml(ROOT / "conf" / "pair" / "digits" / "resnet-vit.yaml")
    pair["teacher"] |= {"source": "finetune", "weights": "theirs", "args": ARGS, "input_size": SIDE, "min_top1": 0}
    with open("conf/pair/mine.yaml", "w") as file:
        json.dump(pair, file)
    override = {name: values for name, values in TINY["override"].items() if name != "teacher"}
    override["teacher_recipe"] = {"epochs": 1, "warmup_epochs": 0}
    override["recipe"] = {"epochs": 1, "warmup_epochs": 0}
    for name, values in changes.pop("override", {}).items():
        override[name] |= values
    chosen = read_yaml(ROOT / "params.yaml") | TINY | {"pair": "mine", "override": override}
    with open("params.yaml", "w") as file:
        json.dump(chosen | changes, file)
    params.main()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project whose teacher starts from a folder of weights for 5 classes and 3 channels."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "conf", "conf")
    (tmp_path / "theirs").mkdir()
    theirs = timm.create_model("resnet18", num_classes=5, **ARGS)
    save_file({k: v.contiguous() for k, v in theirs.state_dict().items()}, tmp_path / "theirs" / "model.safetensors")
    settings()
    prepare.main()
    yield tmp_path
    torch.use_deterministic_algorithms(False)


def test_every_stage_uses_the_teachers_own_preprocessing(project, monkeypatch):
    teacher.main()
    record = json.loads((OUT.folder / "teacher" / "model.json").read_text())
    assert (record["source"], record["input_size"], record["height"]) == ("finetune", SIDE, 8)
    assert record["mean"] == [pytest.approx(0.449)]
    assert record["std"] == [pytest.approx(0.226)]

    embed.main()
    reference = timm.create_model("resnet18", num_classes=10, in_chans=1, **ARGS)
    reference.load_state_dict(load_file(OUT.folder / "teacher" / "model.safetensors"))
    reference.double().eval()

    def by_hand(images):
        exact = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).double() / 255
        exact = resize(exact, [SIDE, SIDE], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
        exact = (exact - (0.485 + 0.456 + 0.406) / 3) / ((0.229 + 0.224 + 0.225) / 3)
        with torch.no_grad():
            return outputs(reference, exact)

    images = read_split(OUT.folder / "data", "train").images
    augment = AugmentOptions.model_validate_json((OUT.folder / "params" / "augment.json").read_text())
    shown = views(images, np.arange(64), augment, seed=0, view=1)
    for name, expected in by_hand(shown)._asdict().items():
        stored = torch.from_numpy(np.load(OUT.folder / "views" / f"{name}.npy")[1, :64]).double()
        assert torch.allclose(stored, expected, rtol=2e-3, atol=2e-3), name  # stored as fp16

    for method in ("scratch", "rsd"):
        monkeypatch.setattr(sys, "argv", ["distill", method, "0"])
        distill.main()
    students.main()
    evaluate.main()
    test = read_split(OUT.folder / "data", "test")
    evaluated = next(
        model
        for model in json.loads((OUT.folder / "evaluate" / "models.json").read_text())
        if model["model"] == "teacher"
    )
    expected = torch.nn.functional.cross_entropy(by_hand(test.images[:]).logits, torch.from_numpy(test.labels))
    assert evaluated["nll"] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("name", ["recipe", "teacher_recipe"])
def test_a_batch_beyond_the_images_is_refused_first(project, name):
    settings(override={name: {"batch_size": 898}})
    for stage in (prepare, teacher):
        with pytest.raises(UserError, match=f"{name}.batch_size: expected at most the 897 training images, found 898"):
            stage.main()


def test_a_copied_teacher_folder_is_that_teacher(project):
    teacher.main()
    before = {file.name: file.read_bytes() for file in (OUT.folder / "teacher").iterdir()}
    (OUT.folder / "teacher").rename("copy")
    file = OUT.folder / "params" / "teacher.json"
    changes = {"source": "file", "weights": "copy", "input_size": None}
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    teacher.main()
    assert (OUT.folder / "teacher" / "model.safetensors").read_bytes() == before["model.safetensors"]
    records = [json.loads(before["model.json"]), json.loads((OUT.folder / "teacher" / "model.json").read_text())]
    for key in ("mean", "std", "input_size", "validation", "classes"):
        assert records[0][key] == records[1][key], key


def test_the_run_prints_what_it_feeds(project, capsys):
    net = timm.create_model("resnet18", num_classes=10, in_chans=1, **ARGS)
    pixels = {"mean": [0.5], "std": [0.5], "input_size": [1, SIDE, SIDE]}
    save_for_hf(net, "folder", model_config={"pretrained_cfg": pixels}, safe_serialization=True)
    file = OUT.folder / "params" / "teacher.json"
    changes = {"source": "file", "weights": "folder", "input_size": None}
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    teacher.main()
    assert (
        f"is fed images resized to {SIDE} x {SIDE} (bicubic), mean 0.5, std 0.5 (from folder/config.json"
        in capsys.readouterr().out
    )
    record = json.loads((OUT.folder / "teacher" / "model.json").read_text())
    assert (record["mean"], record["std"], record["input_size"]) == ([0.5], [0.5], SIDE)


def test_stages_start_processes_for_their_work_and_gpus(project, monkeypatch):
    """On a node of four GPUs, of two that train together."""
    started: dict[str, int] = {}

    def launched(module, arguments, options, inputs=()):
        started[module] = options.processes

    for stage in (teacher, embed, evaluate):
        monkeypatch.setattr(stage, "launch", launched)
    teacher.main()
    (OUT.folder / "teacher").rename("copy")
    compute, chosen = OUT.folder / "params" / "compute.json", OUT.folder / "params" / "teacher.json"
    compute.write_text(json.dumps(json.loads(compute.read_text()) | {"processes": 8}))
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 4)
        for stage in (teacher, embed, evaluate):
            stage.main()
    assert started == {"stages.teacher": 8, "stages.embed": 4, "stages.evaluate": 4}
    changes = {"source": "file", "weights": "copy", "input_size": None}
    chosen.write_text(json.dumps(json.loads(chosen.read_text()) | changes))
    teacher.main()  # trains nothing, and does it alone
    assert (OUT.folder / "teacher" / "model.safetensors").is_file()


def test_a_second_process_of_a_stage_is_refused(project, monkeypatch):
    """As after a kill of DVC alone: both would write one checkpoint, or one store."""
    teacher.main()
    monkeypatch.setattr(sys, "argv", ["distill", "scratch", "0"])
    with held(Path(".state").resolve(), "teacher", "embed", "scratch-0") as (holder, _):
        for stage in (teacher, embed, distill):
            with pytest.raises(UserError, match=f"found process {holder.pid} on .*; wait until it ends, or end it"):
                stage.main()
    embed.main()
    distill.main()


def test_a_lower_min_top1_does_not_train_again(project, capsys):
    file = OUT.folder / "params" / "teacher.json"
    chosen = json.loads(file.read_text())
    file.write_text(json.dumps(chosen | {"min_top1": 100}))
    with pytest.raises(UserError, match=r"or lower teacher\.min_top1"):
        teacher.main()
    file.write_text(json.dumps(chosen))
    teacher.main()
    assert "resumed after epoch 1 of 1" in capsys.readouterr().err


def test_a_live_teacher_gives_stages_at_its_size(project, monkeypatch):
    settings(views=TINY["views"] | {"count": 0}, methods=["scratch", "rsd", "fitnet"])
    teacher.main()
    monkeypatch.setattr(sys, "argv", ["distill", "fitnet", "0"])
    distill.main()
    assert (OUT.folder / "students" / "fitnet-0" / "model.safetensors").is_file()


def test_other_args_make_another_teacher(project):
    teacher.main()
    (OUT.folder / "teacher").rename("copy")
    file = OUT.folder / "params" / "teacher.json"
    changes = {"source": "file", "weights": "copy", "input_size": None, "args": ARGS | {"act_layer": "gelu"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    teacher.main()
    before, after = (Path(folder, "model.safetensors") for folder in ("copy", OUT.folder / "teacher"))
    state = load_file(after)
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(before).items())
    assert sha256(after) != sha256(before)  # by which a view store knows its teacher


def test_a_probe_is_an_ordinary_teacher_afterwards(project, monkeypatch, capsys):
    settings(override={"data": {"labelled": 200, "teacher_share": 0.4}, "recipe": {"augment": {}}})
    prepare.main()
    file = OUT.folder / "params" / "teacher.json"
    args = ARGS | {"channels": [32, 32, 64, 128]}
    save_for_hf(net := timm.create_model("resnet18", num_classes=0, **args), "no-head", safe_serialization=True)
    own = {"source": "probe", "weights": "no-head", "select": "cross_validation", "recipe": None, "args": args}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    for name in ("test", "teacher"):
        shutil.rmtree(OUT.folder / "data" / name)  # it has no business there
    teacher.main()
    record = OUT.teacher()
    assert record.probe
    assert (record.probe.labels, record.probe.select) == (200, "cross_validation")
    assert record.probe.top1 == record.validation.top1 > 20
    assert "scikit-learn" in record.versions
    output = capsys.readouterr()
    assert f"teacher resnet18: {record.probe.stated}\n" in output.out
    assert ("warning: teacher resnet18: expected a teacher that is better" in output.err) != record.probe.beats_pixels
    weights = load_file(OUT.folder / "teacher" / "model.safetensors")
    assert torch.equal(weights["layer4.0.conv1.weight"], net.state_dict()["layer4.0.conv1.weight"])
    assert weights["fc.weight"].shape == (10, 128)
    embed.main()
    monkeypatch.setattr(sys, "argv", ["distill", "rsd+kd", "0"])
    params_files = {
        name: json.loads((OUT.folder / "params" / "method" / f"{name}.json").read_text()) for name in ("rsd", "kd")
    }
    (OUT.folder / "params" / "method" / "rsd+kd.json").write_text(json.dumps(params_files))
    distill.main()
    assert OUT.student("rsd+kd", 0).taught


def test_a_killed_finetuning_resumes_to_the_same_bytes(project, monkeypatch, capsys):
    params_file = OUT.folder / "params" / "teacher_recipe.json"
    params_file.write_text(json.dumps(json.loads(params_file.read_text()) | {"epochs": 2}))
    weights = OUT.folder / "teacher" / "model.safetensors"
    teacher.main()
    undisturbed = weights.read_bytes()

    killed(monkeypatch, teacher.main)
    teacher.main()
    assert "resumed after epoch 1" in capsys.readouterr().err
    assert weights.read_bytes() == undisturbed

    killed(monkeypatch, teacher.main)
    theirs = project / "theirs" / "model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(theirs).items()}, theirs)
    teacher.main()
    assert "resumed" not in capsys.readouterr().err
    assert weights.read_bytes() != undisturbed


def test_replaced_weights_and_images_change_the_watched_digests(project):
    def digests():
        sources.main()
        return [(OUT.folder / "sources" / f"{name}.json").read_bytes() for name in ("teacher", "data")]

    first = digests()
    assert digests() == first
    (project / "theirs" / "model.safetensors").write_bytes(b"others")
    second = digests()
    assert second[0] != first[0]
    assert second[1] == first[1]
    (OUT.folder / "params" / "watched.json").write_text(json.dumps({"data": ["images"], "teacher": ["theirs"]}))
    third = digests()
    (project / "images").mkdir()
    (project / "images" / "1.png").write_text("new")
    assert digests()[1] != third[1]
