"""Who teaches whom, at which size: a choice for images, labels, a device and this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.request import Request, urlopen

import timm
import torch
from huggingface_hub import hf_hub_url, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_OFFLINE
from pydantic import Field, JsonValue, ValidationError

from rsd.machine.errors import UserError
from rsd.machine.faults import in_words
from rsd.measure.budget.kit import arguments
from rsd.models.folder import Pixels, read_config
from rsd.models.make import ModelOptions
from rsd.models.timm_weights import adopt_weights
from rsd.run.names import CONFIG
from rsd.sources.listing import NAMES, weights_file


class Device(NamedTuple):
    """What suits a kind of device. Only CPUs like this machine's were measured: `rsd budget` measures yours."""

    student: str
    largest_side: int
    """Of the served images, in pixels."""
    precisions: tuple[str, ...]
    architectures: tuple[str, ...]
    engine: str = "auto"
    """The library of its engines."""


DEVICES = {
    # A CPU of Arm without a use for fp16 files: ONNX Runtime lacks kernels for them on a Cortex-A76.
    "pi5": Device("mobilenetv4_conv_small", 160, ("fp32", "int8"), ("aarch64",)),
    "cpu": Device("mobilenetv4_conv_small", 224, ("fp32", "int8"), ("x86_64", "aarch64")),
    # A GPU runs dense convolutions well, and fp16 faster than fp32.
    "jetson": Device("resnet18", 224, ("fp32", "fp16", "int8"), ("aarch64",), "tensorrt"),
}
SIDES = (16, 24, 32, 48, 64, 96, 128, 160, 192, 224)
SMALL = 128  # images of a smaller side get a narrow ResNet: a mobile network shrinks them 32-fold, to a few pixels
SMALL_STUDENT: dict[str, JsonValue] = {
    "layers": [1, 1, 1, 1],
    "channels": [16, 32, 64, 128],
    "stem_type": "deep",
    "stem_width": 16,
}
OWN_TEACHER: dict[str, JsonValue] = SMALL_STUDENT | {"channels": [32, 64, 128, 256], "stem_width": 32}
LARGEST_TEACHER, USUAL_TEACHER = 384, 224
"""Sides in pixels: a ViT of the hub for larger images than the first gets the second. DINOv2's own 518 pixels take five
times as long."""
HUB_TEACHER = "convnext_tiny.in12k_ft_in1k"
FEW_LABELS = 2_000
"""With fewer labels, or without a GPU, a teacher of other classes gets a linear classifier, and is not trained."""


class Model(NamedTuple):
    """A model of a pair, where its weights come from, and why."""

    options: ModelOptions
    section: dict[str, str]
    """What the pair says beside name and args."""
    why: str
    """Where its weights come from, in words."""
    advice: str = ""
    """What to expect of it."""
    side: int | None = None
    """To which images are resized for it, in pixels; None: as they are served."""


def device_of(name: str) -> Device:
    """The device of that name; UserError if there is none."""
    if name not in DEVICES:
        raise UserError(f"expected a device out of {', '.join(DEVICES)}, found '{name}'; correct --device")
    return DEVICES[name]


def served_side(side: int, device: Device) -> int:
    """The side at which images are served: none is enlarged as a rule, and no device gets more than it can use."""
    return max((one for one in SIDES if one <= min(side, device.largest_side)), default=SIDES[0])


def choose_student(name: str | None, size: int, device: Device) -> Model:
    """The student named, or the device's; with the hub's weights if they can be had. UserError for an unknown model."""
    if name is None and size < SMALL:
        return Model(_options("resnet18", SMALL_STUDENT), {}, "narrow, for small images; from random weights")
    student = _options(name or device.student, arguments(name or device.student, size))
    if on_hub(student.name) is None:
        return Model(student, {"weights": "hub"}, "from timm's weights on the hub")
    return Model(student, {}, "from random weights")


def choose_teacher(name: str | None, *, classes: list[str], labels: int) -> Model:
    """The teacher named, the file named, or the best that can be had here.

    Args:
        classes: of the data, in order.
        labels: training images with a label.

    Raises:
        UserError: timm has no such model, its weights cannot be had, or the file does not say which model it is of.
    """
    if name is not None and (Path(name).exists() or name.endswith((".safetensors", ".pth", ".pt", ".bin"))):
        return _from_file(Path(name), classes, labels)
    if name is None:
        fault = on_hub(HUB_TEACHER)
        if fault is None:
            return choose_teacher(HUB_TEACHER, classes=classes, labels=labels)
        return Model(
            _options("resnet18", OWN_TEACHER),
            {"source": "pretrain"},
            f"trained here on your {labels:,} labels, since timm's hub is out of reach ({fault})",
            "It knows nothing but these labels, so expect little gain over the plainly trained twin. A strong teacher "
            "helps more: run this where there is a network, or give --teacher FILE.",
        )
    teacher = _options(name)
    cfg = timm.get_pretrained_cfg(teacher.name)
    if cfg is None or not cfg.has_weights:
        return Model(teacher, {"source": "pretrain"}, f"trained here on {labels:,} labels, since timm has no weights")
    if fault := on_hub(teacher.name):
        raise UserError(
            f"expected the weights of '{name}' on timm's hub or in its cache, found that they cannot be had ({fault}); "
            "fetch them where there is a network and give the file or folder: --teacher FILE"
        )
    side = cfg.input_size[-1]
    if name.startswith("vit_") and side > LARGEST_TEACHER:
        side = USUAL_TEACHER
        teacher = _options(name, {"img_size": side})
    if cfg.num_classes == len(classes):
        advice = f"Its {cfg.num_classes:,} classes must be yours, in the order of their names; else set source: probe."
        return Model(teacher, {"source": "hub"}, "timm's weights with their own classifier", advice, side)
    return _of_other_classes(teacher, "hub", labels, side)


def _from_file(path: Path, classes: list[str], labels: int) -> Model:
    file = weights_file(path)
    config = file.with_name(CONFIG)
    if not config.is_file():
        raise UserError(
            f'expected {config}, which says what model {file.name} is of, found none; write {{"architecture": "NAME"}} '
            "with timm's name there, or give a folder as timm.models.save_for_hf writes it"
        )
    described = read_config(config.parent, _Described)
    args = {key: value for key, value in described.model_args.items() if key not in ("num_classes", "in_chans")}
    teacher = _options(described.architecture, args)
    own, stated = args.get("img_size"), described.input_size
    side = own if isinstance(own, int) else stated[-1] if stated else None
    model = timm.create_model(teacher.name, num_classes=len(classes), **teacher.args)
    # What does not fit is a sentence before the run.
    _, new_head = adopt_weights(model, teacher, file, channels=3, role="teacher")
    if not new_head and described.label_names in (None, classes):
        section = {"source": "file", "weights": str(path)}
        return Model(teacher, section, f"from {path}, whose classes are as many as yours", side=side)
    return _of_other_classes(teacher, str(path), labels, side)


class _Described(Pixels):
    architecture: str
    model_args: dict[str, JsonValue] = Field({})


def _of_other_classes(teacher: ModelOptions, weights: str, labels: int, side: int | None) -> Model:
    """A teacher that gets a new classifier: trained whole with many labels and a GPU, else the classifier alone."""
    place = "timm's hub" if weights == "hub" else weights
    trained = labels >= FEW_LABELS and torch.cuda.is_available()
    how = "trained here" if trained else "as it is, with a linear classifier"
    section = {"source": "finetune" if trained else "probe", "weights": weights}
    return Model(teacher, section, f"weights from {place}, {how} on {labels:,} labels", side=None if trained else side)


def on_hub(name: str) -> str | None:
    """Why timm's weights of a model cannot be had, from the hub's cache here or from the hub; None: they can."""
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights or not cfg.hf_hub_id:
        return "timm has none"
    if any(isinstance(try_to_load_from_cache(cfg.hf_hub_id, file), str) for file in NAMES):
        return None
    if HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    # Not by the hub's client, which tries for half a minute.
    request = Request(hf_hub_url(cfg.hf_hub_id, CONFIG), method="HEAD")  # noqa: S310
    try:
        with urlopen(request, timeout=5):  # noqa: S310
            return None
    except OSError as error:
        return str(getattr(error, "reason", error))


def _options(name: str, args: Mapping[str, JsonValue] | Mapping[str, int] | None = None) -> ModelOptions:
    try:
        return ModelOptions(name=name, args=dict(args or {}))
    except ValidationError as error:
        raise UserError(in_words(error.errors()[0])) from error
