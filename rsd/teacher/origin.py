"""Where a teacher comes from: trained here, fine-tuned from timm's weights, or taken as it is."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import timm
import timm.models
from pydantic import BaseModel, Field, ValidationError, model_validator
from torch import Tensor, nn

from rsd.machine.errors import UserError
from rsd.machine.files import sha256
from rsd.machine.options import UserPath
from rsd.models.folder import load_state, misfits
from rsd.models.make import ModelOptions, create
from rsd.sources.images import DatasetRecord
from rsd.sources.listing import STATED, weights_file

TRAINED = ("pretrain", "finetune")
"""The sources of a teacher that is trained here, and so needs a recipe."""


class TeacherOptions(ModelOptions):
    """A teacher by its timm name, and where its weights come from."""

    source: Literal["pretrain", "finetune", "hub", "file"] = "pretrain"
    """`pretrain`: trained here from random weights; `finetune`: timm's weights, from the hub or from `path`, with a
    new head, trained here; `hub`: timm's weights as they are, head and all; `file`: read from `path`."""
    path: UserPath | None = None
    """For `file`: a `.safetensors` or timm-style `.pth` checkpoint of this model and these classes, or a folder with
    `model.safetensors`. For `finetune`: one of this model and any classes, in place of the hub's."""
    recipe: str | None = None
    """For `pretrain` and `finetune`: a name in conf/recipe."""
    seed: int = Field(0, ge=0)
    """For `pretrain` and `finetune`: seed of the new weights, the order and the views."""
    input_size: int | None = Field(None, ge=8)
    """Side in pixels to which images are resized for the teacher alone; null takes them as they are served."""
    min_top1: float = Field(0.0, ge=0, le=100)
    """Validation top-1 in per cent below which the pipeline stops."""

    @model_validator(mode="after")
    def _complete(self) -> "TeacherOptions":
        if self.source == "file" and self.path is None:
            raise ValueError("expected a path with source 'file', found none")
        if self.source in ("pretrain", "hub") and self.path is not None:
            raise ValueError(f"expected no path with source '{self.source}', found {self.path}")
        if self.source in TRAINED and self.recipe is None:
            raise ValueError(f"expected the name of a recipe with source '{self.source}', found none")
        if self.from_hub and not ((cfg := timm.get_pretrained_cfg(self.name)) and cfg.has_weights):
            raise ValueError(
                f"expected a model with weights on timm's hub with source '{self.source}', found that "
                f"'{self.name}' has none; timm.list_pretrained() names those that have"
            )
        return self

    @property
    def model(self) -> ModelOptions:
        return ModelOptions(name=self.name, args=self.args)

    @property
    def from_hub(self) -> bool:
        return self.source == "hub" or (self.source == "finetune" and self.path is None)


class Stated(BaseModel):
    """What a `model.json` beside weights may say of them; all else in it is not ours to judge."""

    classes: list[str] | None = None
    """In the order of the head."""
    mean: list[float] | None = Field(None, min_length=1)
    """Per channel, of pixels in [0, 1], as is `std`."""
    std: list[Annotated[float, Field(gt=0)]] | None = Field(None, min_length=1)
    input_size: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _both(self) -> "Stated":
        if len(self.mean or []) != len(self.std or []):
            raise ValueError("expected as many values in mean as in std")
        return self


class Teacher(NamedTuple):
    """A teacher as it comes from its source, before any training here."""

    model: nn.Module
    mean: list[float]
    std: list[float]
    input_size: int | None
    """What it wants images resized to; None: as they are served."""
    weights: str | None
    """SHA-256 of the weights that it starts from; None for random ones."""


def teacher(options: TeacherOptions, data: DatasetRecord) -> Teacher:
    """Make the teacher with the weights of its source; what is new in it is drawn from torch's random state.

    The normalisation is the data's for `pretrain` and `file` and that of timm's `pretrained_cfg` for `hub` and
    `finetune`; a `model.json` beside `path` stands above both. Its values are averaged for images of another number
    of channels, to which timm adapts the weights.

    Raises:
        UserError: the weights are missing, cannot be read safely or fetched, or do not fit the model and classes.
    """
    file = weights_file(options.path) if options.path else None
    stated = read_stated(file) if file else Stated()
    input_size = options.input_size or stated.input_size
    shape = (input_size or data.height, input_size or data.width, data.channels)
    model = create(options.model, classes=len(data.classes), image_shape=shape)
    mean, std, weights = data.mean, data.std, sha256(file) if file else None
    if options.source == "file":
        assert file is not None  # TeacherOptions has checked it
        check_classes(stated, data, file)
        load_checkpoint(model, file)
    elif options.source != "pretrain":
        if options.source == "hub":
            _check_hub_classes(options, data)
        source = _from_timm(options, model, file, channels=data.channels)
        weights = weights or _digest(source.state_dict())
        _adopt(model, source)
        cfg = _cfg(source)
        mean, std = list(cfg["mean"]), list(cfg["std"])
    mean, std = stated.mean or mean, stated.std or std
    return Teacher(model, _per_channel(mean, data.channels), _per_channel(std, data.channels), input_size, weights)


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load a timm-style checkpoint; wrappers (`state_dict`, `model`, EMA) and prefixes are seen through.

    Nothing but tensors and plain values is unpickled.

    Raises:
        UserError: the file is missing, is no checkpoint, or does not fit the model.
    """
    state, own = read_state(path), model.state_dict()
    head = head_names(model)
    expected, found = (head_classes(tensors, head) for tensors in (own, state))
    rest = ({name: tensor for name, tensor in tensors.items() if name not in head} for tensors in (own, state))
    if found != expected and not misfits(*rest):
        raise UserError(
            f"expected a head for {expected} classes, as the data has, in {path}, found "
            f"{f'one for {found}' if found else 'none'}; "
            "give a checkpoint of these classes, or train a new head with teacher.source finetune"
        )
    load_state(model, state, path=path, what="the teacher")


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a timm-style checkpoint, without wrappers and prefixes.

    Raises:
        UserError: the file is missing, or is no checkpoint of tensors that can be read safely.
    """
    try:
        state = timm.models.load_state_dict(str(weights_file(path)), weights_only=True)
        if not (state and all(isinstance(tensor, Tensor) for tensor in state.values())):
            raise TypeError("it holds other things than named tensors")
    except UserError:
        raise
    except Exception as error:  # torch, safetensors and zipfile each raise their own
        raise UserError(
            f"expected a checkpoint of tensors in {path}, found something that cannot be read safely "
            f"({_first_line(error)}); save it again as safetensors or as a plain state dict"
        ) from error
    return state


def read_stated(weights: Path) -> Stated:
    """What the `model.json` beside a file of weights says; nothing if there is none."""
    file = weights.with_name(STATED)
    if not file.is_file():
        return Stated()
    try:
        return Stated.model_validate_json(file.read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        fault = error.errors()[0] if isinstance(error, ValidationError) else {"msg": "no text", "loc": ()}
        where = ".".join(str(part) for part in fault["loc"])
        raise UserError(
            f"expected {file} to state classes, mean, std or input_size of the weights beside it, found: "
            f"{where}{': ' if where else ''}{fault['msg']}; correct it or take it away"
        ) from error


def check_classes(stated: Stated, data: DatasetRecord, weights: Path) -> None:
    """Refuse weights whose `model.json` names other classes than the data, or the same in another order."""
    if stated.classes is None or stated.classes == data.classes:
        return
    if sorted(stated.classes) == sorted(data.classes):
        at = next(i for i, (a, b) in enumerate(zip(stated.classes, data.classes, strict=True)) if a != b)
        found = f"the same in another order (class {at} is '{stated.classes[at]}' instead of '{data.classes[at]}')"
    else:
        unknown = [name for name in stated.classes if name not in data.classes]
        found = f"{len(stated.classes)} classes" + (f", such as {unknown[0]!r}, unknown to it" if unknown else "")
    raise UserError(
        f"expected the data's {len(data.classes)} classes in {weights.with_name(STATED)}, found {found}; "
        "give weights of these classes, or train a new head with teacher.source finetune"
    )


def head_names(model: nn.Module) -> list[str]:
    """Names in the state dict of a timm model's classifier, or classifiers."""
    found = model.get_classifier()  # type: ignore[operator]
    heads = found if isinstance(found, tuple | list) else (found,)
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if any(module is head for head in heads))
    return [name for name in model.state_dict() if name.startswith(prefixes)] if prefixes else []


def head_classes(state: dict[str, Tensor], head: list[str]) -> int:
    """For how many classes the head in `state` is: the outputs of its last layer, 0 without a head."""
    present = [name for name in head if name in state]
    return len(state[present[-1]]) if present and state[present[-1]].ndim else 0


def _check_hub_classes(options: TeacherOptions, data: DatasetRecord) -> None:
    cfg = timm.get_pretrained_cfg(options.name)
    found = cfg.num_classes if cfg else 0
    if found != len(data.classes):
        raise UserError(
            f"expected a head for {len(data.classes)} classes, as the data has, found {found} in timm's "
            f"'{options.name}'; train a new head with teacher.source finetune"
        )


def _from_timm(options: TeacherOptions, model: nn.Module, file: Path | None, *, channels: int) -> nn.Module:
    """The model as timm loads it, with the head that its weights have, from the hub or from `file`.

    timm knows how weights of older formats, another input size or other channels become this model's. With the
    weights' own number of classes it loads strictly: nothing is left at random.
    """
    cfg = _cfg(model)
    if file is None:
        state: dict[str, Tensor] = {}
        overlay: dict[str, Any] = {}
        classes = cfg["num_classes"]
    else:
        state = read_state(file)
        classes = head_classes(state, head_names(model))
        stem = _stem(model, cfg)
        # What the default cfg says of offset and channels it says of the hub's file.
        overlay = {"file": str(file), "num_classes": classes, "label_offset": 0, "first_conv": stem}
        weight = f"{stem}.weight"
        if weight in state and state[weight].shape == model.state_dict()[weight].shape:
            overlay["input_size"] = (channels, *cfg["input_size"][1:])
    try:
        return timm.create_model(
            options.name,
            pretrained=True,
            num_classes=classes,
            in_chans=channels,
            pretrained_cfg_overlay=overlay,
            **options.args,
        )
    except Exception as error:  # whatever timm, the hub's client or the network raise
        if file is not None:
            head = head_names(model)
            own = {name: tensor for name, tensor in model.state_dict().items() if name not in head}
            rest = {name: tensor for name, tensor in state.items() if name not in head}
            raise UserError(
                f"the weights in {file} do not fit the teacher '{options.name}' with {options.args}: "
                f"{misfits(own, rest) or _first_line(error)}; give weights of this model, or change its name and args"
            ) from error
        if isinstance(error, RuntimeError) and "loading state_dict" in str(error):
            faults = " ".join(str(error).split())
            raise UserError(
                f"expected teacher.args that leave the hub's weights of '{options.name}' fitting, found "
                f"{options.args}: {faults[:300]}; change teacher.args"
            ) from error
        raise UserError(
            f"expected the weights of '{options.name}' on the hub or in its cache, found that they cannot be had "
            f"({_first_line(error)}); run this once where there is a network and set HF_HOME to a copy of that cache "
            "here, or give a file of weights as teacher.path with source finetune or file"
        ) from error


def _cfg(model: nn.Module) -> dict[str, Any]:
    """What timm says of the weights: their classes, input, normalisation."""
    return model.pretrained_cfg  # type: ignore[return-value]


def _stem(model: nn.Module, cfg: dict[str, Any]) -> str | None:
    """The convolution that sees the channels: the cfg's, or the first where `args` have made another stem."""
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    named = cfg.get("first_conv")
    return named if named in convolutions else next(iter(convolutions), None)


def _adopt(model: nn.Module, source: nn.Module) -> None:
    """Give `model` the weights of `source`; where the head is of another shape its new one stays."""
    own, state = model.state_dict(), source.state_dict()
    for name in head_names(model):
        if name not in state or state[name].shape != own[name].shape:
            state[name] = own[name]
    model.load_state_dict(state)


def _per_channel(values: list[float], channels: int) -> list[float]:
    return values if len(values) == channels else [sum(values) / len(values)] * channels


def _digest(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_accuracy(top1: float, options: TeacherOptions) -> None:
    """Stop a pipeline whose teacher is too weak.

    Raises:
        UserError: the validation top-1 (per cent) is below `min_top1`.
    """
    if top1 < options.min_top1:
        raise UserError(
            f"expected a teacher with at least {options.min_top1:.2f} % validation top-1, found {top1:.2f} %; "
            "train it longer, check that its classes are in the data set's order, or lower teacher.min_top1"
        )
