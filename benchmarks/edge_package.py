"""What the device's own package takes: seconds to install it into a fresh environment, and megabytes on the disk.

    python -m benchmarks.edge_package

A minute and a half. pip loads the wheels as it always does, from its cache where they are in it.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.command import command
from benchmarks.interleaved import markdown

PACKAGE = Path(__file__).parents[1] / "deploy" / "edge"
EXTRAS = {"ONNX Runtime": "", "ONNX Runtime and OpenVINO": "[openvino]"}


def size(folder: Path) -> int:
    """Bytes of all files below it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def install(extra: str, folder: Path) -> tuple[float, int]:
    """Seconds of `pip install`, and the bytes that it adds to an empty environment."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    before, start = size(folder), time.perf_counter()
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "-c", str(PACKAGE / "constraints.txt")]
    subprocess.run([*pip, f"{PACKAGE}{extra}"], check=True)
    return time.perf_counter() - start, size(folder) - before


def main() -> None:
    rows = []
    for name, extra in EXTRAS.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds, added = install(extra, Path(folder) / "environment")
        rows.append({"rsd-edge with": name, "s": f"{seconds:.0f}", "MB": f"{added / 1e6:.0f}"})
    print(markdown(rows))


if __name__ == "__main__":
    command(main, __doc__)
