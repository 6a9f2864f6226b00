"""What the stages write down: one type per record, each with one writer, which is a stage, and one reader, `Run`.

Every record says where it lies below the run's folder, and what it was made from.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from rsd.machine.fingerprint import short_name

# What is printed on terminals and pages: no control characters, no novels.
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]


class Part(BaseModel):
    """A part of a record: unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Record(Part):
    """A file of JSON that a stage writes."""

    made_from: dict[str, str] = {}
    """SHA-256 of each file that the record's stage read, by the file's path below the run's folder."""

    _folder: Path | None = PrivateAttr(default=None)

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of what lies beside the record and is read by later stages, by its path below the run's folder."""
        return {}

    @property
    def place(self) -> str:
        """Path below the run's folder."""
        raise NotImplementedError

    def content(self) -> Any:
        """What is written."""
        return self.model_dump(mode="json")

    @property
    def folder(self) -> Path:
        """The folder that the record was read from, or written to."""
        if self._folder is None:
            raise ValueError(f"expected {self.place} as it was read or written by a run, found it in memory only")
        return self._folder


class Choice(Part):
    """`params/run.json`: the names at the top of params.yaml."""

    pair: str
    data: str
    recipe: str
    methods: list[str]
    seeds: list[int]
    precisions: list[str]
    protocol: str = "ours"
    ships: str
    """`export.method`: the method whose best student ships."""

    @property
    def students(self) -> list[str]:
        """The folders of this run's students, method by method."""
        return [f"{method}-{seed}" for method in self.methods for seed in self.seeds]


class Watched(Part):
    """`params/watched.json`: what the params name outside of the project; the stage `sources` digests it."""

    data: list[Path] = []
    """Images, as files and folders."""
    teacher: list[Path] = []
    """Weights."""


class Fingerprinted(BaseModel):
    """What a machine says of itself, perhaps by another version of the project: unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class CPU(Fingerprinted):
    name: Name
    architecture: Name = "unknown"
    logical_cores: int = Field(ge=1)
    flags: list[Name] = []
    """Instructions that matter to inference."""


class GPU(Fingerprinted):
    name: Name
    driver: Name | None = None
    compute_capability: Name | None = None
    memory: Name | None = None


class DeviceRecord(Fingerprinted):
    """`device.json`: what of a machine decides how fast a model runs, as `fingerprint` says it."""

    machine: Name | None = None
    """A digest of the machine's id; None where it has none."""
    cpu: CPU
    memory_gib: int | None = None
    python: Name | None = None
    gpus: list[GPU]
    versions: dict[Name, Name | None] = {}
    """Of the runtimes; None where one is missing."""

    @property
    def short_name(self) -> str:
        """One phrase for tables, e.g. `AMD EPYC, 2 cores`."""
        return short_name(self.model_dump())

    @property
    def full_name(self) -> str:
        """The short name, and the first digits of the machine's digest: two machines of a kind are told apart."""
        return self.short_name + (f" ({self.machine[:4]})" if self.machine else "")


class Model(Part):
    """A model by its timm name, and the arguments that make it."""

    name: str
    args: dict[str, Any] = {}


class Validation(Part):
    """What a model reaches on the validation split."""

    top1: float
    """Per cent."""
    loss: float
    """Mean cross-entropy, in nats."""
    epoch: int | None = None
    """The selected one."""


class TrainedRecord(Record):
    """What the records of a teacher and of a student have in common: how to make the model and what to feed it."""

    model: Model
    seed: int
    parameters: int
    embedding_width: int
    classes: list[str]
    height: int
    """Of the images, in pixels, as is `width`."""
    width: int
    mean: list[float]
    """Per channel, of pixels in [0, 1], as is `std`."""
    std: list[float]
    validation: Validation
    device: str
    versions: dict[str, str]
    weights_sha256: str

    @property
    def files(self) -> dict[str, str]:
        return {str(Path(self.place).with_name("model.safetensors")): self.weights_sha256}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, len(self.mean)

    @property
    def weights(self) -> Path:
        """The file of weights."""
        return self.folder / "model.safetensors"


class TeacherRecord(TrainedRecord):
    """`teacher/model.json`."""

    source: str
    """The kind of teacher."""
    input_size: int | None = None
    """Side to which the teacher resizes images; None takes them as they are."""
    origin: str | None = None
    """SHA-256 of the weights from elsewhere that it started from; None for random ones."""

    @property
    def place(self) -> str:
        return "teacher/model.json"


class StudentRecord(TrainedRecord):
    """`students/METHOD-SEED/student.json`."""

    method: str
    options: dict[str, Any]
    """The method's section of the params."""
    recipe: dict[str, Any]
    compute: dict[str, Any]
    """Settings that change the numbers."""
    views: int | None
    """Stored views that training cycles through; None: fresh views at every step."""
    extra_parameters: int
    """Trained beside the student and thrown away."""
    effective_batch_size: int
    steps: int
    warnings: list[str] = []
    inside_sha256: str | None = None
    """Of `inside.json`; None in records of older versions."""

    @property
    def files(self) -> dict[str, str]:
        inside = {f"students/{self.name}/inside.json": self.inside_sha256} if self.inside_sha256 else {}
        return super().files | inside

    @property
    def taught(self) -> bool:
        """Whether a teacher took part in its training."""
        return "teacher/model.safetensors" in self.made_from

    @property
    def name(self) -> str:
        return f"{self.method}-{self.seed}"

    @property
    def place(self) -> str:
        return f"students/{self.name}/student.json"


class CorrelationPicture(Part):
    """The cross-correlation of two embeddings, teacher's dimensions in rows and student's in columns."""

    diagonal_mean: float
    off_diagonal_rms: float
    matrix: list[list[float]]
    """Means of near-equal blocks where the embeddings are wide; rounded."""


class CorrelationChange(Part):
    """The cross-correlation of a student's dimensions with its teacher's, before and after training."""

    caption: str
    """What is correlated, and what the method draws it to; whole sentences."""
    images: int
    width: int
    cells: int
    """Rows of the drawn matrices, at most `width`."""
    chance: float
    """About what unrelated dimensions show off the diagonal."""
    teacher_rms: float
    """Off the diagonal of the teacher's correlation with itself, which a perfect copy of the teacher would show."""
    before: CorrelationPicture
    after: CorrelationPicture


class InsideRecord(Record):
    """`students/METHOD-SEED/inside.json`: what the student's method offers to look at."""

    student: str
    correlation: CorrelationChange | None = None
    skipped: str | None = None
    """Why there is nothing, without a full stop."""

    @property
    def place(self) -> str:
        return f"students/{self.student}/inside.json"


class IndexedStudent(Part):
    """A student of this run."""

    name: str
    method: str
    seed: int
    validation_top1: float
    """Per cent, as is `validation_loss` in nats."""
    validation_loss: float
    weights_sha256: str
    record_sha256: str


class StudentIndex(Record):
    """`students.json`: the students of this run and no others."""

    students: list[IndexedStudent]

    @property
    def place(self) -> str:
        return "students.json"


class ShippedRecord(Record):
    """`shipped.json`: the student that is exported, and why it."""

    student: IndexedStudent
    reason: str

    @property
    def place(self) -> str:
        return "shipped.json"


class Evaluation(Part):
    """A model on the test split; shares are in per cent."""

    model: str
    """`teacher`, or METHOD-SEED."""
    method: str
    seed: int | None
    """None: the teacher."""
    parameters: int
    top1: float
    top5: float
    nll: float
    """Negative log-likelihood, in nats."""
    ece: float
    """Expected calibration error."""
    agreement: float
    """Images to which the teacher gives the same first class."""
    per_class: dict[str, float]
    images: int
    embedding_width: int
    effective_rank: float | None = None
    correlation_rms: float | None = None
    weights_sha256: str | None = None
    """Of the weights that were judged; None in records of older versions."""

    @property
    def weights(self) -> str:
        """Where they lie, below the run's folder."""
        return f"{'teacher' if self.seed is None else f'students/{self.model}'}/model.safetensors"


class EvaluationRecord(Record):
    """`evaluate/models.json`: every model of the index, the teacher first. The file is the plain list."""

    models: list[Evaluation]

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, content: Any) -> Any:
        return {"models": content} if isinstance(content, list) else content

    @model_validator(mode="after")
    def _judged(self) -> "EvaluationRecord":
        self.made_from = {model.weights: model.weights_sha256 for model in self.models if model.weights_sha256}
        return self

    def content(self) -> Any:
        return [model.model_dump(mode="json") for model in self.models]

    @property
    def place(self) -> str:
        return "evaluate/models.json"

    def of(self, student: str) -> Evaluation | None:
        """The student's row; None if it was not judged."""
        return next((model for model in self.models if model.model == student), None)

    @property
    def methods(self) -> list[str]:
        """`teacher` and the methods, in the order of the models."""
        return list(dict.fromkeys(model.method for model in self.models))

    def by_method(self, method: str) -> list[Evaluation]:
        """The method's students, seed by seed; the teacher's one row for `teacher`."""
        return [model for model in self.models if model.method == method]

    def gains(self, method: str) -> dict[int, float]:
        """Test top-1 over the scratch twin of the same seed, in points, by seed; empty for a twin and the teacher."""
        if method in ("teacher", "scratch"):
            return {}
        twins = {model.seed: model.top1 for model in self.by_method("scratch")}
        return {
            model.seed: model.top1 - twins[model.seed]
            for model in self.by_method(method)
            if model.seed is not None and model.seed in twins
        }


class Comparison(Part):
    """How far the logits of one form of a model lie from those of another, on the same images."""

    images: int
    max_difference: float
    mean_difference: float
    logit_range: float
    max_difference_share: float
    """Of the logit range."""
    min_cosine: float
    top1_agreement: float
    """Share of the images, 0 to 1, as are the accuracies."""
    disagreements: int
    disagreements_beyond_near_ties: int
    near_tie_share: float
    reference_accuracy: float
    accuracy: float
    accuracy_delta_points: float
    accuracy_delta_images: int
    worst_images: list[int]


class Rounded(Part):
    """A part of a comparison, with every value rounded to fp16, as a runtime in half precision computes."""

    images: int
    max_difference: float
    accuracy_delta_images: int


class Parity(Comparison):
    """A rung of the ladder from the trained student to a file."""

    rung: str
    """`stripped`, or a precision."""
    against: str
    """`as trained`: the student in its training-only module; `stripped`: out of it, in PyTorch."""
    rounded: Rounded | None = None
    """Of fp16."""


class ExportRecord(Record):
    """`export/export.json`: the shipped student as an ONNX graph in float32."""

    student: str
    license: str
    classes: list[str]
    preprocessing: dict[str, Any]
    validation_top1: float
    """Per cent, as is `test_top1`, which is the graph's."""
    test_top1: float
    parameters: int
    opset: int
    ir_version: int
    bytes: int
    sha256: str
    ladder: list[Parity]
    parts: dict[str, str] = {}
    """Which part of the PyTorch model a value of the graph comes from, such as `blocks.0.attn.qkv`."""

    @property
    def place(self) -> str:
        return "export/export.json"

    @property
    def files(self) -> dict[str, str]:
        return {"export/model.onnx": self.sha256}


class ConvertRecord(Record):
    """`convert/PRECISION/convert.json`: the file of one precision, held to its gate."""

    student: str
    precision: str
    test_top1: float
    """Per cent."""
    bytes: int
    sha256: str
    parity: Parity
    """Of this file against the trained student."""
    ladder: list[Parity]
    details: dict[str, Any] = {}
    """What the precision says of its conversion, such as the nodes that int8 left in float."""

    @property
    def place(self) -> str:
        return f"convert/{self.precision}/convert.json"

    @property
    def files(self) -> dict[str, str]:
        return {f"convert/{self.precision}/model.onnx": self.sha256}


class Port(Part):
    """An input or output of an engine."""

    name: str
    dtype: str
    shape: list[int]
    """-1: any batch size."""


class EngineRecord(Record):
    """`engines/PRECISION/engine.json`: an engine that was built, or why there is none. Devices read it, too."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    status: str
    """`built` or `skipped`."""
    precision: str
    library: str
    version: str | None = None
    cuda: int | None = None
    """Major version that the library is made with."""
    reason: str | None = None
    """Why there is none."""
    compute_capabilities: list[str] = []
    """GPU generations that it is for."""
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    weights_stripped: bool = False
    built_on: dict[str, str] | None = None
    """The GPU of the machine that built it."""
    inputs: list[Port] = []
    outputs: list[Port] = []
    profile: dict[str, int] | None = None
    """Batch sizes: `min`, `opt` (which kernels are chosen for) and `max`."""
    metadata: dict[str, str] = {}
    """What the ONNX file says of itself."""
    onnx_sha256: str | None = None
    engine_sha256: str | None = None
    bytes: int | None = None
    build_seconds: float | None = None
    warnings: list[str] = []
    parity: Comparison | str | None = None
    """Against its ONNX file; a sentence where the engine could not be run here."""

    @property
    def batches(self) -> tuple[int, int]:
        """The smallest and the largest batch that it takes; one image where there is no engine."""
        return (self.profile["min"], self.profile["max"]) if self.profile else (1, 1)

    @property
    def place(self) -> str:
        return f"engines/{self.precision}/engine.json"

    @property
    def files(self) -> dict[str, str]:
        return {f"engines/{self.precision}/model.engine": self.engine_sha256} if self.engine_sha256 else {}


class Latency(Part):
    """One row: a file, on one runtime, with one number of threads and one batch size. `_ms` are per call."""

    file: str
    precision: str
    runtime: str
    """`onnxruntime`, `pytorch`, `pytorch compiled`; `tensorrt` or `tensorrt_rtx`, with the copies to the GPU and back,
    and these with ` compute only`, without them."""
    threads: int | None
    """CPU threads within an operator; None for an engine."""
    scenario: str
    """`single stream`: one image after another; `offline`: batch after batch."""
    batch: int = Field(ge=1)
    status: str
    """`measured`, or why not; then all figures are None."""
    file_bytes: int | None = None
    samples: int | None = None
    mean_ms: float | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    """A percentile with too few samples is None."""
    images_per_second: float | None = None
    cpu_ms: float | None = None
    """CPU time of all threads per call; far from threads x mean where something else ran."""
    round_medians_ms: list[float] | None = None
    spread: float | None = None
    """(largest - smallest) / median of the rounds' medians."""
    noisy: bool | None = None
    """The spread is above 0.1: something else ran, or the clock changed; measure again."""
    warmup_calls: int | None = None
    settled: bool | None = None
    """False where the warm-up of a round gave up before two of its windows agreed."""
    cold_start_ms: list[float] | None = None
    """Session and first inference, each in a fresh process."""
    peak_memory_bytes: int | None = None
    """Of that process as a whole, at the first inference."""
    runtime_memory_bytes: int | None = None
    """Of that process before the file was opened."""


class Origin(Part):
    """What a bundle was made from."""

    git_revision: str | None = None
    """The commit that a release was signed of; None until it is signed."""
    made_from: dict[str, str] = {}
    """SHA-256 of the files of the run, by their paths below its folder."""


class BundleRecord(Record):
    """`bundle/manifest.json`, of which the run knows what it was made from; `rsd.release` writes and reads the rest."""

    model_config = ConfigDict(extra="ignore")

    origin: Origin = Origin()

    @model_validator(mode="after")
    def _bundled(self) -> "BundleRecord":
        self.made_from = self.origin.made_from
        return self

    @property
    def place(self) -> str:
        return "bundle/manifest.json"


class LatencyRecord(Record):
    """`benchmark/latency.json`: what was measured, on which device, under which conditions."""

    device: DeviceRecord
    conditions: dict[str, Any]
    """Affinity, clock, governor and load, `before` and `after`."""
    options: dict[str, Any]
    rows: list[Latency]

    @property
    def place(self) -> str:
        return "benchmark/latency.json"
