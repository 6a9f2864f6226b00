"""One step of training: forward, backward, clip, update; and the state that a resumed run needs of it."""

import math
import sys
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from timm.utils.model import unwrap_model
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from rsd.machine.compute import ComputeOptions, training_kernels
from rsd.machine.errors import UserError
from rsd.machine.parallel import all_of, mean, processes, rank
from rsd.methods.base import Distiller
from rsd.models.outputs import Outputs
from rsd.models.pixels import PixelNormalize
from rsd.teacher.store import StoredTeacher
from rsd.training.health import check_finite
from rsd.training.one_graph import OneGraph, obstacle
from rsd.training.recipe import Recipe, make_optimizer, make_scheduler, part_size
from rsd.views.batches import Portions

AMP = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
LOG_EVERY = 10  # of so many steps of an epoch the first gives what is for the log alone
HINTS = {"none": "", "bf16": "set compute.amp to none, ", "fp16": "set compute.amp to none or bf16, "}


def _check_wide_enough(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    # oneDNN 3.12 leaves most of such a weight's gradient unwritten. It then holds arbitrary numbers, which few notice.
    if arguments[0].shape[-1] == 1 and torch.is_autocast_enabled("cpu"):
        raise UserError(
            f"expected maps wider than one pixel before every convolution with a stride, found one before {module}; "
            "its gradient would be wrong with compute.amp bf16 on a CPU, so set compute.amp to none, or give larger "
            "images"
        )


class Stepper:
    """A task with its optimiser, schedule, average of weights and loss scaling.

    Args:
        task: on its device. The stepper prepares it for mixed precision, compilation and several processes.
        teacher: see `rsd.training.loop.Teacher`.
        shared: what each part of a batch holds; None: labelled images only.

    Raises:
        UserError: the batch does not divide into the recipe's parts, or the method refuses parts.
    """

    def __init__(
        self,
        task: Distiller,
        recipe: Recipe,
        compute: ComputeOptions,
        *,
        normalize: PixelNormalize,
        teacher: Any,
        shared: Portions | None = None,
        steps_per_epoch: int,
    ) -> None:
        self.task, self.recipe, self.normalize, self.teacher = task, recipe, normalize, teacher
        self.device = task.device
        self.compute = compute
        shared = shared or Portions(recipe.accumulation, part_size(recipe, processes=processes()), 0)
        self.size = shared.labelled + shared.unlabelled
        self.labelled = shared.labelled if shared.unlabelled else None
        self.steps_per_epoch = steps_per_epoch
        task.check_accumulation(task.options, recipe.accumulation)
        task.amp, self.hint = AMP[compute.amp], HINTS[compute.amp]
        if compute.amp == "bf16" and self.device.type == "cpu":
            for module in task.trainable_module.modules():
                if isinstance(module, nn.Conv2d) and module.stride[1] > 1 and module.kernel_size[1] > 1:
                    module.register_forward_pre_hook(_check_wide_enough)
        if compute.channels_last:
            task.trainable_module.to(memory_format=torch.channels_last)
        self.has_average = recipe.ema_decay is not None
        if recipe.ema_decay is not None:
            task.setup_ema(recipe.ema_decay)
        if compute.compile:
            task.trainable_module.compile()  # in place: the names of the weights stay
        if processes() > 1:
            task.prepare_distributed([torch.cuda.current_device()] if self.device.type == "cuda" else None)
        # Unwrapped: the wrapper of several processes hides which weights a student exempts from decay.
        self.optimizer = make_optimizer(unwrap_model(task.trainable_module), recipe, scaled=compute.amp == "fp16")
        self.scheduler = make_scheduler(self.optimizer, recipe, steps_per_epoch=steps_per_epoch)
        self.clipped = [*task.get_clip_parameters()]  # to list them takes a hundredth of a small student's step
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=compute.amp == "fp16")
        self.graph: OneGraph | None = None
        if compute.cuda_graph:
            live = teacher is not None and not isinstance(teacher, StoredTeacher)
            if reason := obstacle(task, recipe, compute, self.optimizer, live_teacher=live):
                print(
                    "warning: expected steps that can be one CUDA graph (compute.cuda_graph), found "
                    f"{reason}; they run kernel by kernel",
                    file=sys.stderr,
                )
            else:
                self.graph = OneGraph(self._whole, self.optimizer)
        self.last: dict[str, Tensor] = {}
        """Scalars of the last step, for the sentence about one that went wrong."""

    def step(
        self, raw: Tensor, target: Tensor, index: np.ndarray, view: np.ndarray, *, number: int
    ) -> dict[str, Tensor]:
        """Update on this process's share of a batch, in parts.

        Args:
            raw: views uint8 `[B, H, W, C]`.
            target: class indices `[B]` or probabilities `[B, classes]`.
            index, view: numbers of images and views, int64 `[B]`.
            number: of the step, from 0.

        Returns:
            The step's scalars, means over the whole batch.

        Raises:
            UserError: the loss or the gradient is not finite, or cannot be computed in this precision.
        """
        raw, target = raw.to(self.device, non_blocking=True), target.to(self.device, non_blocking=True)
        logged = number % self.steps_per_epoch % LOG_EVERY == 0
        if self.graph:
            terms = self.graph(raw, target, self._numbers(index), self._taught(raw, index, view), logged)
        else:
            terms = self._in_parts(raw, target, index, view, logged)
        norm = terms.pop("gradient_norm")
        if self.has_average and number:
            self.task.update_ema()
        elif self.has_average:  # not from what the weights were before training, some of which (CRD's Z) are NaN
            self.task.trainable_module_ema.set(unwrap_model(self.task.trainable_module))
        self.scheduler.step_update(number + 1)
        # Last, because it waits for the GPU, which by now has all of the step to do. A refused step ends the run.
        terms |= self._checked(terms, norm, number)
        self.last = terms
        return terms

    def _in_parts(
        self, raw: Tensor, target: Tensor, index: np.ndarray, view: np.ndarray, logged: bool
    ) -> dict[str, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        terms: dict[str, Tensor] = {}
        parts = self.recipe.accumulation
        for part, own in enumerate(self._slices()):
            last = part == parts - 1
            with training_kernels(self.compute, self.device), nullcontext() if last else self.task.no_sync():
                taught, numbers = self._taught(raw[own], index[own], view[own]), self._numbers(index[own])
                result = self._forward(raw[own], target[own], numbers, taught, logged)
                self.scaler.scale(result["loss"] / parts).backward()
            for key, value in result.items():
                if key != "output":
                    terms[key] = terms[key] + value.detach() if part else value.detach()
        if parts > 1:
            terms = {key: value / parts for key, value in terms.items()}
        if processes() > 1:
            values = mean(torch.stack(list(terms.values())))
            terms = dict(zip(terms, values.unbind(), strict=True))
        self.scaler.unscale_(self.optimizer)
        norm = clip_grad_norm_(self.clipped, self.recipe.clip_gradient or math.inf).detach()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return terms | {"gradient_norm": norm}

    def prefetch(self, index: np.ndarray, view: np.ndarray) -> None:
        """Have a view store read the rows of the next step, of these images and views, meanwhile."""
        if isinstance(self.teacher, StoredTeacher):
            for own in self._slices():
                self.teacher.prefetch(index[own], view[own])

    def _slices(self) -> list[slice]:
        return [slice(part * self.size, (part + 1) * self.size) for part in range(self.recipe.accumulation)]

    def _whole(
        self, raw: Tensor, target: Tensor, numbers: Tensor, teacher: Outputs | None, logged: bool
    ) -> dict[str, Tensor]:
        """As `_in_parts`, with nothing between the kernels that the CPU must do."""
        self.optimizer.zero_grad(set_to_none=True)
        with training_kernels(self.compute, self.device):
            result = self._forward(raw, target, numbers, teacher, logged)
            result["loss"].backward()
        norm = clip_grad_norm_(self.clipped, self.recipe.clip_gradient or math.inf)
        self.optimizer.step()
        terms = {key: value for key, value in result.items() if key != "output"} | {"gradient_norm": norm}
        return {key: value.detach() for key, value in terms.items()}

    def _taught(self, raw: Tensor, index: np.ndarray, view: np.ndarray) -> Any:
        if not self.teacher:
            return None
        with self.task.mixed_precision():
            return self.teacher(raw, index, view)

    def _numbers(self, index: np.ndarray) -> Tensor:
        return torch.from_numpy(index).to(self.device, non_blocking=True)

    def _forward(self, raw: Tensor, target: Tensor, numbers: Tensor, teacher: Any, logged: bool) -> dict[str, Tensor]:
        inputs = self.normalize(raw)
        if self.compute.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return self.task(inputs, target, teacher, numbers, labelled=self.labelled, logged=logged)

    def _checked(self, terms: dict[str, Tensor], norm: Tensor, number: int) -> dict[str, Tensor]:
        if not self.scaler.is_enabled():
            check_finite(terms, norm, step=number, last=self.last, hint=self.hint)
            return {"gradient_norm": norm}
        check_finite(terms, None, step=number, last=self.last, hint=self.hint)
        # The scaler has skipped the step and halved its factor. A gradient that is infinite at a low factor is a fault.
        skipped = not bool(torch.isfinite(norm))
        if skipped and self.scaler.get_scale() < 0.5:
            check_finite(terms, norm, step=number, last=self.last, hint=self.hint)
        return {
            "gradient_norm": torch.zeros_like(norm) if skipped else norm,
            "skipped_steps": torch.full_like(norm, float(skipped)),
        }

    @property
    def learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def state(self) -> dict[str, Any]:
        """Everything that the next steps depend on. All processes must call it: each has its own random state."""
        return {
            "weights": self.task.get_checkpoint_state(),
            "average": self.task.get_checkpoint_state(ema=True) if self.has_average else {},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "last": self.last,
            "random": {
                "cpu": all_of(torch.get_rng_state()),
                "cuda": all_of(torch.cuda.get_rng_state(self.device)) if self.device.type == "cuda" else [],
            },
        }

    def load(self, state: dict[str, Any], *, steps: int) -> None:
        """Go on from a state after so many steps."""
        weights, average = state["weights"], state["average"]
        self.task.load_checkpoint_state(weights["state_dict"], weights.get("task_state"))
        if average:
            self.task.load_checkpoint_state(average["state_dict_ema"], average.get("task_state_ema"), ema=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.last = state["last"]
        self.scheduler.step_update(steps)
        torch.set_rng_state(state["random"]["cpu"][rank()])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"]["cuda"][rank()], self.device)
