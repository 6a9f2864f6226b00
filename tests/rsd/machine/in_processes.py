"""What each of several processes runs for the tests of `rsd.machine.parallel`, and how it is started."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch

from rsd.machine.compute import ComputeOptions
from rsd.machine.parallel import own_share, wait
from rsd.methods import distiller
from rsd.methods.base import Setting
from rsd.models.outputs import Outputs
from rsd.models.pixels import PixelNormalize
from rsd.models.predict import predict_together
from rsd.sources.images import LabelledImages
from rsd.teacher import embed
from rsd.training.loop import Data, Session, train
from rsd.training.recipe import Recipe
from rsd.training.stepper import Stepper
from rsd.views.augment import AugmentOptions, ViewChoice
from tests.rsd.methods.tiny import BATCH, CLASSES, IMAGES, SHAPE, images, target, teacher_outputs, vit
from tests.rsd.teacher import test_embed

PROCESSES, MORE = 2, 3


def task_of(method, width=20, **options):
    task_class = distiller(method)
    task = task_class(
        vit(class_token=False, global_pool="avg"),
        Setting(teacher_width=width, image_shape=SHAPE, image_count=IMAGES),
        task_class.Options(**options),
    )
    with torch.no_grad():  # layers at their starting values hardly pass a gradient on
        for number, parameter in enumerate(task.trainable_module.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(0.1 * noise)
    return task.double()


def gradients(task, share):
    """Of every parameter, after one step on `share` of the batch, in float64."""
    teacher = Outputs(teacher_outputs().embedding[share].double(), teacher_outputs().logits[share].double())
    task(images()[share].double(), target()[share], teacher)["loss"].backward()
    return {
        name.removeprefix("module."): p.grad.clone()
        for name, p in task.trainable_module.named_parameters()
        if p.grad is not None
    }


WIDE, STEPS = 40, 20  # the Gram form is for more than twice the batch of 12
EQUAL = {
    "rsd, Gram form": ("rsd", WIDE, {"weight": 1.0}),
    "rsd, D x D form": ("rsd", 20, {"weight": 1.0, "space": "both"}),
    "rkd": ("rkd", 20, {}),
    "dist": ("dist", 20, {}),
    "cc": ("cc", 20, {"weight": 10.0}),
    "kd": ("kd", 20, {}),
    "ofa": ("ofa", 20, {"loss": "rsd"}),
    "scratch": ("scratch", 20, {}),
}
"""What two processes must do as one does, by name: method, width of the teacher, options."""


def many_steps(method, width, options, *, dtype=torch.float64, steps=STEPS):
    """The weights after some steps of SGD on this process's share, and the gradients of the first step.

    The weights decay, but for those that the student exempts, such as its `pos_embed`.
    """
    task = task_of(method, width, **options).to(dtype).train()
    recipe = Recipe(
        epochs=9, batch_size=BATCH, optimizer="sgd", learning_rate=0.01, clip_gradient=5.0, weight_decay=0.5
    )
    share = own_share(BATCH)
    wide = torch.randn(BATCH, width, generator=torch.Generator().manual_seed(3)).to(dtype)

    def teacher(raw, index, view):
        return Outputs(wide[index], teacher_outputs().logits[index].to(dtype))

    stepper = Stepper(
        task, recipe, ComputeOptions(), normalize=lambda raw: images()[share].to(dtype),  # type: ignore[arg-type]
        teacher=teacher, steps_per_epoch=10,
    )  # fmt: skip
    first = {}
    for number in range(steps):
        index = torch.arange(BATCH)[share].numpy()
        stepper.step(torch.zeros(len(index)), target()[share], index, index, number=number)
        if not number:
            named = task.trainable_module.named_parameters()
            first = {name.removeprefix("module."): p.grad.clone() for name, p in named if p.grad is not None}
    return {
        "weights": {name.removeprefix("module."): p.detach() for name, p in task.trainable_module.named_parameters()},
        "gradients": first,
    }


def trained(state=None, batch_size=8, random_states=None):
    """A whole training in float32, with dropout, an average of the weights and a checkpoint at each step.

    `random_states`, a list, gets torch's random state at each step, before the student's dropout.
    """
    generator = torch.Generator().manual_seed(8)
    pixels = torch.randint(0, 256, (IMAGES, *SHAPE), dtype=torch.uint8, generator=generator).numpy()
    labelled = LabelledImages(pixels, (torch.arange(IMAGES) % CLASSES).numpy(), [str(n) for n in range(CLASSES)])
    torch.manual_seed(1)
    crd = distiller("crd")
    options = crd.Options.model_validate({"negatives": 16, "width": 8})
    task = crd(vit(drop_rate=0.1), Setting(teacher_width=20, image_count=IMAGES), options)
    outputs = teacher_outputs()  # once: it seeds torch, so that every step would draw the same dropout

    def teacher(raw, index, view):
        if random_states is not None:
            random_states.append(torch.get_rng_state())
        return Outputs(outputs.embedding[index % BATCH], outputs.logits[index % BATCH])

    recipe = Recipe(epochs=2, batch_size=batch_size, optimizer="adamw", learning_rate=1e-3, ema_decay=0.5)
    data = Data(labelled, labelled, PixelNormalize([0.5], [0.25]))
    done = train(task, data, recipe, Session(0, ViewChoice(0), teacher, state=state, save_seconds=0))
    return {"student": done.student, "scaffold": done.scaffold, "history": done.history}


CASES = {
    "rsd": ("rsd", {"space": "both", "weight": 1.0}),
    "rsd per process": ("rsd", {"weight": 1.0, "correlation": "per_process"}),
    "ofa with rsd": ("ofa", {"loss": "rsd", "rsd_weight": 1.0}),
}
SIZE = BATCH // PROCESSES


def join(rank, store, processes):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)


def work(rank, store, out):
    """What each process of the test runs."""
    join(rank, store, PROCESSES)
    share = slice(rank * SIZE, (rank + 1) * SIZE)
    results = {
        name: gradients(task_of(m, **options).prepare_distributed(), share) for name, (m, options) in CASES.items()
    }
    equal = {name: many_steps(*case) for name, case in EQUAL.items()}
    single = {name: many_steps(*EQUAL[name], dtype=torch.float32, steps=1) for name in SINGLE}
    random_states: list[torch.Tensor] = []
    whole = trained(random_states=random_states)
    first = train_and_die(Path(out) / "checkpoint.pt")
    torch.manual_seed(rank + 50)
    resumed = trained(Path(out) / "checkpoint.pt")
    torch.save(
        {
            "cases": results,
            "equal": equal,
            "single": single,
            "trained": [whole, resumed],
            "died": first,
            "random_states": random_states,
            "embedded": embedded(Path(out), rank),
            "predicted": predicted(),
        },
        f"{out}/{rank}.pt",
    )
    torch.distributed.destroy_process_group()


SINGLE = ("rsd, Gram form", "rsd, D x D form", "rkd", "dist")


def resume_in_more(rank, store, out):
    """What each of several processes runs that only train, die and resume."""
    join(rank, store, MORE)
    whole = trained(batch_size=2 * MORE)
    died = train_and_die(Path(out) / "checkpoint.pt", batch_size=2 * MORE)
    torch.manual_seed(rank + 50)
    resumed = trained(Path(out) / "checkpoint.pt", batch_size=2 * MORE)
    torch.save({"trained": [whole, resumed], "died": died}, f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


def train_and_die(state, **options):
    """A training that ends with an error in all processes after some steps; whether it did."""
    real, count = Stepper.step, iter(range(100))

    def step(self, *arguments, **options):
        if next(count) == 7:
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    Stepper.step = step  # type: ignore[method-assign]
    try:
        trained(state, **options)
        return False
    except KeyboardInterrupt:
        return True
    finally:
        Stepper.step = real  # type: ignore[method-assign]


def wait_for_a_slow_one_and_for_a_dead_one(rank, store, out):
    """What each of two processes runs, of which the second is slow, and then dies."""
    join(rank, store, PROCESSES)
    wait(patiently=True)
    # Only now, so that a busy machine is no reason to fail.
    torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=1))
    if rank == 1:
        time.sleep(3)
    wait(patiently=True)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        wait(patiently=True)
    except RuntimeError:
        Path(out, "noticed").touch()


MIXED = AugmentOptions(flip=True, mixup=0.8)


def embedded(out, rank):
    """Stores written in one go, by a run that died and one that went on; how many batches this process asked for."""
    for name in ("whole", "resumed", "left"):
        (out / name).mkdir(exist_ok=True)
    test_embed.write(out / "whole", augment=MIXED)
    for name in ("resumed", "left"):
        embed_and_die(out / name, after=1 + 2 * rank)
    watched, calls = test_embed.teacher(), []
    watched.conv1.register_forward_hook(lambda *_: calls.append(1))
    test_embed.write(out / "resumed", model=watched, augment=MIXED)
    return len(calls)


def embed_and_die(folder, *, after):
    real, count = embed.outputs, iter(range(100))

    def teacher_outputs(*arguments):
        if next(count) == after:
            raise KeyboardInterrupt
        return real(*arguments)

    embed.outputs = teacher_outputs
    try:
        test_embed.write(folder, augment=MIXED, save_seconds=0)
    except KeyboardInterrupt:
        pass
    finally:
        embed.outputs = real


def predicted():
    """Logits of all images in batches that are many, one too few for each process, and of 1 image at the end."""
    pixels = test_embed.PIXELS
    return [
        predict_together(test_embed.teacher(), test_embed.NORMALIZE, pixels, batch_size=size, workers=workers)
        for size, workers in ((2, 0), (64, 0), (3, 1))
    ]


def end_together(name, processes, folder):
    """How some processes end that run a function of this module."""
    program = f"import sys; from tests.rsd.machine.in_processes import {name}; {name}(int(sys.argv[1]), *sys.argv[2:])"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(rank), str(folder / "store"), str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for rank in range(processes)
    ]
    try:
        return [process.wait(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()


def together(name, processes, folder):
    """What each of some processes found that ran a function of this module."""
    assert end_together(name, processes, folder) == [0] * processes
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(processes)]
