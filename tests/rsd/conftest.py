"""Machines with a GPU and without one, as far as the CUDA driver tells; and the smallest of graphs."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from rsd.machine import cuda


class FakeDriver:
    """libcuda of a machine with these devices, seen through ctypes; `status` is what cuInit answers."""

    def __init__(self, *capabilities: str, version: int = 13000, status: int = 0) -> None:
        self.capabilities, self.version, self.status = capabilities, version, status

    def cuInit(self, flags):  # noqa: N802
        return self.status

    def cuDriverGetVersion(self, version):  # noqa: N802
        version._obj.value = self.version
        return 0

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = len(self.capabilities)
        return 0

    def cuDeviceGet(self, device, number):  # noqa: N802
        device._obj.value = number
        return 0

    def cuDeviceGetName(self, name, size, device):  # noqa: N802
        name.value = b"NVIDIA Fake"
        return 0

    def cuDeviceTotalMem_v2(self, memory, device):  # noqa: N802
        memory._obj.value = 8 << 30
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):  # noqa: N802
        value._obj.value = int(self.capabilities[device].split(".")[{75: 0, 76: 1}[attribute]])
        return 0


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(cuda.ctypes, "CDLL", absent)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`gpus("8.9", version=12040)`: from here on the driver has one device of this compute capability."""
    real = ctypes.CDLL

    def plug_in(*capabilities, **options):
        fake = FakeDriver(*capabilities, **options)
        monkeypatch.setattr(
            cuda.ctypes, "CDLL", lambda name, *rest, **named: fake if "libcuda." in str(name) else real(name, *rest)
        )

    return plug_in


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of one cast: uint8 `[N, 4, 4, 1]` -> float32 `[N, 4, 4, 1]`."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 4, 4, 1])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, 4, 1])
    node = helper.make_node("Cast", ["image"], ["logits"], to=TensorProto.FLOAT)
    graph = helper.make_graph([node], "g", [image], [logits])
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path
