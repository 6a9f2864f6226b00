"""Records of what was trained: the teacher, the students, the index of a run's students and the one that ships."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, JsonValue

from rsd.run.records.base import Part, Record, Section


class Model(Part):
    """A model by its timm name, and the arguments that make it."""

    name: str
    args: Mapping[str, JsonValue] = {}


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


class ProbeRecord(Part):
    """How a teacher without a classifier got one: by a linear probe, and how good it is. All top-1 in per cent."""

    top1: float
    """On validation, as is every other accuracy here."""
    images: int
    """Validation images."""
    knn_top1: float
    """Of the nearest labelled training images, by the same embeddings."""
    neighbours: int
    labels: int
    """Labelled training images that the probe was fitted to."""
    regularisation: float
    """scikit-learn's C."""
    select: str
    """What chose it."""
    select_labels: int
    """Labels that this choice used."""
    pixels_top1: float
    """Of a linear classifier on pixels, fitted to the same labels: about what a student may reach without a teacher."""
    beats_pixels: bool
    """Whether the probe is right on more images than that classifier, by a one-sided sign test."""

    @property
    def stated(self) -> str:
        """How good the teacher is, in words."""
        by = "cross-validation on" if self.select == "cross_validation" else "validation with"
        return (
            f"its probe reaches {self.top1:.2f} % top-1 on {self.images:,} validation images, kNN with "
            f"k = {self.neighbours} {self.knn_top1:.2f} %; fitted to {self.labels:,} labels, C = "
            f"{self.regularisation:g} chosen by {by} {self.select_labels:,} labels"
        )

    @property
    def warning(self) -> str | None:
        """Why the teacher may have nothing to teach; None if there is no reason."""
        if self.beats_pixels:
            return None
        return (
            f"expected a teacher that is better than its student trained alone, found {self.top1:.2f} %, which is not "
            f"clearly more than the {self.pixels_top1:.2f} % of a linear classifier on pixels with the same labels; "
            "such a student may reach that, too, so take a stronger teacher, or check what this one is fed"
        )


class TeacherRecord(TrainedRecord):
    """`teacher/model.json`."""

    source: str
    """The kind of teacher."""
    input_size: int | None = None
    """Side to which the teacher resizes images; None takes them as they are."""
    origin: str | None = None
    """SHA-256 of the weights from elsewhere that it started from; None for random ones."""
    probe: ProbeRecord | None = None
    """Of a teacher whose classifier is a probe."""
    learned_from: int | None = None
    """Labelled images that it was trained on here; None: it was not trained here."""

    location = "teacher/model.json"


class StartingWeights(Part):
    """Weights from elsewhere that a student started from."""

    name: str
    """Their path, or their name on the hub."""
    sha256: str
    """Of their file, or of the hub's tensors."""
    license: str | None = None
    """As it is stated beside them; None: unknown."""
    new_head: bool
    """Whether the head was drawn from the seed."""

    def __str__(self) -> str:
        return f"{self.name} (SHA-256 {self.sha256[:12]})"


class StudentRecord(TrainedRecord):
    """`students/METHOD-SEED/student.json`."""

    method: str
    options: Section
    """The method's section of the params."""
    recipe: Section
    compute: Section
    """Settings that change the numbers."""
    views: int | None
    """Stored views that training cycles through; None: fresh views at every step."""
    extra_parameters: int
    """Trained beside the student and thrown away."""
    effective_batch_size: int
    steps: int
    start: StartingWeights | None = None
    """None: drawn from the seed."""
    warnings: list[str] = Field([])
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

    location = "students/{0.name}/student.json"


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

    location = "students/{0.student}/inside.json"


class ShownRecord(InsideRecord):
    """`evaluate/correlation.json`: what the report shows, of the first student whose method offers a look inside."""

    location = "evaluate/correlation.json"


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

    location = "students.json"


class ShippedRecord(Record):
    """`shipped.json`: the student that is exported, and why it."""

    student: IndexedStudent
    reason: str

    location = "shipped.json"
