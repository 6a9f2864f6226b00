"""The record of the evaluation: every model of a run on the test split."""

from typing import Any

from pydantic import model_validator

from rsd.run.records.base import Part, Record, Written


class Accuracy(Part):
    """How good a model is on a split; shares are in per cent."""

    top1: float
    top5: float
    nll: float
    """Negative log-likelihood, in nats."""
    ece: float
    """Expected calibration error, in 15 bins (Guo et al. 2017)."""
    agreement: float
    """Images to which the teacher gives the same first class."""
    per_class: dict[str, float]
    images: int


class Evaluation(Accuracy):
    """A model on the test split."""

    model: str
    """`teacher`, or METHOD-SEED."""
    method: str
    seed: int | None
    """None: the teacher."""
    parameters: int
    embedding_width: int
    effective_rank: float | None = None
    correlation_rms: float | None = None
    weights_sha256: str | None = None
    """Of the weights that were judged; None in records of older versions."""

    @property
    def weights(self) -> str:
        """Where they lie, below the run's folder."""
        return f"{'teacher' if self.seed is None else f'students/{self.model}'}/model.safetensors"


class Summary(Written):
    """`evaluate/metrics.json`, for `dvc metrics show`. The file is the plain mapping."""

    methods: dict[str, dict[str, float]]
    """A line per method: means over its seeds, and the gain over the scratch twins in points."""

    location = "evaluate/metrics.json"

    def content(self) -> Any:
        return self.methods


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

    location = "evaluate/models.json"

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
