"""Teacher, students and the test split -> out/evaluate/. The one stage that reads test labels to judge accuracy."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from rsd.evaluation.accuracy import calibration, measure, summary
from rsd.evaluation.cka import compare_layers
from rsd.evaluation.correlation import decoupled, describe, read_aad, redundancy, untrained_like
from rsd.machine.compute import ComputeOptions, on_this_machine, set_up
from rsd.machine.errors import UserError
from rsd.machine.files import read_json, write_json, written_aside
from rsd.machine.launch import is_launcher, launch
from rsd.machine.parallel import leads, leave
from rsd.models.predict import predict_together
from rsd.models.timm_model import ModelOptions, PixelNormalize, create, input_shape, load_trained, normalizer, predict
from rsd.sources.images import Images, LabelledImages, read_split
from stages import OUT, run, section

LOOKED_INTO = ("scratch", "rsd")
"""The methods whose student of the first seed is compared with the teacher layer by layer."""
MOST_IMAGES = 512
"""A look inside takes no more images than this, drawn by a fixed seed."""
MOST_EMBEDDED = 2048
"""And this many for the rank of an embedding, which cannot be higher."""


def main() -> None:
    chosen = read_json(OUT / "params" / "run.json")
    compute = on_this_machine(section("compute", ComputeOptions))
    if is_launcher(compute):
        launch("stages.evaluate", [], compute)
        return
    device = set_up(compute)
    test = read_split(OUT / "data", "test")
    labels = torch.from_numpy(test.labels)
    models = [("teacher", OUT / "teacher", "model", None)] + [
        (method, OUT / "students" / f"{method}-{seed}", "student", seed)
        for method in chosen["methods"]
        for seed in chosen["seeds"]
    ]
    records: list[dict[str, Any]] = []
    curves, bins, confusion = [], [], {}
    teacher_logits, leader, inside = None, leads(), _some(test.images, MOST_EMBEDDED)
    for method, folder, kind, seed in models:
        model, trained = load_trained(folder, kind)
        normalize = normalizer(trained).to(device)
        logits = predict_together(model.to(device), normalize, test.images, batch_size=256, workers=compute.workers)
        if not leader:
            continue
        teacher_logits = logits if teacher_logits is None else teacher_logits  # the teacher comes first
        names = {"model": folder.name, "method": method, "seed": seed}
        measured = measure(logits, labels, teacher_logits, test.classes)
        told = predict(model, normalize, inside, batch_size=256)
        records.append({**names, "parameters": trained["parameters"], **measured, **redundancy(told.embedding)})
        bins.append(calibration(logits, labels).assign(**names))
        confusion[folder.name] = pd.DataFrame(
            {
                "actual": [test.classes[i] for i in labels.tolist()],
                "predicted": [test.classes[i] for i in logits.argmax(1).tolist()],
            }
        )
        if (folder / "history.csv").is_file():
            curves.append(pd.read_csv(folder / "history.csv").assign(**names))
    leave()  # the rest is little work on few images
    if not leader:
        return

    likeness = _likeness(chosen, test, device)
    correlation = _correlation(chosen, read_split(OUT / "data", "validation"), device)
    with written_aside(OUT / "evaluate") as aside:
        write_json(aside / "metrics.json", summary(records))
        write_json(aside / "models.json", records)
        pd.concat(curves).to_csv(aside / "curves.csv", index=False)
        pd.concat(bins).to_csv(aside / "calibration.csv", index=False)
        likeness.to_csv(aside / "cka.csv", index=False, float_format="%.6f")
        write_json(aside / "correlation.json", correlation)
        (aside / "confusion").mkdir()
        for name, frame in confusion.items():
            frame.to_csv(aside / "confusion" / f"{name}.csv", index=False)
    print(pd.DataFrame(records)[["model", "top1", "nll", "ece", "agreement"]].to_string(index=False))


def _likeness(chosen: dict[str, Any], test: LabelledImages, device: torch.device) -> pd.DataFrame:
    """CKA of the first seed's students with the teacher; no rows, and a sentence, where it cannot be had."""
    columns = ["student", "method", "student_layer", "teacher_layer", "cka"]
    tables, images = [pd.DataFrame(columns=columns)], _some(test.images)
    teacher, of_teacher = _loaded(OUT / "teacher", "model", device)
    for method in (name for name in LOOKED_INTO if name in chosen["methods"]):
        name = f"{method}-{chosen['seeds'][0]}"
        student, of_student = _loaded(OUT / "students" / name, "student", device)
        try:
            table = compare_layers(student, of_student, teacher, of_teacher, images)
        except UserError as error:
            print(f"no layers of {name} are compared with the teacher's: {error}")
            continue
        tables.append(table.assign(student=name, method=method)[columns])
    return pd.concat(tables[1:] or tables)


def _correlation(chosen: dict[str, Any], validation: LabelledImages, device: torch.device) -> dict[str, Any]:
    """P of the first seed's RSD student before and after training, on validation images; or why there is none."""
    if "rsd" not in chosen["methods"]:
        return {"skipped": "no RSD student was trained in this run"}
    seed = chosen["seeds"][0]
    folder = OUT / "students" / f"rsd-{seed}"
    aad = read_aad(folder / "scaffold.safetensors")
    if aad is None:
        return {"skipped": f"the student {folder.name} was trained without an AAD on its embedding"}
    images = _some(validation.images)

    def embedding(model: nn.Module, normalize: PixelNormalize) -> Tensor:
        return predict(model, normalize, images, batch_size=256).embedding

    of_teacher = embedding(*_loaded(OUT / "teacher", "model", device))
    after = decoupled(aad, embedding(*_loaded(folder, "student", device)))
    if after.shape != of_teacher.shape:
        return {"skipped": f"the AAD of {folder.name} does not lead to the teacher's embedding"}
    record = read_json(folder / "student.json")
    torch.manual_seed(seed)  # student, then AAD: the order in which `distill` draws them
    fresh = create(
        ModelOptions.model_validate(record["model"]),
        classes=len(record["classes"]),
        image_shape=input_shape(record),
    )
    untrained = untrained_like(aad)
    before = decoupled(untrained, embedding(fresh.to(device), normalizer(record).to(device)))
    return {"student": folder.name, **describe(before, after, of_teacher)}


def _loaded(folder: Path, kind: str, device: torch.device) -> tuple[nn.Module, PixelNormalize]:
    model, record = load_trained(folder, kind)
    return model.to(device), normalizer(record).to(device)


def _some(images: Images, most: int = MOST_IMAGES) -> np.ndarray:
    """At most so many, in an order that mixes the classes."""
    return images[np.random.default_rng(0).permutation(len(images))[:most]]


if __name__ == "__main__":
    run(main)
