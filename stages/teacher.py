"""Images, or weights from elsewhere -> out/teacher/: the teacher's weights and record."""

import json
import sys
from typing import Any

import torch

from rsd.machine import unfinished
from rsd.machine.compute import ComputeOptions, set_up
from rsd.machine.files import sha256, write_json, write_table, written_aside
from rsd.machine.launch import is_launcher, launch
from rsd.machine.parallel import leads, leave
from rsd.methods.scratch import ScratchDistiller
from rsd.models.folder import save_trained
from rsd.models.make import parameter_count
from rsd.models.outputs import embedding_width
from rsd.models.pixels import PixelNormalize
from rsd.run.paths import Run
from rsd.run.records import TeacherRecord
from rsd.sources.images import read_record, read_split
from rsd.teacher.origin import TRAINED, TeacherOptions, check_accuracy, teacher
from rsd.training.loop import Data, Session, train, validate
from rsd.training.recipe import Recipe, make_criterion
from rsd.views.augment import ViewChoice
from stages import OUT, run, section


def main() -> None:
    options = section("teacher", TeacherOptions)
    compute = section("compute", ComputeOptions)
    if options.source in TRAINED and is_launcher(compute):
        launch("stages.teacher", sys.argv[1:], compute)
        return
    data = read_record(OUT / "data")
    device = set_up(compute)
    torch.manual_seed(options.seed)
    start = teacher(options, data)
    model = start.model.to(device)
    preprocessing: dict[str, Any] = {"mean": start.mean, "std": start.std, "input_size": start.input_size}
    normalize = PixelNormalize(start.mean, start.std, size=start.input_size).to(device)
    validation = read_split(OUT / "data", "validation")
    state, history = None, None

    if options.source in TRAINED:
        recipe = section("teacher_recipe", Recipe)
        state = unfinished.state_file(
            "teacher",
            {
                # A finished training is judged anew by another `min_top1`, not done anew.
                "options": options.model_dump(mode="json", exclude={"min_top1"}),
                "weights": start.weights,
                "preprocessing": preprocessing,
                "recipe": recipe.model_dump(),
                "compute": compute.decisive(),
                "device": device.type,
                "data": data.model_dump(),
            },
        )
        trained = train(
            ScratchDistiller(model, criterion=make_criterion(recipe)).to(device),
            Data(read_split(OUT / "data", "train"), validation, normalize),
            recipe,
            Session(
                options.seed,
                ViewChoice(options.seed),
                compute=compute,
                state=state,
                logs=OUT / "logs",
                name="teacher",
            ),
        )
        model.load_state_dict(trained.student)
        history = trained.history

    measured = validate(model, normalize, validation, batch_size=256, workers=compute.workers)
    check_accuracy(measured["validation_top1"], options)
    if not leads():
        leave()
        return
    with written_aside(OUT / "teacher") as aside:
        # With this in it the file's digest tells teachers apart that differ in nothing else. In one entry: several
        # come in any order.
        made_as = {"model": options.model.model_dump(), "classes": data.classes, **preprocessing}
        metadata = {"teacher": json.dumps(made_as, sort_keys=True)}
        save_trained(aside, model, model.state_dict(), data, **preprocessing, metadata=metadata)
        if history is not None:
            write_table(aside / "history.csv", history)
        record = TeacherRecord.model_validate(
            {
                "model": options.model.model_dump(),
                "source": options.source,
                "seed": options.seed,
                "parameters": parameter_count(model),
                "embedding_width": embedding_width(model),
                "classes": data.classes,
                "height": data.height,
                "width": data.width,
                **preprocessing,
                "origin": start.weights,
                "weights_sha256": sha256(aside / "model.safetensors"),
                "made_from": Run(OUT).digests("params/teacher.json", "data/dataset.json"),
                "validation": {"top1": measured["validation_top1"], "loss": measured["validation_loss"]},
                "device": device.type,
                "versions": unfinished.software_versions(),
            }
        )
        write_json(aside / record.place.rpartition("/")[2], record.model_dump(mode="json"))
    if state:
        unfinished.forget(state)
    leave()
    print(f"teacher {options.name}: validation top-1 {measured['validation_top1']:.2f} %")


if __name__ == "__main__":
    run(main)
