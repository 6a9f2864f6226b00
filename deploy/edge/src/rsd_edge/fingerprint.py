"""What decides which pair is the fastest here: when it changes, the device chooses again."""

import platform
import re
from pathlib import Path

from rsd_edge import runtimes, timing
from rsd_edge.onnxruntime_session import runtime
from rsd_edge.records import ONNXRUNTIME, OPENVINO

_FLAGS = {
    "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "avx512_bf16", "amx_int8", "asimd", "asimddp",
    "asimdhp", "i8mm", "bf16", "sve",
}  # fmt: skip
"""Of a CPU, as /proc/cpuinfo names them: those by which a runtime chooses its kernels."""
_CPU = ("model name", "CPU implementer", "CPU part", "CPU variant", "Hardware")


def fingerprint() -> dict[str, str]:
    """The runtimes' versions, and the CPU."""
    text = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0]
    facts: dict[str, str] = dict(re.findall(r"^(.*?)\s*: (.*)$", text, re.M))
    flags = _FLAGS.intersection((facts.get("flags") or facts.get("Features") or "").split())
    return {
        "machine": platform.machine(),
        "cpu": " ".join(facts[name] for name in _CPU if name in facts),
        "flags": " ".join(sorted(flags)),
        "cores": str(timing.physical_cores()),
        ONNXRUNTIME: runtime(),
        OPENVINO: runtimes.installed(OPENVINO) or "none",
    }
