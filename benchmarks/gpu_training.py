"""The checks of `benchmarks.gpu_check` that train: each way of training on a device beside plain training on the CPU.

The images are noise with a rule that can be learnt, and the models are tiny. torchrun starts this module for the
check of two processes: `python -m benchmarks.gpu_training FOLDER DEVICE`.
"""

import subprocess
import sys
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_speed import ways
from benchmarks.pair import Case, bench, random_store
from rsd.evaluation.accuracy import measure
from rsd.evaluation.cka import compare_layers
from rsd.evaluation.redundancy import redundancy
from rsd.machine import unfinished
from rsd.machine.compute import ComputeOptions, set_up, training_kernels
from rsd.machine.errors import UserError
from rsd.machine.parallel import leads, leave
from rsd.methods import distiller
from rsd.methods._picture import picture
from rsd.methods.base import Setting
from rsd.methods.rsd import AAD, RSDDistiller, decoupled
from rsd.models.features import stage_shapes
from rsd.models.make import ModelOptions, create
from rsd.models.outputs import Outputs
from rsd.models.pixels import PixelNormalize
from rsd.models.predict import predict, predict_together
from rsd.sources.images import LabelledImages
from rsd.teacher.embed import write_store
from rsd.teacher.store import LiveTeacher, ViewOptions
from rsd.training.loop import Data, Session, Trained, train
from rsd.training.recipe import Recipe, make_criterion
from rsd.views.augment import AugmentOptions, ViewChoice
from rsd.views.batches import batches, epoch_plan
from rsd.views.on_device import device_batches

CLASSES, SIDE, WIDTH = 4, 16, 32
STUDENTS = {
    "cnn": ModelOptions(name="resnet18", args={"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 32]}),
    # Without batch norm, which sees each process's share alone on CPUs.
    "vit": ModelOptions(
        name="vit_tiny_patch16_224",
        args={"img_size": SIDE, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2},
    ),
}
RECIPE = Recipe(
    epochs=2, batch_size=32, optimizer="adamw", learning_rate=2e-3, warmup_epochs=0,
    augment=AugmentOptions(shift=1, flip=True),
)  # fmt: skip
# Share of the loss by which an epoch may differ from float32 on the CPU. bf16 has 7 bits of mantissa; fp16 skips the
# first steps, of which there are few here, until its scale is found.
TOLERANCE = {"none": 1e-3, "fp16": 0.3, "bf16": 0.1}
ATTENTION = Case(
    ModelOptions(name="deit_tiny_patch16_224"), ModelOptions(name="deit_tiny_patch16_224"), "adamw", batch=48
)


def images(count: int, seed: int) -> LabelledImages:
    """Noise whose brightness tells the class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    pixels = random.integers(0, 100, (count, SIDE, SIDE, 3)) + 40 * labels[:, None, None, None]
    return LabelledImages(pixels.astype(np.uint8), labels, [str(c) for c in range(CLASSES)])


def student(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return create(STUDENTS[name], classes=CLASSES, image_shape=(SIDE, SIDE, 3))


class StoppedError(Exception):
    """What ends a training that is to be resumed."""


class Teacher:
    """A linear map of the pixels; stops the run at its `last` call."""

    def __init__(self, device: torch.device, last: int | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(SIDE * SIDE * 3, WIDTH, generator=generator).to(device) / SIDE
        self.left = last

    def __call__(self, raw: Tensor, index: np.ndarray, view: np.ndarray) -> Outputs:
        if self.left is not None:
            if not self.left:
                raise StoppedError
            self.left -= 1
        embedding = (raw.float().flatten(1) / 255) @ self.weight
        return Outputs(embedding, embedding[:, :CLASSES])


def trained(
    compute: ComputeOptions, *, name: str = "cnn", state: Path | None = None, last: int | None = None
) -> Trained:
    """A short training by RSD, as the stage `distill` does it."""
    device = set_up(compute)
    task = RSDDistiller(student(name), Setting(teacher_width=WIDTH)).to(device)
    data = Data(images(128, 0), images(64, 1), PixelNormalize([0.5] * 3, [0.25] * 3).to(device))
    session = Session(0, ViewChoice(0), Teacher(device, last), compute, state=state, save_seconds=0.0)
    return train(task, data, RECIPE, session)


@cache
def on_cpu(name: str) -> Trained:
    """The reference of the other trainings."""
    return trained(ComputeOptions(device="cpu"), name=name)


def options(device: torch.device, **changes: Any) -> ComputeOptions:
    return ComputeOptions.model_validate({"device": device.type, **changes})


def training(device: torch.device, name: str = "cnn", **changes: Any) -> dict[str, Any]:
    """Train on the device with these options of `compute`; its losses are those of the CPU, up to rounding."""
    compute, tf32 = options(device, **changes), torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = False  # 10 bits of mantissa in convolutions, by default
        own, expected = losses(trained(compute, name=name)), losses(on_cpu(name))
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    return near(own, expected, TOLERANCE[compute.amp])


def near(own: np.ndarray, expected: np.ndarray, most: float) -> dict[str, Any]:
    """The losses of a training as facts; a UserError where they differ from the CPU's by more than this share."""
    apart = float(np.abs(own / expected - 1).max())
    if not apart <= most:
        raise UserError(
            f"expected the losses of the CPU's float32 training within {most:.1%}, found {apart:.2%}: "
            f"{own.tolist()} beside {expected.tolist()}"
        )
    return {"loss": own.tolist(), "apart": apart}


def losses(trained: Trained) -> np.ndarray:
    """The mean loss of each epoch."""
    return np.array([row["loss"] for row in trained.history])


def same(a: Trained, b: Trained) -> bool:
    """The same bits of student, scaffold and history."""
    weights = all(torch.equal(a.student[key], b.student[key]) for key in a.student)
    scaffold = all(torch.equal(a.scaffold[key], b.scaffold[key]) for key in a.scaffold)
    return weights and scaffold and a.history == b.history


def repeated(device: torch.device) -> dict[str, Any]:
    """Two trainings give the same bits."""
    if not same(trained(options(device)), trained(options(device))):
        raise UserError("expected two trainings of one seed to give the same bits, found that they do not")
    return {}


def attention_repeated(device: torch.device, folder: Path, *, case: Case = ATTENTION, **changes: Any) -> dict[str, Any]:
    """The same steps of RSD, run twice, give a student with attention the same losses and gradients to the bit.

    The fast backward kernels of attention sum in another order in every run; deterministic ones do not.
    """
    compute, losses_of_runs = options(device, **changes), []
    set_up(compute)
    for run in range(2):
        place = folder / f"attention-{compute.amp}-{run}"
        place.mkdir()
        step = ways(case, compute, device, place)["stored"]
        losses_of_runs.append([{name: float(value) for name, value in step().items()} for _ in range(4)])
    if losses_of_runs[0] != losses_of_runs[1]:
        raise UserError(f"expected the same steps twice, found {losses_of_runs[0][-1]} beside {losses_of_runs[1][-1]}")
    return {}


def as_one_graph(device: torch.device, folder: Path, *, case: Case = ATTENTION, **changes: Any) -> dict[str, Any]:
    """Steps of RSD that are one CUDA graph have the losses of those that are not; two such runs have the same bits."""
    losses_of_runs = []
    for run, graph in enumerate((False, True, True)):
        compute = options(device, cuda_graph=graph, **changes)
        set_up(compute)
        place = folder / f"graph-{compute.amp}-{run}"
        place.mkdir()
        pair = bench(case, place, device)
        steps = pair.stepper(pair.rsd(), pair.stored, compute)
        terms = [steps.step(pair.raw, pair.target, pair.index, pair.view, number=number) for number in range(15)]
        losses_of_runs.append(np.array([float(term["loss"]) for term in terms]))
        if graph and device.type == "cuda" and not (steps.graph and len(steps.graph.graphs) == 2):
            raise UserError("expected the steps to be one graph, found that they ran kernel by kernel")
    kernels, first, second = losses_of_runs
    if not np.array_equal(first, second):
        raise UserError(f"expected the same bits from two runs, found {first.tolist()} beside {second.tolist()}")
    return near(first, kernels, TOLERANCE[compute.amp])


def served_on(device: torch.device) -> dict[str, Any]:
    """Views that are cut and flipped on the device have the bits of the CPU's."""
    split, augment = images(100, 0), AugmentOptions(shift=3, flip=True)
    plan = partial(epoch_plan, images=100, batch_size=32, augment=augment, seed=0, view_choice=ViewChoice(0))
    numbers = range(9)
    ours = device_batches(split, plan, 3, augment, device, seed=0, numbers=numbers)
    for one, other in zip(ours, batches(split, plan, 3, augment, seed=0, numbers=numbers), strict=True):
        if not (torch.equal(one.raw.cpu(), other.raw) and torch.equal(one.target.cpu(), other.target)):
            raise UserError("expected the pixels and labels of the CPU's batches, found others")
    return {}


def refused(device: torch.device) -> dict[str, Any]:
    """An operation without a deterministic kernel is refused by name; `deterministic: false` allows it."""

    def backward() -> None:
        image = torch.rand(1, 1, 8, 8, device=device, requires_grad=True)
        torch.nn.functional.adaptive_max_pool2d(image, 3).sum().backward()

    try:
        with training_kernels(options(device), device):
            backward()
    except UserError as error:
        with training_kernels(options(device, deterministic=False), device):
            backward()
        return {"message": str(error)}
    raise UserError("expected adaptive_max_pool2d to be refused, found that it was taken")


def resumed(device: torch.device, folder: Path, name: str = "cnn", **changes: Any) -> dict[str, Any]:
    """A training that is stopped within its second epoch and started again ends with the bits of an undisturbed one."""
    compute, state = options(device, **changes), folder / "resume" / "run" / "checkpoint.pt"
    unfinished.forget(state)
    with suppress(StoppedError):
        trained(compute, name=name, state=state, last=6)
    if not state.is_file():
        raise UserError(f"expected a checkpoint of the stopped training in {state}, found none")
    torch.manual_seed(99)  # a new process has another random state
    if not same(trained(compute, name=name, state=state), trained(compute, name=name)):
        raise UserError("expected a resumed training to end with the bits of an undisturbed one, found others")
    return {}


def distilled(device: torch.device, method: str, name: str) -> Trained:
    """A short training by any method under a live teacher, as the stage `distill` does it; `scratch` has none."""
    compute = options(device)
    device, kind, teacher = set_up(compute), distiller(method), student("cnn")
    normalize, shape = PixelNormalize([0.5] * 3, [0.25] * 3).to(device), (SIDE, SIDE, 3)
    setting = Setting(WIDTH, stage_shapes(teacher, shape), image_shape=shape, image_count=128)
    task = kind(student(name), setting, criterion=make_criterion(RECIPE))
    live = LiveTeacher(teacher.to(device), normalize, staged="stages" in kind.needs) if kind.needs else None
    data = Data(images(128, 0), images(64, 1), normalize)
    return train(task.to(device), data, RECIPE, Session(0, ViewChoice(0), live, compute))


def distilling(device: torch.device, method: str, name: str = "vit") -> dict[str, Any]:
    """Train by this method on the device; its losses are those of the CPU, up to rounding and draws of a device."""
    own, expected = (losses(distilled(d, method, name)) for d in (device, torch.device("cpu")))
    return near(own, expected, 0.1)


def looked_into(device: torch.device) -> dict[str, Any]:
    """The stage `evaluate` gives the same figures on the device as on the CPU."""
    values, test = [], images(64, 1)
    labels = torch.from_numpy(test.labels)
    for where in (torch.device("cpu"), device):
        normalize = PixelNormalize([0.5] * 3, [0.25] * 3).to(where)
        of_student, of_teacher = (student(name).to(where).eval() for name in ("vit", "cnn"))
        logits = predict_together(of_student, normalize, test.images, batch_size=32)
        embedding, target = (
            predict(model, normalize, np.asarray(test.images), batch_size=32).embedding
            for model in (of_student, of_teacher)
        )
        torch.manual_seed(0)
        after = decoupled(AAD(WIDTH, WIDTH), embedding)
        likeness = compare_layers(of_student, normalize, of_teacher, normalize, np.asarray(test.images))
        correlation = picture(after, target).matrix
        figures = [measure(logits, labels, logits, test.classes).nll, redundancy(embedding)["correlation_rms"]]
        values.append(np.array([*figures, *likeness["cka"], *np.ravel(correlation)]))
    apart = float(np.abs(values[0] - values[1]).max())
    if not apart <= 0.02:
        raise UserError(f"expected the CPU's figures of student and teacher within 0.02, found {apart:.3g}")
    return {"apart": apart}


def embedded(device: torch.device, folder: Path) -> dict[str, Any]:
    """The view store that is written on the device holds what one written on the CPU holds, up to rounding."""
    stores: list[np.ndarray] = []
    for where in (torch.device("cpu"), device):
        store = folder / f"store-{len(stores)}"
        write_store(
            store, student("cnn").to(where), PixelNormalize([0.5] * 3, [0.25] * 3).to(where), images(64, 0),
            augment=RECIPE.augment, options=ViewOptions(count=2, batch_size=32), made_from={},
            unfinished=folder / "unfinished",
        )  # fmt: skip
        stores.append(np.load(store / "embedding.npy", allow_pickle=False).astype(np.float32))
    apart = float(np.abs(stores[0] - stores[1]).max() / np.abs(stores[0]).max())
    if not apart <= 0.01:
        raise UserError(f"expected the embeddings that the CPU gives within 1 %, found {apart:.2%} of the largest")
    return {"apart": apart}


def rows_ahead(device: torch.device, folder: Path) -> dict[str, Any]:
    """Rows of a view store that are read ahead, for a GPU into pinned memory, are those of the file."""
    place = folder / "rows"
    place.mkdir()
    store = random_store(place, 4096, 768, 1000, device)
    store.loaded.clear()  # as if it were too large to be loaded
    view = np.zeros(256, np.int64)
    batches = list(np.random.default_rng(0).permutation(4096).reshape(-1, 256))
    store.prefetch(batches[0], view)
    if store.ahead[0].outputs.embedding.is_pinned() != (device.type == "cuda"):
        raise UserError("expected rows in pinned memory for a GPU alone, found the contrary")
    raw, answers = torch.empty(0), []
    for number, index in enumerate(batches):
        if number + 1 < len(batches):
            store.prefetch(batches[number + 1], view)
        answers.append(store(raw, index, view))  # a copy may still go on when its pinned memory is used again
    for index, answer in zip(batches, answers, strict=True):
        for name, values in answer._asdict().items():
            if not np.array_equal(values.cpu().numpy(), getattr(store, name)[view, index]):
                raise UserError(f"expected the {name} of the file, found others")
    return {}


def in_two_processes(device: torch.device, folder: Path) -> dict[str, Any]:
    """Two processes (NCCL on GPUs, gloo on a CPU) train the student that one process trains on the whole batch."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "benchmarks.gpu_training", str(folder), device.type]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise UserError(f"expected two processes to train, found: {process.stderr.strip()[-500:]}")
    weights = torch.load(folder / "two.pt", weights_only=True)
    alone = trained(options(device), name="vit").student
    apart = max(float((weights[key].cpu() - alone[key].cpu()).abs().max()) for key in alone)
    if not apart <= 1e-2:
        raise UserError(f"expected the weights of one process within 0.01, found {apart:.3g}")
    return {"apart": apart}


def main() -> None:
    """One of the two processes."""
    folder, device = Path(sys.argv[1]), sys.argv[2]
    result = trained(ComputeOptions.model_validate({"device": device, "processes": 2}), name="vit")
    if leads():
        torch.save(result.student, folder / "two.pt")
    leave()


if __name__ == "__main__":
    main()
