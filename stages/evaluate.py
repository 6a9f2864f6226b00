"""Teacher, students and the test split -> out/evaluate/. Gates of later stages read test labels, too; none chooses."""

from pathlib import Path

import pandas as pd
import torch
from torch import nn

from rsd.evaluation.accuracy import calibration, measure, summary
from rsd.evaluation.cka import compare_layers
from rsd.evaluation.redundancy import redundancy
from rsd.machine.compute import ComputeOptions, on_this_machine, set_up
from rsd.machine.errors import UserError
from rsd.machine.files import written_aside
from rsd.machine.launch import is_launcher, launch
from rsd.machine.parallel import leads, leave
from rsd.models.folder import load_trained
from rsd.models.make import parameter_count
from rsd.models.pixels import PixelNormalize
from rsd.models.predict import predict, predict_together
from rsd.run.names import CALIBRATION, CONFUSION, CURVES, HISTORY, LIKENESS
from rsd.run.records import Evaluation, EvaluationRecord, ShownRecord, StudentIndex
from rsd.sources.images import LabelledImages, read_split, sample
from stages import OUT, run

MOST_IMAGES = 512  # a look inside takes no more images than this, drawn by a fixed seed
MOST_EMBEDDED = 2048  # and this many for the rank of an embedding, which cannot be higher


def main() -> None:
    compute = on_this_machine(OUT.section("compute", ComputeOptions))
    if is_launcher(compute):
        launch("stages.evaluate", [], compute)
        return
    index, shipped = OUT.index(), OUT.shipped()
    device = set_up(compute)
    test = read_split(OUT.data, "test")
    labels = torch.from_numpy(test.labels)
    models: list[tuple[str, int | None, Path]] = [("teacher", None, OUT.teacher_folder)]
    models += [(one.method, one.seed, OUT.student_folder(one.name)) for one in index.students]
    digests = {one.name: one.weights_sha256 for one in index.students} | {"teacher": OUT.teacher().weights_sha256}
    rows: list[Evaluation] = []
    curves, bins, confusion = [], [], {}
    teacher_logits, leader, inside = None, leads(), sample(test.images, MOST_EMBEDDED)
    for method, seed, folder in models:
        model, normalize = _loaded(folder, device)
        logits = predict_together(model, normalize, test.images, batch_size=256, workers=compute.workers)
        if not leader:
            continue
        teacher_logits = logits if teacher_logits is None else teacher_logits  # the teacher comes first
        names = {"model": folder.name, "method": method, "seed": seed}
        measured = measure(logits, labels, teacher_logits, test.classes)
        embedding = predict(model, normalize, inside, batch_size=256).embedding
        rows.append(
            Evaluation(
                **names,
                parameters=parameter_count(model),
                weights_sha256=digests[folder.name],
                **measured.model_dump(),
                **redundancy(embedding),
            )
        )
        bins.append(calibration(logits, labels).assign(**names))
        answers = {"actual": labels, "predicted": logits.argmax(1)}
        confusion[folder.name] = pd.DataFrame(
            {name: [test.classes[i] for i in numbers.tolist()] for name, numbers in answers.items()}
        )
        if (folder / HISTORY).is_file():
            curves.append(pd.read_csv(folder / HISTORY).assign(**names))
    leave()  # the rest is little work on few images
    if not leader:
        return

    record = EvaluationRecord(models=rows)
    likeness = _likeness(["scratch", shipped.student.method], index, test, device)
    with written_aside(OUT.evaluation_folder) as aside:
        for written in (record, summary(record), _shown(index)):
            written.write(aside)
        pd.concat(curves).to_csv(aside / CURVES, index=False)
        pd.concat(bins).to_csv(aside / CALIBRATION, index=False)
        likeness.to_csv(aside / LIKENESS, index=False, float_format="%.6f")
        (aside / CONFUSION).mkdir()
        for name, frame in confusion.items():
            frame.to_csv(aside / CONFUSION / f"{name}.csv", index=False)
    table = pd.DataFrame([row.model_dump() for row in rows])[["model", "top1", "nll", "ece", "agreement"]]
    print(table.to_string(index=False))


def _likeness(methods: list[str], index: StudentIndex, test: LabelledImages, device: torch.device) -> pd.DataFrame:
    """CKA of these methods' students of the first seed with the teacher; a sentence where it cannot be had."""
    columns = ["student", "method", "student_layer", "teacher_layer", "cka"]
    tables, images = [pd.DataFrame(columns=columns)], sample(test.images, MOST_IMAGES)
    teacher, of_teacher = _loaded(OUT.teacher_folder, device)
    for method in dict.fromkeys(methods):
        name = next(one.name for one in index.students if one.method == method)
        student, of_student = _loaded(OUT.student_folder(name), device)
        try:
            table = compare_layers(student, of_student, teacher, of_teacher, images)
        except UserError as error:
            print(f"no layers of {name} are compared with the teacher's: {error}")
            continue
        tables.append(table.assign(student=name, method=method)[columns])
    return pd.concat(tables[1:] or tables)


def _shown(index: StudentIndex) -> ShownRecord:
    """What the first student whose method offers a look inside shows; or why none does."""
    for name in (student.name for student in index.students):
        if correlation := OUT.inside(name).correlation:
            return ShownRecord(student=name, correlation=correlation)
    return ShownRecord(student=name, skipped="no method of this run offers a look inside its student")


def _loaded(folder: Path, device: torch.device) -> tuple[nn.Module, PixelNormalize]:
    model, normalize, _ = load_trained(folder)
    return model.to(device), normalize.to(device)


if __name__ == "__main__":
    run(main)
