"""Images, or weights from elsewhere -> out/teacher/: the teacher's weights and record."""

import sys

import torch

from rsd.machine import unfinished
from rsd.machine.compute import ComputeOptions, set_up
from rsd.machine.launch import is_launcher, launch
from rsd.machine.node_stage import check_count
from rsd.machine.parallel import leads, leave
from rsd.methods.scratch import ScratchDistiller
from rsd.models.student import StudentOptions
from rsd.run.records import Validation
from rsd.sources.images import read_record, read_split
from rsd.teacher.base import TeacherOptions
from rsd.teacher.usual_pixels import check_pixels
from rsd.teacher.write import write_teacher
from rsd.training.loop import Data, Session, train, validate
from rsd.training.recipe import Recipe, make_criterion
from rsd.views.augment import ViewChoice
from stages import OUT, run


def main() -> None:
    options = OUT.section("teacher", TeacherOptions)
    compute = OUT.section("compute", ComputeOptions)
    check_count(compute)
    if options.trained and is_launcher(compute):
        inputs = [OUT.params, OUT.sources, OUT.dataset]
        inputs += [OUT.data / split for split in ("teacher", "train", "validation")]
        launch("stages.teacher", sys.argv[1:], compute, inputs)
        return
    data = read_record(OUT.data)
    OUT.check_batches(data)
    OUT.section("student", StudentOptions).start(data)  # a student that cannot be made: no teacher is trained in vain
    device = set_up(compute)
    torch.manual_seed(options.seed)
    start = options.start(data)
    model = start.model.to(device)
    normalize = start.preprocessing.module().to(device)
    validation = read_split(OUT.data, "validation")
    state, history = None, None
    if leads():
        source = "teacher.mean and teacher.std" if options.mean else start.stated_by
        print(f"teacher {options.name} is fed {start.preprocessing} (from {source})", flush=True)

    if options.trained:
        recipe = OUT.section("teacher_recipe", Recipe)
        state = unfinished.state_file(
            "teacher",
            {
                # With another `min_top1` a finished training is judged anew, not done anew.
                "options": options.model_dump(mode="json", exclude={"min_top1"}),
                "weights": start.weights,
                "preprocessing": start.preprocessing._asdict(),
                "recipe": recipe.model_dump(),
                "compute": compute.decisive(),
                "device": device.type,
                "data": data.model_dump(),
            },
        )
        session = Session(
            options.seed, ViewChoice(options.seed), compute=compute, state=state, logs=OUT.logs, name="teacher"
        )
        images = Data(read_split(OUT.data, "teacher"), validation, normalize)
        trained = train(ScratchDistiller(model, criterion=make_criterion(recipe)).to(device), images, recipe, session)
        model.load_state_dict(trained.student)
        history = trained.history

    fitted = options.fit(start, read_split(OUT.data, "train"), validation, workers=compute.workers)
    if fitted:
        measured, probe = fitted
        print(f"teacher {options.name}: {probe.stated}")
    else:
        scores = validate(model, normalize, validation, batch_size=256, workers=compute.workers)
        probe, measured = None, Validation(top1=scores["validation_top1"], loss=scores["validation_loss"])
        if not options.trained:
            check_pixels(model.eval(), start.preprocessing, options, data, validation)
    options.check_accuracy(measured.top1, validation.labels, start.preprocessing)
    if probe and probe.warning:
        print(f"warning: teacher {options.name}: {probe.warning}", file=sys.stderr)
    if leads():
        write_teacher(OUT, options, start, data, validation=measured, probe=probe, history=history, device=device.type)
        if state:
            unfinished.forget(state)
        print(f"teacher {options.name}: validation top-1 {measured.top1:.2f} %")
    leave()


if __name__ == "__main__":
    run(main)
