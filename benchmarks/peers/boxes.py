"""The same steps by torchdistill's `DistillationBox`, configured as its sample configurations are.

torchdistill is no dependency of the project; without it importing this module is an `ImportError`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchdistill.core.distillation import DistillationBox, get_distillation_box

from benchmarks.peers.trainers import CLIP, LEARNING_RATE, METHODS, MOMENTUM, REMEMBERED, SEED, Bench, Trainer
from rsd.methods.crd import ContrastiveEmbeddings, CRDOptions
from rsd.methods.kd import KDOptions
from rsd.methods.rkd import RKDOptions
from rsd.models.outputs import embedding_width

EMBEDDING = {"ResNet": "global_pool", "VisionTransformer": "head_drop", "SwinTransformer": "head.global_pool"}
"""By class of the model, the module whose output is the penultimate embedding."""
LOGITS = {
    "student_module_path": ".", "student_module_io": "output",
    "teacher_module_path": ".", "teacher_module_io": "output",
}  # fmt: skip
CROSS_ENTROPY = {
    "criterion": {"key": "CrossEntropyLoss", "kwargs": {}},
    "criterion_wrapper": {
        "key": "SimpleLossWrapper",
        "kwargs": {
            "input": {"is_from_teacher": False, "module_path": ".", "io": "output"},
            "target": {"uses_label": True},
        },
    },
    "weight": 1.0,
}


def _own_term(method: str, student: str, teacher: str) -> dict[str, Any]:
    """The method's loss; for KD with the cross-entropy in it. `student`, `teacher`: paths of the embeddings."""
    options = METHODS[method][1]
    key, kwargs = "DISTLoss", dict[str, Any](LOGITS)
    if isinstance(options, KDOptions):
        key, kwargs = "KDLoss", {**LOGITS, "temperature": options.temperature, "alpha": 1.0, "beta": 1.0}
    elif isinstance(options, RKDOptions):
        key, kwargs = "RKDLoss", {
            "student_output_path": student, "teacher_output_path": teacher, "dist_factor": options.distance_weight,
            "angle_factor": options.angle_weight, "reduction": "mean",
        }  # fmt: skip
    elif isinstance(options, CRDOptions):
        key, kwargs = "CRDLoss", {
            "student_norm_module_path": "normalizer", "student_empty_module_path": "empty",
            "teacher_norm_module_path": "normalizer", "input_size": options.width, "output_size": REMEMBERED,
            "num_negative_samples": options.negatives, "num_samples": REMEMBERED, "temperature": options.temperature,
            "momentum": options.momentum,
            "eps": 0.0,  # by default 1e-7, which adds 2 x 1e-7 x the images remembered to the loss
        }  # fmt: skip
    return {"key": key, "kwargs": kwargs}


def _model(model: nn.Module, method: str, *, trained: bool) -> dict[str, Any]:
    """What the box does to a model: which outputs it keeps, and what it trains of it."""
    path = EMBEDDING[type(model).__name__]
    options = METHODS[method][1]
    if isinstance(options, CRDOptions):
        linear = {"in_features": embedding_width(model), "out_features": options.width}
        return {
            "forward_proc": "forward_batch_supp_dict",
            "auxiliary_model_wrapper": {
                "key": "Linear4CRD",
                "kwargs": {"input_module_path": f"model.{path}", "linear_kwargs": linear},
            },
            "forward_hook": {"input": ["empty"] if trained else [], "output": [f"model.{path}", "normalizer"]},
            "requires_grad": True,  # the linear map over the teacher is trained, too
            "frozen_modules": [] if trained else ["model"],
        }
    return {
        "forward_proc": "forward_batch_only",
        "forward_hook": {"input": [], "output": [path] if method == "rkd" else []},
        "requires_grad": trained,
    }


def torchdistill_box(bench: Bench, method: str) -> Trainer:
    """A step as torchdistill's training script makes it, for a method of its own: kd, dist, rkd, crd."""
    student, teacher = bench.student, bench.teacher
    own = _own_term(method, EMBEDDING[type(student).__name__], EMBEDDING[type(teacher).__name__])
    terms = {method: {"criterion": own, "weight": 1.0}}
    if method != "kd":
        terms["ce"] = CROSS_ENTROPY
    box = get_distillation_box(
        teacher,
        student,
        dataset_dict={},
        train_config={
            "num_epochs": 1,
            "teacher": _model(teacher, method, trained=False),
            "student": _model(student, method, trained=True),
            "optimizer": {
                "key": "SGD",
                "kwargs": {"lr": LEARNING_RATE, "momentum": MOMENTUM, "nesterov": True},  # timm's sgd is Nesterov's
                "max_grad_norm": CLIP,
            },
            "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
        },
        device=bench.device,
        device_ids=None,
        distributed=False,
        lr_factor=1,
    )
    supplement = _begin_as_ours(box, bench) if method == "crd" else {}
    box.pre_epoch_process(epoch=0)

    def step() -> Tensor:
        loss = box.forward_process(bench.normalize(bench.raw), bench.target, supplement)
        box.post_forward_process(loss=loss)
        return loss.detach()

    return Trainer(student, box.optimizer, step)


def _begin_as_ours(box: DistillationBox, bench: Bench) -> dict[str, Tensor]:
    """Give a box for CRD the linear maps and memories that ours begins with; the step's images and their negatives.

    Its data loader draws the negatives, hence before the step; ours draws them in it.
    """
    options = METHODS["crd"][1]
    assert isinstance(options, CRDOptions)
    torch.manual_seed(SEED)
    widths = embedding_width(bench.student), embedding_width(bench.teacher)
    begin = ContrastiveEmbeddings(*widths, options.width, REMEMBERED)
    criterion, _ = box.criterion.term_dict["crd"]
    criterion.to(bench.device)
    box.student_model.normalizer.linear.load_state_dict(begin.student.state_dict())
    box.teacher_model.normalizer.linear.load_state_dict(begin.teacher.state_dict())
    criterion.memory_v1.copy_(begin.student_bank.vectors)
    criterion.memory_v2.copy_(begin.teacher_bank.vectors)
    torch.manual_seed(SEED)
    index = torch.from_numpy(bench.index).to(bench.device)
    others = torch.randint(REMEMBERED - 1, (len(index), options.negatives), device=bench.device)
    others = others + (others >= index[:, None])
    return {"pos_idx": index, "contrast_idx": torch.cat([index[:, None], others], dim=1)}
