import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import timm
import torch
from torch import nn

from rsd.export import engine
from rsd.export.graph import checked
from rsd.export.ladder import Ladder
from rsd.export.options import export_options
from rsd.export.precisions.base import Exported
from rsd.export.pytorch_values import parts
from rsd.export.tensorrt import EngineOptions, build
from rsd.export.trace import Traced, trace
from rsd.export.ungated import write_files
from rsd.machine.files import write_json
from rsd.models.pixels import RawPixels
from rsd.sources.images import LabelledImages

MEAN, STD = [0.485], [0.229]


def _resnet() -> nn.Module:
    return timm.create_model("resnet18", layers=(1, 1, 1, 1), channels=(8, 16, 32, 64), in_chans=1, num_classes=10)


def _vit() -> nn.Module:
    args: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", in_chans=1, num_classes=10, **args)


def lively(model: nn.Module) -> nn.Module:
    """Give an untrained model what training would: gains near 1, biases and statistics that are not 0."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gain = name.endswith(("gamma", "alpha", "ls1", "ls2")) or (parameter.ndim == 1 and name.endswith("weight"))
            if gain:  # of batch norms too: gains near 0 would make every image's logits the same
                parameter.uniform_(0.8, 1.2)
            elif parameter.ndim == 1:
                parameter.normal_(0, 0.1)
            elif parameter.ndim == 2:  # timm's 0.02 lets a transformer's blocks add next to nothing
                parameter.normal_(0, parameter.shape[1] ** -0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        for layer in last_layers(model):
            layer.weight.normal_(0, 0.2)
    return model.eval()


def last_layers(model: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    """What gives the logits; some models take the mean of several heads."""
    heads = model.get_classifier()  # type: ignore[operator]
    heads = heads if isinstance(heads, tuple | nn.ModuleList) else [heads]
    return [[m for m in head.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1] for head in heads]


def telling(model: nn.Module, images: np.ndarray, mean: list[float], std: list[float]) -> nn.Module:
    """Shift the logits by their mean over the images, so that the first class depends on the image."""
    with torch.no_grad():
        logits = RawPixels(model, mean, std)(torch.from_numpy(images))
        for layer in last_layers(model):
            if layer.bias is not None:
                layer.bias -= logits.mean(dim=0)
    return model


def squares(count: int, side: int, channels: int) -> np.ndarray:
    """Raw images of coarse squares: noise would look the same to every model."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 4, 4, channels), dtype=np.uint8)
    return coarse.repeat(side // 4, axis=1).repeat(side // 4, axis=2)


def tiny_model(name: str) -> nn.Module:
    return telling(lively({"resnet": _resnet, "vit": _vit}[name]()), squares(64, 16, 1), MEAN, STD)


@dataclass(frozen=True)
class File:
    path: Path
    model: nn.Module

    def logits(self, images: np.ndarray) -> np.ndarray:
        """What PyTorch says of raw images."""
        with torch.no_grad():
            return RawPixels(self.model, MEAN, STD)(torch.from_numpy(images)).numpy()


def export(model: nn.Module, precision: str, path: Path, **changes) -> None:
    arguments: dict[str, Any] = {"metadata": {"name": "tiny", "classes": '["a", "b"]'}, "classes": 10, **changes}
    write_files(model, {precision: path}, mean=MEAN, std=STD, image_shape=(16, 16, 1), **arguments)


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return squares(64, 16, 1)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """`exported("vit", "fp16")`: a tiny model and its ONNX file, made once."""
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def make(name: str, precision: str) -> File:
        model = tiny_model(name)
        path = folder / f"{name}-{precision}.onnx"
        export(model, precision, path)
        return File(path, model)

    return make


@dataclass(frozen=True)
class Student:
    model: nn.Module
    traced: Traced

    def logits(self, images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return RawPixels(self.model, MEAN, STD)(torch.from_numpy(images)).numpy()


@pytest.fixture(scope="session")
def traced():
    """`traced("vit")`: a tiny model and its fp32 graph, made once; not to be changed."""

    @cache
    def make(name: str) -> Student:
        model = tiny_model(name)
        options: dict[str, Any] = {"image_shape": (16, 16, 1), "classes": 10, "opset": 20, "ir_version": 10}
        return Student(model, trace(model, mean=MEAN, std=STD, **options))

    return make


CLASSES = [str(number) for number in range(10)]


def labelled(student: Student, images: np.ndarray) -> LabelledImages:
    """Labels as the student gives them, so that every change of the first class is an error."""
    return LabelledImages(images, student.logits(images).argmax(axis=1), CLASSES)


def to_convert(
    student: Student, images: np.ndarray, precision: str, *, limit: float | None = None, **splits: LabelledImages
) -> Exported:
    """What the stage `convert` hands to a precision; `images` are the test split."""
    gate = export_options()().gate(precision)
    ladder = Ladder(student.logits(images), labelled(student, images))
    return Exported(
        student.traced.proto,
        parts(student.traced.program),
        ladder,
        gate if limit is None else replace(gate, limit=limit),
        (splits or {"train": ladder.test}).__getitem__,
    )


def broken(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The graph with one activation replaced by another."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    (node,) = [node for node in copy.graph.node if node.name == name]
    node.op_type = "Tanh"
    del node.attribute[:]
    return checked(copy)


@pytest.fixture(scope="session")
def built(exported, tmp_path_factory):
    """A real engine with its record, and the graph it came from."""
    folder = tmp_path_factory.mktemp("engine")
    onnx = exported("vit", "fp32").path
    options = EngineOptions(min_batch=2, opt_batch=4, max_batch=8)
    write_json(folder / "engine.json", build(onnx, folder / "model.engine", options, precision="fp32").content())
    return folder, onnx


@pytest.fixture
def trusted(monkeypatch):
    """The library has no objection: it cannot be asked about a GPU that is a fake."""
    monkeypatch.setattr(engine, "_ask_library", lambda record, path: None)


class Runner:
    """As Polygraphy's: infer() answers from the ONNX graph, into memory that it uses again."""

    sessions: dict[bytes, ort.InferenceSession] = {}  # noqa: RUF012
    device_batches: list[int] = []  # noqa: RUF012

    def __init__(self, engine):
        self.session, self.alive, self.memory = engine, False, np.zeros((8, 10), np.float32)

    def activate(self):
        self.alive = True

    def deactivate(self):
        self.alive = False

    def infer(self, feed, check_inputs, copy_outputs_to_host=True):
        assert self.alive
        batch = feed["image"]
        if isinstance(batch, DeviceArray):
            assert not copy_outputs_to_host
            self.device_batches.append(batch.shape[0])
            return {"logits": batch}
        assert 2 <= len(batch) <= 8  # the profile
        self.memory[: len(batch)] = self.session.run(["logits"], {"image": batch})[0]
        return {"logits": self.memory[: len(batch)]}


class DeviceArray:
    def __init__(self, shape, dtype):
        self.shape, self.dtype, self.filled = shape, dtype, False

    def copy_from(self, array):
        assert (array.shape, array.dtype) == (self.shape, self.dtype)


class PolygraphyError(Exception):
    pass


@pytest.fixture
def polygraphy(monkeypatch, built, gpus, trusted):
    """A machine where the engine runs."""
    gpus("8.6")
    graph = built[1].read_bytes()
    fakes = {
        "polygraphy.backend.trt": SimpleNamespace(
            EngineFromBytes=lambda content: lambda: ort.InferenceSession(graph), TrtRunner=Runner
        ),
        "polygraphy.cuda": SimpleNamespace(DeviceArray=DeviceArray),
        "polygraphy.exception": SimpleNamespace(PolygraphyException=PolygraphyError),
    }
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setenv("POLYGRAPHY_USE_TENSORRT_RTX", "")
    return fakes
