"""The CUDA driver and the GPUs of this machine, read through libcuda, without torch or a CUDA toolkit."""

import ctypes
from typing import Any, NamedTuple

from rsd.machine.errors import UserError

# Attributes of the driver API (cuda.h); the numbers are part of its binary interface.
COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76


class NoDriverError(UserError):
    """There is no usable GPU: no driver, a driver that does not work, or no device."""


class Gpu(NamedTuple):
    """One device."""

    name: str
    compute_capability: str
    """Such as "8.9"."""
    memory_mib: int


class Driver(NamedTuple):
    """A driver that works, and its devices."""

    cuda: tuple[int, int]
    """The newest CUDA version that the driver runs, such as (13, 0)."""
    gpus: list[Gpu]


def driver() -> Driver:
    """The driver and the devices that CUDA_VISIBLE_DEVICES leaves visible; NoDriverError says what is missing."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise NoDriverError(
            "expected an NVIDIA driver, found none (libcuda.so.1 cannot be loaded); install the driver, or use a "
            "machine with a GPU"
        ) from error
    if status := library.cuInit(0):
        raise NoDriverError(
            f"expected an NVIDIA driver that starts, found CUDA error {status} from cuInit; look at nvidia-smi: the "
            "driver sees no GPU, or its parts are of different versions"
        )
    version = _number(library.cuDriverGetVersion)
    count = _number(library.cuDeviceGetCount)
    if not count:
        raise NoDriverError("expected a CUDA device, found a driver without any; look at CUDA_VISIBLE_DEVICES")
    return Driver((version // 1000, version % 1000 // 10), [_gpu(library, number) for number in range(count)])


def _number(query: Any, *arguments: Any) -> int:
    value = ctypes.c_int(0)
    if status := query(ctypes.byref(value), *arguments):
        raise NoDriverError(f"expected an answer from the NVIDIA driver, found CUDA error {status}; look at nvidia-smi")
    return value.value


def _gpu(library: Any, number: int) -> Gpu:
    device = _number(library.cuDeviceGet, number)
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t(0)
    library.cuDeviceGetName(name, len(name), device)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    major, minor = (
        _number(library.cuDeviceGetAttribute, attribute, device)
        for attribute in (COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR)
    )
    return Gpu(name.value.decode(), f"{major}.{minor}", memory.value >> 20)
