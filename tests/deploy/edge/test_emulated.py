"""The device's package on other CPUs than this one, emulated: a Raspberry Pi 4 and 5, and an x86 without VNNI."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from rsd.export.ungated import write_files
from rsd.models.pixels import RawPixels
from rsd.sources.images import ArrayImages
from tests.bundles import CLASSES, Workshop

from .serving import ask, until

PACKAGE = Path(__file__).parents[3] / "deploy" / "edge"
SHAPE, MEAN, STD = (16, 16, 1), [0.3], [0.4]
PRECISIONS = ("fp32", "fp16", "int8")
ARM_CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid {flags}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3

"""
X86_CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel Core Processor (Haswell)
flags\t\t: fpu sse4_2 avx fma f16c avx2

"""
CPUINFO = {
    "cortex-a72": ARM_CPUINFO.format(flags="", part="0xd08"),
    "cortex-a76": ARM_CPUINFO.format(flags="fphp asimdhp asimddp", part="0xd0b"),
    "Haswell": X86_CPUINFO,
}
MAY_STRAY = {"cortex-a72": "", "cortex-a76": "fp16", "Haswell": "int8"}
"""Half precision rounds more than float32, in which the golden logits of fp16 are computed; sums of int8 products
overflow without VNNI."""
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("emulated"), pytest.mark.timeout(1800)]


class Machine(NamedTuple):
    """How to start Python on an emulated CPU."""

    cpu: str
    command: list[str]
    environment: dict[str, str]

    def edge(self, root: Path, keys: Path, *arguments: str | Path) -> list[str]:
        return [*self.command, "-m", "rsd_edge", "--root", str(root), "--keys", str(keys), *map(str, arguments)]


def run(command: list[str], reason: str) -> str:
    """What a program prints that needs the network; without it the test is skipped."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"{reason}: {(done.stdout.strip().splitlines() or ['no reason'])[-1]}")
    return done.stdout


def emulator(architecture: str) -> str:
    path = shutil.which(f"qemu-{architecture}-static") or shutil.which(f"qemu-{architecture}")
    if path is None:
        pytest.skip("qemu is not here: `apt-get install qemu-user-static`")
    return path


@pytest.fixture(scope="session")
def arm_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python, the package and all that it needs for aarch64, unpacked: nothing of it runs to be installed."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        pytest.skip("an Arm root is made of Debian's packages, and apt-get is not here")
    work = tmp_path_factory.mktemp("arm")
    for folder in ("state/lists/partial", "cache/archives/partial", "root/proc"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()  # of a system without any package, so that everything is downloaded
    options = {
        "APT::Architecture": "arm64", "APT::Architectures": "arm64", "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "", "Debug::NoLocking": "1", "Dir::State": work / "state",
        "Dir::State::status": work / "status", "Dir::Cache": work / "cache",
    }  # fmt: skip
    apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
    run([*apt, "update"], "apt cannot reach Debian's packages for arm64")
    run(
        [*apt, "install", "--download-only", "-y", "python3", "libstdc++6"],
        "apt cannot download Python for arm64",
    )
    for package in sorted((work / "cache" / "archives").glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, work / "root"], check=True)
    (python,) = (work / "root" / "usr" / "bin").glob("python3.[0-9]*")
    site = work / "root" / "usr" / "lib" / "python3" / "dist-packages"
    pins = (PACKAGE / "constraints.txt").read_text().splitlines()
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    foreign = [f"--platform=manylinux{kind}_aarch64" for kind in ("2014", "_2_27", "_2_28")]
    foreign += ["--only-binary=:all:", f"--python-version={python.name.removeprefix('python')}"]
    run(
        [*pip, *foreign, *(pin for pin in pins if not pin.startswith("openvino"))],
        "pip has no wheels for aarch64",
    )
    shutil.copytree(PACKAGE, work / "package", ignore=shutil.ignore_patterns("*.egg-info", "build"))
    run([*pip, "--no-build-isolation", str(work / "package")], "pip cannot build the device's package")
    return work / "root"


@pytest.fixture(params=CPUINFO)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    cpu = request.param
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    if cpu == "Haswell":
        qemu, root, python = emulator("x86_64"), tmp_path / "x86", Path(sys.executable)
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    else:
        qemu, root = emulator("aarch64"), request.getfixturevalue("arm_root")
        python = root / "usr" / "bin" / "python3"
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc" / "cpuinfo").write_text(CPUINFO[cpu])  # without it ONNX Runtime cannot be imported on Arm
    return Machine(cpu, [qemu, "-L", str(root), "-cpu", cpu, str(python)], environment)


class Student(NamedTuple):
    models: dict[str, bytes]
    """The ONNX file of each precision."""
    images: NDArray[np.uint8]
    """That it has not seen, `[N, H, W, C]`."""


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    """A small convolutional net with average pooling, trained on scikit-learn's digits 0, 1 and 2.

    An untrained one would not do: its logits differ so little between images that rounding, which is each CPU's own,
    is a large share of their range.
    """
    pixels, labels = load_digits(n_class=len(CLASSES), return_X_y=True)
    images = (pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1).repeat(2, axis=1).repeat(2, axis=2)
    train, test = images[:-100], images[-100:]
    torch.manual_seed(0)
    model = timm.create_model(
        "resnet18", layers=(1, 1, 1, 1), channels=(8, 16, 32, 64), avg_down=True, in_chans=1, num_classes=len(CLASSES)
    )
    raw, optimizer = RawPixels(model, MEAN, STD), torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(10):
        for batch in torch.randperm(len(train)).split(64):
            loss = F.cross_entropy(raw(torch.from_numpy(train[batch.numpy()])), torch.from_numpy(labels[batch.numpy()]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    folder = tmp_path_factory.mktemp("student")
    files = {precision: folder / f"{precision}.onnx" for precision in PRECISIONS}
    write_files(
        model.eval(), files, mean=MEAN, std=STD, image_shape=SHAPE, classes=len(CLASSES),
        calibration=ArrayImages(train[:64]),
    )  # fmt: skip
    return Student({precision: path.read_bytes() for precision, path in files.items()}, test)


@contextmanager
def served(machine: Machine, root: Path, keys: Path) -> Iterator[str]:
    command = machine.edge(root, keys, "serve", "--port", "0")
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=machine.environment)
    try:
        assert started.stdout
        address = started.stdout.readline().split("http://")[1].strip()
        until(lambda: ask(address, "GET", "/v2/health/ready")[0] == 200)
        yield address
    finally:
        started.terminate()
        started.wait(60)


def test_the_device_works_on_other_cpus(machine, student, tmp_path):
    workshop = Workshop(tmp_path / "workshop")
    root = tmp_path / "device"

    def edge(*arguments: str | Path) -> str:
        command = machine.edge(root, workshop.pinned, *arguments)
        done = subprocess.run(command, env=machine.environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def choice() -> dict[str, Any]:
        return json.loads(edge("status", "--json"))["choice"]

    bundles = [workshop.signed(release, shape=SHAPE, precisions=PRECISIONS, **student._asdict()) for release in (1, 2)]
    for number, bundle in enumerate(bundles, 1):
        edge("install", bundle)
        assert f"tiny-{number}" in edge("activate")
    manifest = json.loads((bundles[1] / "manifest.json").read_text())
    rows, tolerances = choice()["rows"], manifest["golden"]["tolerances"]["logits"]
    assert {row["precision"] for row in rows} == {*PRECISIONS}
    for row in rows:  # what strays is refused with its reason
        if row["refusal"] is None:
            assert row["difference"] <= tolerances[row["precision"]]
        else:
            assert row["precision"] == MAY_STRAY[machine.cpu]
            assert re.match(r"expected .*logits.*, found .*; ", row["refusal"])
    image = next((bundles[1] / "golden" / "files").glob("*.png"))
    assert f"{image.name}: " in edge("predict", image)
    assert "p99" in edge("bench", "--samples", "50")
    with served(machine, root, workshop.pinned) as address:
        answer = json.loads(ask(address, "POST", "/v1/classify", image.read_bytes())[2])
        assert answer["release"] == 2
        assert "tiny-1: current again" in edge("rollback", "--server", f"http://{address}", "--window", "1")
        assert json.loads(ask(address, "POST", "/v1/classify", image.read_bytes())[2])["release"] == 1
    assert "tiny-1: current" in edge("recover")
