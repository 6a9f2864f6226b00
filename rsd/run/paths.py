"""A run's folder: where each thing lies in it, and its records. No other module spells a path below it."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, JsonValue

from rsd.machine.errors import UserError
from rsd.machine.faults import read_checked
from rsd.machine.files import read_json, sha256, write_json, written_aside
from rsd.run.names import LOGITS
from rsd.run.records import (
    BundleRecord,
    Choice,
    ConvertRecord,
    DatasetRecord,
    DeviceRecord,
    EngineRecord,
    EvaluationRecord,
    ExportRecord,
    InsideRecord,
    LatencyRecord,
    Record,
    ShippedRecord,
    ShownRecord,
    StudentIndex,
    StudentRecord,
    TeacherRecord,
    Written,
)

Kind = TypeVar("Kind", bound=BaseModel)


class MissingError(UserError):
    """A record that is not there: its stage has not run."""


class Run:
    """The folder that `dvc repro` fills; `out` unless someone looks at another copy.

    Every reader raises UserError where its record is missing, damaged, or of another version of the project; the
    sentence names the stage that writes it anew.
    """

    def __init__(self, folder: Path | str = "out") -> None:
        self.folder = Path(folder)
        self.device_file = self.folder / "device.json"
        self.params = self.folder / "params"
        self.sources = self.folder / "sources"
        self.data = self.folder / "data"
        self.dataset = self.data / "dataset.json"
        self.teacher_folder = self.folder / "teacher"
        self.views = self.folder / "views"
        self.students = self.folder / "students"
        self.evaluation_folder = self.folder / "evaluate"
        self.evaluation_file = self.evaluation_folder / "models.json"
        self.export_folder = self.folder / "export"
        self.benchmark_folder = self.folder / "benchmark"
        self.bundle = self.folder / "bundle"
        self.report = self.folder / "report.html"
        self.compare_page = self.folder / "compare.html"
        self.sweeps = self.folder / "sweeps"
        """The tables and plots of each sweep, in a folder of its name."""
        self.budget_plot = self.folder / "budget.svg"
        self.sustained = self.folder / "sustained"
        self.logs = self.folder / "logs"

    @classmethod
    def of(cls, project: Path) -> "Run":
        """The run of a DVC project."""
        return cls(project / "out")

    # Where things lie.

    def section_file(self, name: str) -> Path:
        """Of a section of the resolved params."""
        return self.params / f"{name}.json"

    def sources_file(self, kind: str) -> Path:
        """Digests of what a kind of `Watched` names outside the project."""
        return self.sources / f"{kind}.json"

    def student_folder(self, name: str) -> Path:
        """Of METHOD-SEED."""
        return self.students / name

    def convert_folder(self, precision: str) -> Path:
        return self.folder / "convert" / precision

    def onnx(self, precision: str, runtime: str = "onnxruntime") -> Path:
        """The file of a precision for a runtime, `tensorrt` for any that builds engines; MissingError says why not."""
        record = self.converted(precision)
        if runtime not in record.pairs:
            raise MissingError(f"expected a {precision} file for {runtime}, found none: {record.lost.get(runtime)}")
        return self.convert_folder(precision) / record.pairs[runtime].file

    def logits(self, precision: str, runtime: str) -> Path:
        """What the file of a precision gives for the test images in a runtime, `[N, classes]`."""
        folder = self.convert_folder(precision)
        own = folder / f"{runtime}.{LOGITS}"
        return own if own.is_file() else folder / LOGITS

    def engine_folder(self, precision: str) -> Path:
        return self.folder / "engines" / precision

    @property
    def shown(self) -> tuple[str, ...]:
        """Patterns of the small files that tables and pages read.

        None is a plain path: DVC says that such a file is missing where it is only not in the cache.
        """
        patterns = ["evaluate/*.json", "evaluate/curves.cs?", "students/*/student.json", "*.json", "params/*.json"]
        patterns += ["params/method/*.json", "data/*.json", "teacher/*.json", "export/*.json", "convert/*/convert.json"]
        patterns += ["engines/*/engine.json", "benchmark/*.json", "bundle/manifest.jso?"]
        return tuple(str(self.folder / pattern) for pattern in patterns)

    # Params.

    def section(self, name: str, kind: type[Kind]) -> Kind:
        """A section of the resolved params, which the stage `params` has checked, as its type."""
        return self._read(f"params/{name}.json", kind, "params")

    def check_batches(self, data: DatasetRecord) -> None:
        """Refuse batches that the training images do not fill, before a teacher is trained in vain.

        A stage that only checks a recipe does not depend on it: another recipe changes nothing of what it writes.

        Raises:
            UserError: a recipe's batch is larger.
        """
        for name, images in (("teacher_recipe", data.teacher_images), ("recipe", data.counts["train"])):
            path = self.params / f"{name}.json"
            recipe = read_json(path) if path.is_file() else None  # null where the teacher is not trained here
            if recipe and recipe["batch_size"] > images:
                raise UserError(
                    f"{name}.batch_size: expected at most the {images} training images, found {recipe['batch_size']}; "
                    "lower it, or give more images"
                )

    def choice(self) -> Choice:
        return self.section("run", Choice)

    # Records.

    def prepared(self) -> DatasetRecord:
        return self._read("data/dataset.json", DatasetRecord, "prepare")

    def device(self) -> DeviceRecord:
        return self._read("device.json", DeviceRecord, "device")

    def teacher(self) -> TeacherRecord:
        return self._read("teacher/model.json", TeacherRecord, "teacher")

    def student(self, method: str, seed: int) -> StudentRecord:
        return self._read(f"students/{method}-{seed}/student.json", StudentRecord, f"distill@{method}-{seed}")

    def inside(self, student: str) -> InsideRecord:
        """What the method of METHOD-SEED offers to look at."""
        return self._read(f"students/{student}/inside.json", InsideRecord, f"distill@{student}")

    def index(self) -> StudentIndex:
        return self._read("students.json", StudentIndex, "students")

    def shipped(self) -> ShippedRecord:
        return self._read("shipped.json", ShippedRecord, "students")

    def evaluation(self) -> EvaluationRecord:
        return self._read("evaluate/models.json", EvaluationRecord, "evaluate")

    def shown_inside(self) -> ShownRecord | None:
        """What the report shows of a student's inside; None before the models are evaluated."""
        try:
            return self._read("evaluate/correlation.json", ShownRecord, "evaluate")
        except MissingError:
            return None

    def export(self) -> ExportRecord:
        return self._read("export/export.json", ExportRecord, "export")

    def converted(self, precision: str) -> ConvertRecord:
        return self._read(f"convert/{precision}/convert.json", ConvertRecord, f"convert@{precision}")

    def engine(self, precision: str) -> EngineRecord:
        return self._read(f"engines/{precision}/engine.json", EngineRecord, f"engine@{precision}")

    def latency(self) -> LatencyRecord:
        return self._read("benchmark/latency.json", LatencyRecord, "benchmark")

    def bundled(self) -> BundleRecord:
        return self._read("bundle/manifest.json", BundleRecord, "bundle")

    def records(self) -> Iterator[Record]:
        """The records of what `Choice` asks for, in the order in which the stages write them; those that are there."""
        choice = self.choice()
        readers: list[Callable[[], Record]] = [
            self.teacher,
            *(partial(self.student, method, seed) for method in choice.methods for seed in choice.seeds),
            *(self.index, self.shipped, self.evaluation, self.export),
            *(partial(self.converted, precision) for precision in choice.precisions),
            *(partial(self.engine, precision) for precision in choice.precisions),
            self.latency,
        ]
        for read in readers:
            try:
                yield read()
            except MissingError:
                continue

    def stale(self, *more: Record) -> dict[str, str]:
        """Records that no longer agree with the rest of the run, by their places; each with the first cause.

        Those of `records()` are judged, and `more`, such as the bundle's.

        A record is stale if a file that it was made from is another by now, or belongs to a stale record; of a file
        that is missing nothing is known. Digests are those of the records; of files without one, such as the params,
        they are taken anew.
        """
        records = [*self.records(), *more]
        digests = {path: (digest, record.place) for record in records for path, digest in record.files.items()}
        digests |= {record.place: (sha256(self.folder / record.place), record.place) for record in records}
        causes: dict[str, str] = {}
        for record in records:
            for path, digest in record.made_from.items():
                file = self.folder / path
                now, owner = digests.get(path) or (sha256(file) if file.is_file() else None, None)
                if now not in (digest, None):
                    causes.setdefault(record.place, f"{path} is another by now")
                elif owner in causes and owner != record.place:
                    causes.setdefault(record.place, causes[owner])
        return causes

    def write(self, record: Written) -> None:
        """Write a record in its place, whole or not at all. What lies beside it was written before."""
        record._folder = (self.folder / record.place).parent
        record.write(record._folder)

    def write_params(self, files: Mapping[str, JsonValue]) -> None:
        """Write the resolved params by their names: sections as JSON, the code of methods as it is."""
        with written_aside(self.params) as aside:
            for name, content in files.items():
                if name.endswith(".json"):
                    write_json(aside / name, content)
                else:
                    (aside / name).parent.mkdir(parents=True, exist_ok=True)
                    (aside / name).write_text(str(content))

    def digests(self, *places: str | Path) -> dict[str, str]:
        """SHA-256 of files of the run, by their paths below its folder: a record's `made_from`."""
        paths = [place if isinstance(place, Path) else self.folder / place for place in places]
        return {str(path.relative_to(self.folder)): sha256(path) for path in paths}

    def _read(self, place: str, kind: type[Kind], stage: str) -> Kind:
        path = self.folder / place
        if not path.exists():
            raise MissingError(f"expected {path}, found none; run `dvc repro {stage}`")
        record = read_checked(path, kind, what="a record", then=f"run `dvc repro -f -s {stage}`")
        if isinstance(record, Written):
            record._folder = path.parent
        return record
