"""The contract of a method: a student, a scaffold that is thrown away after training, and what it adds to the loss."""

import warnings
from collections.abc import Mapping, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args

import torch
from pydantic import Field, JsonValue
from timm.layers import convert_sync_batchnorm
from timm.task import TrainingTask
from timm.task.distillation import FeatureDistillationTrainableModule
from timm.utils.model import unwrap_model
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from rsd.machine.errors import UserError
from rsd.machine.options import Options
from rsd.models.features import StagedOutputs, StageShape, staged_outputs
from rsd.models.outputs import Outputs, outputs
from rsd.run.records import CorrelationChange

Signal = Literal["embedding", "logits", "stages"]


class MethodOptions(Options):
    """A method's section of `params.yaml` (`method.<name>`)."""


class WeightOptions(MethodOptions):
    """For a method that adds one loss of its own."""

    weight: float = Field(1.0, ge=0)
    """Of the method's loss beside the cross-entropy."""


class Setting(NamedTuple):
    """The teacher and the images that a distiller is built for. None: unknown, and the method need not know."""

    teacher_width: int | None = None
    """Width of the teacher's embedding; None also where there is no teacher."""
    teacher_stages: tuple[StageShape, ...] | None = None
    """The teacher's four stages, for a method that compares feature maps."""
    image_shape: tuple[int, int, int] | None = None
    """Height, width and channels of the training images, for a method that takes the student apart."""
    image_count: int | None = None
    """How many training images there are, for a method that remembers each."""


@dataclass(frozen=True)
class Step:
    """What a method sees of one batch."""

    student: Outputs | StagedOutputs
    teacher: Outputs | StagedOutputs
    adapted: Any
    """The scaffold's output for the two; None without a scaffold."""
    target: Tensor
    """Class indices `[B]` or class probabilities `[B, classes]`; -1 or zeros for an image without a label."""
    index: Tensor | None
    """Which of the training images these are, `[B]`; those with a label may come twice."""
    labelled: int | None = None
    """How many of the images, the first ones, have a label; None: all."""
    logged: bool = True
    """Whether scalars that are for the log alone are of use at this step."""

    @property
    def labels(self) -> Tensor:
        """Class indices `[B]`; of mixed labels the likeliest, and without a label the teacher's first class."""
        labels = self.target.argmax(dim=1) if self.target.ndim == 2 else self.target
        if self.labelled is None:
            return labels
        return torch.cat([labels[: self.labelled], self.teacher.logits[self.labelled :].argmax(dim=1)])


class TrainableModule(FeatureDistillationTrainableModule):
    """Student and scaffold: all that is trained runs inside this forward, as DistributedDataParallel asks."""

    def __init__(self, student: nn.Module, scaffold: nn.Module | None, *, staged: bool) -> None:
        super().__init__(student, scaffold)
        self.staged = staged

    def forward(  # type: ignore[override]
        self, input: Tensor, teacher: Outputs | StagedOutputs | None
    ) -> tuple[Outputs | StagedOutputs, Any]:
        student = staged_outputs(self.student, input) if self.staged else outputs(self.student, input)
        return student, None if self.projection is None else self.projection(student, teacher)


class Distiller(TrainingTask):
    """Trains `student`; a subclass says what it needs of the teacher and what it adds to the loss.

    `forward(input, target, teacher, index)` returns a dict: `loss` is minimised, `output` holds the logits,
    every other entry is a scalar for the log. The trainable scaffold (such as a projection) sits beside the
    student in the trainable module: its weights are task state, never part of the student's `state_dict`.

    Args:
        student: a timm model.
        setting: teacher and images, as far as the method needs to know.
        options: the method's own section.
        criterion: `(logits [B, classes], target) -> scalar` against the ground truth.

    Raises:
        UserError: the method cannot work on this student with this teacher.
    """

    registry: ClassVar[dict[str, type["Distiller"]]] = {}
    method: ClassVar[str]
    needs: ClassVar[frozenset[Signal]] = frozenset()
    """The outputs of the teacher that the loss takes; empty where there is no teacher."""
    staged: ClassVar[bool] = False
    """Whether the method takes the student apart into stages."""
    capturable: ClassVar[bool] = True
    """Whether every step does the same on the device, so that it can be one CUDA graph. A method that decides by
    numbers on the CPU from step to step sets it to False."""
    Options: ClassVar[type[MethodOptions]] = MethodOptions
    paper: ClassVar[dict[str, JsonValue]] = {}
    """What `protocol: paper` sets in the method's section."""
    amp: torch.dtype | None = None
    """Precision of student and scaffold under automatic mixed precision; None: float32. Losses are float32."""

    def __init_subclass__(cls, *, method: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not isinstance(cls.needs, Set) or not cls.needs <= {*get_args(Signal)}:
            raise ValueError(f"expected `needs` as a set out of {', '.join(get_args(Signal))}, found {cls.needs!r}")
        if method is None:  # what several methods share
            return
        if (other := Distiller.registry.get(method)) and other.__module__ != cls.__module__:
            raise ValueError(
                f"expected a name of its own for the method {cls.__name__}, found '{method}', which is "
                f"{other.__module__}.{other.__name__}"
            )
        cls.method = method
        Distiller.registry[method] = cls

    def __init__(
        self,
        student: nn.Module,
        setting: Setting = Setting(),  # noqa: B008  it is immutable
        options: MethodOptions | None = None,
        criterion: nn.Module | None = None,
    ) -> None:
        super().__init__(verbose=False)
        if self.needs and setting.teacher_width is None:
            raise ValueError(f"{type(self).__name__} needs the teacher's {', '.join(sorted(self.needs))}")
        self.options = options or self.Options()
        self.criterion = criterion or nn.CrossEntropyLoss()
        self.trainable_module: nn.Module = TrainableModule(
            student, self.make_scaffold(student, setting), staged=self.staged
        )

    @classmethod
    def check_views(cls, count: int) -> None:
        """Raise UserError where `count` stored views (0: a live teacher) cannot give what the method needs."""
        if "stages" in cls.needs and count:
            raise UserError(
                f"expected a live teacher for method '{cls.method}', which compares feature maps, found stored views "
                f"(views.count {count}), which hold none; set views.count to 0, or take '{cls.method}' out of methods"
            )

    @classmethod
    def couples_batch(cls, options: MethodOptions) -> bool:
        """Whether the loss compares images within a batch, so that the batch cannot be split into parts."""
        return False

    @classmethod
    def check_accumulation(cls, options: MethodOptions, parts: int) -> None:
        """Raise UserError where a method that compares the images of a batch is to take it in parts."""
        if parts > 1 and cls.couples_batch(options):
            raise UserError(
                f"expected 1 with method '{cls.method}', which compares all images of a batch with each other, found "
                f"{parts}; set it to 1 and spread the batch over compute.processes, set compute.amp, or lower "
                f"recipe.batch_size, or take '{cls.method}' out of methods"
            )

    def advice(self, *, batch_size: int, classes: int) -> list[str]:
        """Warnings about the options for so many images per step over all processes, a sentence each."""
        return []

    def student_side(self, student: Outputs) -> Tensor | None:
        """The student's side of what the method compares, `[N, D]`, for a picture; None: the method offers none.

        Called before and after training with the outputs for the same N images, on the CPU and without gradients.
        """
        return None

    def inside(self, before: Tensor, after: Tensor, teacher: Outputs) -> CorrelationChange:
        """The picture: `student_side` before and after training against the teacher's outputs for the same images."""
        raise NotImplementedError

    def make_scaffold(self, student: nn.Module, setting: Setting) -> nn.Module | None:
        """The module that is trained beside the student and thrown away; None for none.

        It is called as `scaffold(student, teacher)` with the outputs of both. Its output is `Step.adapted`.
        """
        return None

    def distillation_terms(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar that the method adds to the loss, and its scalars for the log. Not called if `needs` is empty."""
        raise NotImplementedError

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        teacher: Outputs | StagedOutputs | None = None,
        index: Tensor | None = None,
        *,
        labelled: int | None = None,
        logged: bool = True,
    ) -> dict[str, Tensor]:
        """One training step's forward pass.

        Args:
            input: `[B, C, H, W]`, normalised for the student.
            target: class indices `[B]` or class probabilities `[B, classes]`.
            teacher: the teacher's outputs for the same pixels.
            index: which of the training images these are, `[B]`; for a method that remembers each.
            labelled: how many of the images, the first ones, have a label; None: all. The cross-entropy is over these,
                the method's own terms over all.
            logged: whether the method computes what is for the log alone.
        """
        if self.needs and teacher is None:
            raise ValueError(f"{type(self).__name__} was given no outputs of the teacher")
        with self.mixed_precision():
            student, adapted = self.trainable_module(input, teacher)
        if self.amp is not None:
            student = student._replace(embedding=student.embedding.float(), logits=student.logits.float())
            adapted = tree_map(lambda t: t.float() if isinstance(t, Tensor) else t, adapted)
        cross_entropy = self.criterion(student.logits[:labelled], target[:labelled])
        loss, log = cross_entropy, dict[str, Tensor]()
        if self.needs and teacher is not None:
            extra, log = self.distillation_terms(Step(student, teacher, adapted, target, index, labelled, logged))
            loss = cross_entropy + extra
        return {"loss": loss, "output": student.logits, "cross_entropy": cross_entropy, **log}

    def mixed_precision(self) -> AbstractContextManager[Any]:
        """The context in which student, scaffold and a live teacher run, in the precision `amp`."""
        return nullcontext() if self.amp is None else torch.autocast(self.device.type, dtype=self.amp)

    @property
    def extra_parameters(self) -> int:
        """Trainable parameters that are thrown away after training."""
        scaffold = unwrap_model(self.trainable_module).projection
        return 0 if scaffold is None else sum(p.numel() for p in scaffold.parameters())

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module:
        return unwrap_model(module or self.get_trainable_module(ema=ema)).student

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        scaffold = unwrap_model(module or self.get_trainable_module(ema=ema)).projection
        return {} if scaffold is None else {"projection": scaffold.state_dict()}

    def load_task_state(
        self, state: dict[str, Any] | None, strict: bool = True, module: nn.Module | None = None, ema: bool = False
    ) -> None:
        if state:
            scaffold = unwrap_model(module or self.get_trainable_module(ema=ema)).projection
            scaffold.load_state_dict(state["projection"], strict=strict)

    def scaffold_state(self, *, ema: bool = False) -> dict[str, Tensor]:
        """Copies of the task state on the CPU, by the names that a file holds; empty without a scaffold."""
        state = self.get_task_state(ema=ema).get("projection", {})
        return {f"projection.{name}": tensor.detach().cpu().clone() for name, tensor in state.items()}

    def load_scaffold(self, state: Mapping[str, Tensor]) -> None:
        """Take what `scaffold_state` gave."""
        if state:
            names = {name.removeprefix("projection."): tensor for name, tensor in state.items()}
            self.load_task_state({"projection": names})

    def prepare_distributed(self, device_ids: list[int] | None = None, **ddp_kwargs: Any) -> Self:
        """Train together with the other processes; on GPUs the student's batch norm sees the whole batch.

        On CPUs, where PyTorch cannot, it sees each process's share. Buffers are not synchronised at each step: those
        that training reads are the same in all processes, and the leading one's running statistics count.
        """
        # Unless it looks for unused parameters, DDP sends gradients in another order from its second step on. A sum
        # over three and more processes then has other bits, and a resumed run begins with a first step again.
        ddp_kwargs = {"broadcast_buffers": False, "find_unused_parameters": True} | ddp_kwargs
        if self.device.type == "cuda":
            self.trainable_module.student = convert_sync_batchnorm(self.trainable_module.student)
        with warnings.catch_warnings():
            # PyTorch 2.14 has another name for `broadcast_buffers`, which 2.9 does not know.
            warnings.simplefilter("ignore", FutureWarning)
            self.trainable_module = nn.parallel.DistributedDataParallel(
                self.trainable_module, device_ids=device_ids, **ddp_kwargs
            )
        # Images come in as [B, H, W, C], which gives the first layer's gradient other strides. That is harmless.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        return self
