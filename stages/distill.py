"""Images and a teacher -> out/students/METHOD-SEED/: one student, its scaffold, its history and a look inside."""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rsd.machine import unfinished
from rsd.machine.compute import ComputeOptions, set_up
from rsd.machine.files import sha256, write_table, written_aside
from rsd.machine.launch import is_launcher, launch
from rsd.machine.node_stage import check_count
from rsd.machine.parallel import leads, leave
from rsd.methods import distiller
from rsd.methods.base import Distiller, Setting
from rsd.models.card import student_card
from rsd.models.features import stage_shapes
from rsd.models.folder import load_trained, save_trained, save_weights
from rsd.models.make import parameter_count
from rsd.models.outputs import embedding_width
from rsd.models.pixels import PixelNormalize
from rsd.models.predict import predict
from rsd.models.student import StudentOptions, StudentStart
from rsd.run.names import CARD, HEADER, HISTORY, SCAFFOLD, WEIGHTS
from rsd.run.records import InsideRecord, StudentRecord
from rsd.sources.images import DatasetRecord, read_record, read_split, sample
from rsd.teacher.store import LiveTeacher, StoredTeacher, ViewOptions, store_digests
from rsd.training.loop import Data, Session, Teacher, Trained, train
from rsd.training.recipe import Recipe, make_criterion
from rsd.views.augment import ViewChoice
from stages import OUT, run

MOST_IMAGES = 512  # validation images that a look inside takes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method")
    parser.add_argument("seed", type=int)
    arguments = parser.parse_args()
    method, seed = arguments.method, arguments.seed
    name = f"{method}-{seed}"
    compute = OUT.section("compute", ComputeOptions)
    check_count(compute)
    if is_launcher(compute):
        inputs = [OUT.params, OUT.sources, OUT.dataset, OUT.data / "train", OUT.data / "validation", OUT.teacher_folder]
        # Of a view store its header, which holds the digests of what it was made from: to read all of it takes long.
        launch("stages.distill", sys.argv[1:], compute, [*inputs, OUT.views / HEADER])
        return

    data = read_record(OUT.data)
    recipe = OUT.section("recipe", Recipe)
    student_options = OUT.section("student", StudentOptions)
    distiller_class = distiller(method)
    options = OUT.section(f"method/{method}", distiller_class.Options)
    device = set_up(compute)

    torch.manual_seed(seed)  # twins of one seed start from the same student
    start = student_options.start(data)
    student, fed = start.model, start.preprocessing
    setting = Setting(image_shape=data.image_shape, image_count=data.counts["train"])
    teacher, views, teacher_digests = None, ViewChoice(seed), None
    if distiller_class.needs:
        distiller_class.check_views(OUT.section("views", ViewOptions).count)
        staged = "stages" in distiller_class.needs
        teacher, setting, views, teacher_digests = _teacher(seed, recipe, device, setting, staged=staged)
    task = distiller_class(student, setting, options, make_criterion(recipe)).to(device)
    advice = task.advice(batch_size=recipe.batch_size, classes=len(data.classes))
    if leads():
        if start.weights:
            print(f"{name} starts from {start.weights} and is fed {fed} (from {start.stated_by})", flush=True)
        for sentence in advice:
            print(f"warning: {name}: {sentence}", file=sys.stderr)

    record: dict[str, object] = {
        "method": method,
        "seed": seed,
        "model": student_options.model.model_dump(),
        "start": start.weights and start.weights.model_dump(),
        "options": options.model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json"),
        "compute": compute.decisive(),
        "device": device.type,
        "views": views.cycle,
        "classes": data.classes,
        "height": data.height,
        "width": data.width,
        "mean": fed.mean,
        "std": fed.std,
    }
    state = unfinished.state_file(name, {"record": record, "data": data.model_dump(), "teacher": teacher_digests})
    train_split, validation = read_split(OUT.data, "train"), read_split(OUT.data, "validation")
    normalize = fed.module().to(device)
    session = Session(seed, views, teacher, compute, state, logs=OUT.logs, name=name)
    glance = sample(validation.images, MOST_IMAGES)
    before = student_side(task, normalize, glance) if leads() else None
    trained = train(task, Data(train_split, validation, normalize), recipe, session)
    if leads():
        made_from = _made_from(method, watched=bool(student_options.watched), taught=bool(teacher_digests))
        record |= _outcome(task, trained) | {"warnings": advice, "made_from": made_from}
        look = inside(name, task, trained, before, normalize, glance)
        OUT.write(look)
        record["inside_sha256"] = sha256(look.file)
        write(OUT.student_folder(name), start, trained, data, record)
        unfinished.forget(state)
    leave()


def _outcome(task: Distiller, trained: Trained) -> dict[str, object]:
    """What the record says after training."""
    student, selected = task.get_eval_model(), trained.selected
    return {
        "parameters": parameter_count(student),
        "extra_parameters": task.extra_parameters,
        "embedding_width": embedding_width(student),
        "effective_batch_size": trained.batch_size,
        "steps": trained.steps,
        "validation": {
            "top1": selected["validation_top1"],
            "loss": selected["validation_loss"],
            "epoch": int(selected["epoch"]),
        },
        "versions": unfinished.software_versions(),
    }


def _made_from(method: str, *, watched: bool, taught: bool) -> dict[str, str]:
    """Digests of the files that the student was made from; `watched`: its weights lie outside the project."""
    inputs = [OUT.section_file(part) for part in (f"method/{method}", "recipe", "student")]
    inputs += [OUT.dataset]
    inputs += [OUT.sources_file("student")] if watched else []
    inputs += [OUT.section_file("views"), OUT.teacher_folder / WEIGHTS] if taught else []
    return OUT.digests(*inputs)


@torch.no_grad()
def student_side(task: Distiller, normalize: PixelNormalize, images: np.ndarray) -> Tensor | None:
    """The student's side of what the method compares, for these images and the present weights."""
    return task.student_side(predict(task.get_eval_model(), normalize, images, batch_size=256)) if task.needs else None


def inside(
    name: str, task: Distiller, trained: Trained, before: Tensor | None, normalize: PixelNormalize, images: np.ndarray
) -> InsideRecord:
    """The method's picture of these images before training and with the selected weights; or why there is none."""
    if before is None:
        return InsideRecord(student=name, skipped=f"the method '{task.method}' offers nothing to look at")
    task.get_eval_model().load_state_dict(trained.student)
    task.load_scaffold(trained.scaffold)
    after = student_side(task, normalize, images)
    assert after is not None  # as before training
    teacher, of_teacher, _ = load_trained(OUT.teacher_folder)
    answers = predict(teacher.to(task.device), of_teacher.to(task.device), images, batch_size=256)
    return InsideRecord(student=name, correlation=task.inside(before, after, answers))


def write(folder: Path, start: StudentStart, trained: Trained, data: DatasetRecord, record: dict[str, object]) -> None:
    """The student, what was trained beside it, the history, the model card, and last the record."""
    fed = start.preprocessing
    save_trained(folder, start.model, trained.student, data, mean=fed.mean, std=fed.std)
    # For resuming research, not for shipping: nothing downstream of evaluation reads it.
    save_weights(trained.scaffold, folder / SCAFFOLD)
    write_table(folder / HISTORY, trained.history)
    whole = StudentRecord.model_validate(record | {"weights_sha256": sha256(folder / WEIGHTS)})
    with written_aside(folder / CARD) as aside:
        aside.write_text(str(student_card(whole, OUT.teacher(), data)))
    OUT.write(whole)


def _teacher(
    seed: int, recipe: Recipe, device: torch.device, setting: Setting, *, staged: bool
) -> tuple[Teacher, Setting, ViewChoice, dict[str, str]]:
    """The teacher, stored or live, the setting with it, the views it answers, and digests of what it was made from."""
    options = OUT.section("views", ViewOptions)
    weights = OUT.teacher_folder / WEIGHTS
    if options.count:
        made_from = store_digests(teacher=weights, dataset=OUT.dataset, augment=recipe.augment, options=options)
        stored = StoredTeacher(OUT.views, made_from=made_from, device=device)
        setting = setting._replace(teacher_width=stored.embedding.shape[2])
        return stored, setting, ViewChoice(options.seed, options.count), made_from
    model, normalize, config = load_trained(OUT.teacher_folder)
    shapes = stage_shapes(model, config.image_shape) if staged else None
    live = LiveTeacher(model.to(device), normalize.to(device), staged=staged)
    setting = setting._replace(teacher_width=embedding_width(model), teacher_stages=shapes)
    return live, setting, ViewChoice(seed), {"teacher": sha256(weights)}


if __name__ == "__main__":
    run(main)
