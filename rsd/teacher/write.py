"""The teacher's folder: its weights, its record, and the history of its training."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from rsd.machine.files import sha256, write_table, written_aside
from rsd.machine.unfinished import software_versions
from rsd.models.folder import save_trained
from rsd.models.make import parameter_count
from rsd.models.outputs import embedding_width
from rsd.run.names import HISTORY, WEIGHTS
from rsd.run.paths import Run
from rsd.run.records import Model, ProbeRecord, TeacherRecord, Validation
from rsd.sources.images import DatasetRecord
from rsd.teacher.base import Start, TeacherOptions


def write_teacher(
    run: Run,
    options: TeacherOptions,
    teacher: Start,
    data: DatasetRecord,
    *,
    validation: Validation,
    probe: ProbeRecord | None,
    history: Sequence[Mapping[str, float]] | None,
    device: str,
) -> TeacherRecord:
    """Write a teacher's final weights, timm's `config.json`, `model.json` and, if trained here, `history.csv`."""
    model, fed = teacher.model, teacher.preprocessing
    pixels = {"mean": fed.mean, "std": fed.std, "input_size": fed.input_size}
    name = options.model.model_dump()
    with written_aside(run.teacher_folder) as aside:
        # This metadata makes the digests of two teachers differ that have the same weights but, say, another
        # normalisation. It is one entry, because safetensors writes several in any order.
        metadata = {"model": name, "classes": data.classes, **(fed._asdict() if fed.input_size else pixels)}
        text = {"teacher": json.dumps(metadata, sort_keys=True)}
        save_trained(aside, model, model.state_dict(), data, **fed._asdict(), metadata=text)
        if history is not None:
            write_table(aside / HISTORY, history)
        record = TeacherRecord(
            model=Model.model_validate(name),
            source=options.source,
            seed=options.seed,
            parameters=parameter_count(model),
            embedding_width=embedding_width(model),
            classes=data.classes,
            height=data.height,
            width=data.width,
            **pixels,
            origin=teacher.weights,
            learned_from=data.teacher_images if options.trained else None,
            weights_sha256=sha256(aside / WEIGHTS),
            made_from=run.digests(run.section_file("teacher"), run.section_file("teacher_recipe"), run.dataset),
            validation=validation,
            probe=probe,
            device=device,
            versions=software_versions() | ({"scikit-learn": version("scikit-learn")} if probe else {}),
        )
        record.write(aside)
    return record
