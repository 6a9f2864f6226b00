"""The 27 pairs of the paper: each composes, and each student learns a step from its teacher."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rsd.config.resolve import resolve
from rsd.machine.errors import UserError
from rsd.machine.yaml_file import read_yaml
from rsd.methods.base import Distiller, Setting
from rsd.methods.ofa import OFADistiller
from rsd.methods.rsd import RSDDistiller
from rsd.models.make import ModelOptions, create, parameter_count
from rsd.models.outputs import Outputs, outputs
from rsd.models.student import StudentOptions
from rsd.training.recipe import Recipe, make_criterion, make_optimizer

ROOT = Path(__file__).parents[1]

# As the paper lists them; the tests compare the files with this list.
CNNS = ("resnet18", "mobilenetv2")
CIFAR = {
    *product(("swin_t", "vit_s", "mixer_b16"), CNNS),
    *product(("convnext_t", "mixer_b16"), ("deit_t", "swin_p")),
    *product(("convnext_t", "swin_t"), ("resmlp_s12",)),
}
IMAGENET = {
    *product(("deit_t", "swin_t", "mixer_b16"), CNNS),
    *product(("resnet50", "convnext_t", "mixer_b16"), ("deit_t", "swin_n")),
    *product(("resnet50", "convnext_t", "swin_t"), ("resmlp_s12",)),
}
PAIRS = [("cifar100", *pair) for pair in sorted(CIFAR)] + [("imagenet", *pair) for pair in sorted(IMAGENET)]
SWIN = "swin_tiny_patch4_window7_224"
NAMES = {
    "swin_t": SWIN,
    "vit_s": "vit_small_patch16_224",
    "mixer_b16": "mixer_b16_224",
    "convnext_t": "convnext_tiny",
    "deit_t": "deit_tiny_patch16_224",
    "resnet50": "resnet50",
    "resnet18": "resnet18",
    "mobilenetv2": "mobilenetv2_100",
    "resmlp_s12": "resmlp_12_224",
    "swin_n": SWIN,
    "swin_p": SWIN,
}
NARROW = {"depths": [2, 2, 2, 2], "num_heads": [2, 4, 8, 16]}
ARGS = {"swin_n": {"embed_dim": 64, **NARROW}, "swin_p": {"embed_dim": 48, **NARROW}}
TEACHER_TOP1 = {"swin_t": 89.26, "vit_s": 92.44, "mixer_b16": 87.62, "convnext_t": 88.42}
PUBLISHED = {
    ("cifar100", "swin_t", "resnet18"): {"scratch": 74.01, "kd": 78.74, "dkd": 80.26, "ofa": 80.54, "rsd": 83.92},
    ("cifar100", "vit_s", "mobilenetv2"): {"scratch": 73.68, "kd": 72.77, "ofa": 78.45, "rsd": 81.68},
    ("cifar100", "convnext_t", "deit_t"): {"scratch": 68.00, "kd": 72.99, "ofa": 75.76, "rsd": 82.46},
    ("cifar100", "convnext_t", "resmlp_s12"): {"scratch": 66.56, "kd": 72.25, "dkd": 73.22, "ofa": 81.22, "rsd": 84.21},
    ("imagenet", "swin_t", "resnet18"): {"scratch": 69.75, "ofa": 71.85, "rsd": 72.13},
    ("imagenet", "convnext_t", "swin_n"): {"scratch": 75.53, "ofa": 77.50, "rsd": 77.70},
    ("imagenet", "convnext_t", "resmlp_s12"): {"scratch": 76.65, "ofa": 77.53, "rsd": 78.41},
}


def composed(folder: Path, **changes: object) -> dict:
    params = read_yaml(ROOT / "params.yaml") | changes
    (folder / "params.yaml").write_text(json.dumps(params))
    return resolve(folder / "params.yaml", ROOT / "conf")


SMALL = sorted(f"fashion/{file.stem}" for file in (ROOT / "conf" / "pair" / "fashion").iterdir())


@pytest.mark.parametrize("pair", SMALL)
def test_a_small_pair_has_two_architectures(tmp_path, pair):
    resolved = composed(tmp_path, pair=pair)
    size = resolved["data"]["size"]
    models = [
        create(
            ModelOptions.model_validate({key: resolved[role][key] for key in ("name", "args")}),
            classes=10,
            image_shape=(size, size, 1),
        )
        for role in ("teacher", "student")
    ]
    assert type(models[0]) is not type(models[1])
    assert parameter_count(models[0]) > parameter_count(models[1])


@pytest.mark.parametrize("pair", sorted((ROOT / "conf" / "pair" / "photographs").iterdir()), ids=lambda file: file.stem)
def test_a_pair_of_photographs_takes_its_images(tmp_path, pair):
    resolved = composed(tmp_path, pair=f"photographs/{pair.stem}")
    size = resolved["data"]["size"]
    student = StudentOptions.model_validate(resolved["student"])
    assert parameter_count(create(student.model, classes=2, image_shape=(size, size, 1))) > 0
    assert resolved["data"]["root"] == f"datasets/elpv-{size}"


def test_the_pairs_are_the_papers_27():
    files = {tuple(file.stem.split("-")) for file in (ROOT / "conf" / "pair" / "cifar100").iterdir()}
    assert (files, len(files)) == (CIFAR, 12)
    files = {tuple(file.stem.split("-")) for file in (ROOT / "conf" / "pair" / "imagenet").iterdir()}
    assert (files, len(files)) == (IMAGENET, 15)


@pytest.mark.parametrize(("data", "teacher", "student"), PAIRS)
def test_a_pair_composes_under_both_protocols(tmp_path, data, teacher, student):
    pair = f"{data}/{teacher}-{student}"
    ours, paper = (composed(tmp_path, pair=pair, protocol=protocol) for protocol in ("ours", "paper"))
    for resolved, hold_out, select, correlation in (
        (ours, True, "best", "global"),
        (paper, False, "last", "per_process"),
    ):
        assert resolved["data"]["hold_out"] is hold_out
        assert resolved["recipe"]["select"] == select
        assert resolved["method"]["rsd"]["correlation"] == correlation
    assert (ours["run"]["protocol"], paper["run"]["protocol"]) == ("ours", "paper")
    kind = "cnn" if student in CNNS else "vit_mlp"
    prefix = {"cifar100": "cifar", "imagenet": "imagenet"}[data]
    assert (ours["run"]["data"], ours["run"]["recipe"]) == (data, f"{prefix}_{kind}")
    assert ours["data"]["size"] == 224
    for role, name in (("teacher", teacher), ("student", student)):
        assert ours[role]["name"] == NAMES[name]
        assert ours[role]["args"] == ARGS.get(name, {})
    if data == "cifar100":
        assert ours["teacher"]["source"] == "finetune"
        assert ours["teacher_recipe"] is not None
        assert paper["teacher_recipe"]["select"] == "last"
        assert ours["teacher"]["min_top1"] == pytest.approx(TEACHER_TOP1[teacher] - 2)
    else:
        assert ours["teacher"]["source"] == "hub"
        assert ours["teacher_recipe"] is None


@pytest.mark.parametrize(("data", "teacher", "student"), PAIRS)
def test_a_pair_states_its_published_accuracies(data, teacher, student):
    content = read_yaml(ROOT / "conf" / "pair" / data / f"{teacher}-{student}.yaml")
    of_teacher = {"teacher": TEACHER_TOP1[teacher]} if data == "cifar100" else {}
    assert content.get("published", {}) == of_teacher | PUBLISHED.get((data, teacher, student), {})


RECIPES = {
    "cifar_cnn": (300, 128, "sgd", 0.05, 1e-3, 2e-3, "cosine", 3),
    "cifar_vit_mlp": (300, 128, "adamw", 5e-4, 1e-5, 0.05, "cosine", 20),
    "imagenet_cnn": (100, 64, "sgd", 0.1, 0.0, 1e-4, "step", 3),
    "imagenet_vit_mlp": (300, 128, "adamw", 5e-4, 1e-6, 0.05, "cosine", 20),
    "imagenet_stronger": (300, 256, "lamb", 5e-3, 0.0, 0.02, "cosine", 5),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_of_the_paper_is_as_published(name):
    recipe = Recipe.model_validate(read_yaml(ROOT / "conf" / "recipe" / f"{name}.yaml"))
    settings = (
        recipe.epochs,
        recipe.batch_size,
        recipe.optimizer,
        recipe.learning_rate,
        recipe.min_learning_rate,
        recipe.weight_decay,
        recipe.schedule,
        recipe.warmup_epochs,
    )
    assert settings == RECIPES[name]
    augment = recipe.augment
    mixes = (augment.mixup, augment.cutmix)
    assert recipe.label_smoothing == (0.0 if name == "imagenet_stronger" else 0.1)
    assert recipe.ema_decay == {"imagenet_vit_mlp": 0.99996, "imagenet_stronger": 0.9998}.get(name)
    assert (recipe.loss, recipe.augment.repeats) == (("bce", 3) if name == "imagenet_stronger" else ("ce", 1))
    if name.endswith("cnn"):
        assert (recipe.momentum, recipe.decay_epochs) == (0.9, 30)
        assert (mixes, augment.randaugment, augment.erase) == ((0, 0), None, 0)
    elif name.endswith("vit_mlp"):
        assert (mixes, augment.erase, augment.color_jitter, recipe.clip_gradient) == ((0.8, 1.0), 0.25, 0.4, 5.0)
        assert str(augment.randaugment).startswith("rand-m9-mstd0.5")
    else:
        assert (mixes, augment.erase) == ((0.1, 1.0), 0)
        assert str(augment.randaugment).startswith("rand-m7")
    if name == "cifar_vit_mlp":
        assert recipe.warmup_learning_rate == 5e-7


def test_the_papers_protocol_needs_no_rsd_section(tmp_path):
    resolved = composed(tmp_path, protocol="paper", method={})
    assert resolved["method"]["rsd"]["correlation"] == "per_process"


def test_an_override_against_the_protocol_is_refused(tmp_path):
    override = {"recipe": {"select": "best", "epochs": 50}, "data": {"hold_out": True}}
    with pytest.raises(UserError) as caught:
        composed(tmp_path, protocol="paper", override=override)
    for sentence in (
        "override.recipe.select: expected 'last', which protocol 'paper' sets, found 'best'",
        "override.data.hold_out: expected False, which protocol 'paper' sets, found True",
        "2 to correct",
    ):
        assert sentence in str(caught.value)
    resolved = composed(tmp_path, protocol="paper", override={"recipe": {"select": "last", "epochs": 50}})
    assert (resolved["recipe"]["epochs"], resolved["recipe"]["select"]) == (50, "last")


def test_an_unknown_protocol_is_refused(tmp_path):
    with pytest.raises(UserError, match="protocol: expected 'ours' or 'paper', found 'papers'"):
        composed(tmp_path, protocol="papers")


SHAPE, BATCH = (224, 224, 3), 4  # in a batch of 2 every dimension standardises to +1 and -1: no gradient is left
CLASSES = {"cifar100": 100, "imagenet": 1000}


def batch(classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, 3, 224, 224, generator=generator), torch.arange(BATCH) * (classes // BATCH)


@pytest.fixture(scope="module")
def teacher_outputs():
    """The outputs of an untrained teacher for its batch, computed once."""
    known: dict[tuple[str, str], Outputs] = {}

    def compute(name: str, data: str) -> Outputs:
        if (name, data) not in known:
            torch.manual_seed(0)
            teacher = create(ModelOptions(name=NAMES[name]), classes=CLASSES[data], image_shape=SHAPE).eval()
            with torch.no_grad():
                known[name, data] = outputs(teacher, batch(CLASSES[data])[0])
        return known[name, data]

    return compute


# Two pairs of the same architectures differ only in the number of classes, so CIFAR-100's represents both.
DISTINCT = list({(teacher, student): (data, teacher, student) for data, teacher, student in reversed(PAIRS)}.values())


@pytest.mark.slow
@pytest.mark.parametrize(("data", "teacher", "student"), DISTINCT)
def test_a_step_reaches_first_layer_and_scaffold(teacher_outputs, tmp_path, data, teacher, student):
    resolved = composed(tmp_path, pair=f"{data}/{teacher}-{student}")
    recipe = Recipe.model_validate(resolved["recipe"])
    answer, (images, target) = teacher_outputs(teacher, data), batch(CLASSES[data])
    for kind in (RSDDistiller, OFADistiller):
        torch.manual_seed(0)
        model = create(
            StudentOptions.model_validate(resolved["student"]).model, classes=CLASSES[data], image_shape=SHAPE
        ).train()
        setting = Setting(teacher_width=answer.embedding.shape[1], image_shape=SHAPE)
        task: Distiller = kind(model, setting, criterion=make_criterion(recipe))
        optimizer = make_optimizer(task.trainable_module, recipe)
        first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d)).weight
        before = first.detach().clone()
        result = task(images, target, answer)
        result["loss"].backward()
        assert torch.isfinite(result["loss"])
        assert moved(first), "the first layer"
        scaffold = {name: moved(p) for name, p in task.trainable_module.named_parameters() if "projection" in name}
        assert all(scaffold.values()), scaffold
        optimizer.step()
        assert not torch.equal(first, before)
        assert torch.isfinite(first).all()


def moved(parameter: Tensor) -> bool:
    """Whether its gradient is finite and not zero."""
    gradient = parameter.grad
    return gradient is not None and bool(torch.isfinite(gradient).all()) and bool(gradient.any())
