"""The facts of this machine that decide latency and engines. Fast to read, and without torch."""

import hashlib
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TypedDict

from rsd.machine.cuda import NoDriverError, driver

MACHINE_ID = Path("/etc/machine-id")
CPUINFO = Path("/proc/cpuinfo")
LIBRARIES = ("onnxruntime", "openvino", "torch", "onnx", "tensorrt", "tensorrt_rtx", "polygraphy")

# Instructions that inference kernels choose between, as /proc/cpuinfo names them: x86 first, then Arm.
CPU_FLAGS = re.compile(
    r"avx2|fma|f16c|avx_vnni(_int8)?|avx512(f|bw|vl|_vnni|_bf16|_fp16)|amx_(tile|int8|bf16|fp16)"
    r"|asimd(hp|dp)?|i8mm|bf16|sve2?"
)
INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"})
"""Those that add up products of 8-bit integers exactly, in 32 bits."""
_MAC_FEATURES = {
    "AdvSIMD": "asimd", "FEAT_FP16": "asimdhp", "FEAT_DotProd": "asimddp", "FEAT_I8MM": "i8mm", "FEAT_BF16": "bf16",
}  # fmt: skip
"""As `sysctl` names the instructions of an Arm Mac: as Linux does."""
_GPU_FACTS = ("name", "driver", "compute_capability", "memory")


class CPU(TypedDict):
    name: str
    architecture: str
    logical_cores: int
    flags: list[str]
    """Instructions that matter to inference; empty where the system does not tell."""


class Fingerprint(TypedDict):
    """The lasting facts of a machine. A host name, a path, a kernel or a clock would make the record of it change."""

    machine: str | None
    """A digest of the machine's id, which tells two of the same kind apart."""
    cpu: CPU
    memory_gib: int
    python: str
    gpus: list[dict[str, str]]
    """Name, driver, compute capability, memory; empty without a driver."""
    versions: dict[str, str | None]
    """Of the runtimes; None where one is missing."""


def fingerprint() -> Fingerprint:
    """The facts of this machine, equal at every call until hardware, driver or a library changes."""
    cpuinfo = _cpuinfo()
    flags = (cpuinfo.get("flags") or cpuinfo.get("Features") or "").split()
    return {
        "machine": _machine(),
        "cpu": {
            "name": cpuinfo.get("model name") or _board() or platform.processor() or "unknown",
            "architecture": platform.machine(),
            "logical_cores": cores(),
            "flags": sorted(filter(CPU_FLAGS.fullmatch, {*flags})),
        },
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "gpus": _gpus_by_tool() or _gpus_by_driver(),
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def short_name(fingerprint: Fingerprint) -> str:
    """One phrase for tables, e.g. `AMD EPYC, 2 cores` or `AMD EPYC, 2 cores, NVIDIA GeForce RTX 4090`."""
    cpu = fingerprint["cpu"]
    cores = cpu["logical_cores"]
    parts = [cpu["name"], f"{cores} core{'' if cores == 1 else 's'}"]
    return ", ".join(parts + [gpu["name"] for gpu in fingerprint["gpus"]])


def cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine() -> str | None:
    own = MACHINE_ID.read_bytes() if MACHINE_ID.is_file() else b""
    # System images hold an empty file, or this word, until the machine first starts.
    return None if own.strip() in (b"", b"uninitialized") else hashlib.sha256(own).hexdigest()[:12]


def _cpuinfo() -> dict[str, str]:
    """The lines of the first processor in /proc/cpuinfo, or what macOS says in their place; empty without either."""
    if platform.system() == "Darwin":
        sysctl = _output(["sysctl", "machdep.cpu", "hw.optional.arm"])
        facts = dict(line.split(": ", 1) for line in sysctl.splitlines() if ": " in line)
        flags = [flag for name, flag in _MAC_FEATURES.items() if facts.get(f"hw.optional.arm.{name}") == "1"]
        return {"model name": facts.get("machdep.cpu.brand_string", ""), "Features": " ".join(flags)}
    if not CPUINFO.is_file():
        return {}
    pairs = (line.split(":", 1) for line in CPUINFO.read_text().split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _board() -> str:
    """The name of the board, for a CPU without a name, as on a Jetson."""
    path = Path("/proc/device-tree/model")
    return path.read_text().strip("\0\n ") if path.is_file() else ""


def _gpus_by_driver() -> list[dict[str, str]]:
    """From the driver itself: many a Jetson has no nvidia-smi."""
    try:
        cuda, gpus = driver()
    except NoDriverError:
        return []
    version = "CUDA {}.{}".format(*cuda)
    rows = ((gpu.name, version, gpu.compute_capability, f"{gpu.memory_mib} MiB") for gpu in gpus)
    return [dict(zip(_GPU_FACTS, row, strict=True)) for row in rows]


def _gpus_by_tool() -> list[dict[str, str]]:
    fields = ("name", "driver_version", "compute_cap", "memory.total")
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    rows = (line.split(", ") for line in _output(query).splitlines())
    return [dict(zip(_GPU_FACTS, row, strict=True)) for row in rows if len(row) == len(_GPU_FACTS)]


def _output(command: list[str]) -> str:
    """What a program prints; empty if it fails or is not here."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
