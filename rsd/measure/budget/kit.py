"""A kit: candidate students as ONNX files, with what times them on a device that has onnxruntime and numpy."""

import gzip
import io
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from rsd.export import runtimes
from rsd.export.precisions import names
from rsd.export.runtimes import base as runtimes_base
from rsd.export.runtimes import onnxruntime
from rsd.export.ungated import write_files
from rsd.machine import cuda, errors, modules
from rsd.machine import fingerprint as device
from rsd.machine.errors import UserError
from rsd.machine.files import sha256, write_json, written_aside
from rsd.measure import latency
from rsd.measure.budget import runner
from rsd.measure.budget.records import KitStudent, Packed
from rsd.measure.latency import Plan
from rsd.models.make import ModelOptions, create, parameter_count
from rsd.sources.images import Images

LADDER = (
    "test_resnet",
    "lcnet_050",
    "mobilenetv4_conv_small_050",
    "mobilenetv3_small_100",
    "mobilenetv2_100",
    "mobilenetv4_conv_small",
    "efficientnet_lite0",
    "repvit_m0_9",
    "resnet10t",
    "vit_tiny_patch16_224",
    "mobilenetv4_conv_medium",
)
"""timm models of different shapes with 0.3 M to 10 M parameters, of families that run well on CPUs. Each has weights
under a permissive licence and takes images from 16 x 16 up."""

PART = '''"""The part of rsd that times models; see run.py."""

import sys
from os import environ

if sys.version_info < (3, 10):
    sys.exit("error: expected Python 3.10 or newer, found %d.%d; start run.py with a newer one" % sys.version_info[:2])

environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read by ONNX Runtime when it is imported
'''


def arguments(name: str, side: int) -> dict[str, int]:
    """The arguments by which a model of the ladder takes images of this size; a convolutional network takes any."""
    if name.startswith("vit_"):
        return {"img_size": side, "patch_size": max(4, side // 14)}
    return {}


def write_kit(
    path: Path,
    students: Sequence[ModelOptions],
    *,
    image_shape: tuple[int, int, int],
    classes: int,
    precisions: Sequence[str] | None = None,
    plan: Plan,
    ready: dict[str, Path] | None = None,
    calibration: Images | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[KitStudent]:
    """Write `path`, a folder or, if it ends with .tar.gz, an archive of one, always the same bytes; what is packed.

    Args:
        students: the candidates; the weights are random, since latency does not depend on them.
        image_shape: (height, width, channels).
        precisions: all that there are if None.
        ready: precision -> an exported file of the *first* student, which is packed as it is.
        calibration: uint8 `[N, H, W, C]` for int8; noise if None.

    Raises:
        UserError: none of the students can be exported for these images. If some can, `say` names those left out.
    """
    if path.exists() and not (path / "kit.json").is_file() and not path.name.endswith(".tar.gz"):
        raise UserError(f"expected a new folder for the kit, or one with a kit in it, found {path}; choose another")
    packed: list[KitStudent] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "kit"
        (folder / "models").mkdir(parents=True)
        for index, options in enumerate(students):
            try:
                files = ready or {} if index == 0 else {}
                packed.append(_pack(folder, options, image_shape, classes, precisions or names(), files, calibration))
            except UserError as error:
                say(f"{options.name} is left out: {error}")
            else:
                say(f"{packed[-1].name}: {packed[-1].parameters / 1e6:.2f} M parameters")
        if not packed:
            raise UserError("expected a student that takes these images, found none; name others")
        students_packed = [student.model_dump(mode="json") for student in packed]
        kit = {"format": runner.FORMAT, "options": asdict(plan), "candidates": students_packed}
        write_json(folder / "kit.json", kit)
        shutil.copyfile(str(runner.__file__), folder / "run.py")
        for module in (latency, device, cuda, errors, modules, runtimes, runtimes_base, onnxruntime):
            source = Path(str(module.__file__))
            target = folder / source.relative_to(Path(__file__).parents[3])
            target.parent.mkdir(parents=True, exist_ok=True)
            (target.parent / "__init__.py").touch()
            shutil.copyfile(source, target)
        (folder / "rsd" / "__init__.py").write_text(PART)
        with written_aside(path) as aside:
            if path.name.endswith(".tar.gz"):
                aside.write_bytes(_archive(folder))
            else:
                shutil.copytree(folder, aside)
    return packed


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """A kit's folder, of an archive a temporary one; UserError if it is no kit, or would be unpacked elsewhere."""
    if path.is_dir():
        yield _kit(path, path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with tarfile.open(path, "r:gz") as archive:
                archive.extractall(scratch, filter="data")
        except (OSError, EOFError, tarfile.TarError) as error:
            raise UserError(
                f"expected a kit, a folder or a .tar.gz, at {path}, found: {error}; write it again"
            ) from error
        yield _kit(Path(scratch) / "kit", path)


def _kit(folder: Path, path: Path) -> Path:
    if not (folder / "kit.json").is_file():
        raise UserError(f"expected a kit at {path}, found no kit.json in it; `rsd budget kit` writes one")
    return folder


def _pack(
    folder: Path,
    options: ModelOptions,
    image_shape: tuple[int, int, int],
    classes: int,
    precisions: Sequence[str],
    ready: dict[str, Path],
    calibration: Images | None,
) -> KitStudent:
    model = randomised(create(options, classes=classes, image_shape=image_shape), image_shape)
    name, number = options.name, 1
    while list((folder / "models").glob(f"{name}-*.onnx")):  # the same timm model with other arguments
        number += 1
        name = f"{options.name}_{number}"
    targets = {precision: folder / "models" / f"{name}-{precision}.onnx" for precision in precisions}
    channels = image_shape[2]
    if missing := {precision: path for precision, path in targets.items() if precision not in ready}:
        write_files(
            model,
            missing,
            mean=[0.5] * channels,
            std=[0.25] * channels,
            image_shape=image_shape,
            classes=classes,
            calibration=calibration,
            metadata={"weights": "random: for latency only"},
        )
    files = {}
    for precision, target in targets.items():
        if precision in ready:
            shutil.copyfile(ready[precision], target)
        files[precision] = Packed(path=f"models/{target.name}", bytes=target.stat().st_size, sha256=sha256(target))
    return KitStudent(
        name=name,
        model=options.name,
        args=options.args,
        image=image_shape,
        classes=classes,
        parameters=parameter_count(model),
        files=files,
    )


def randomised(model: nn.Module, image_shape: tuple[int, int, int]) -> nn.Module:
    """`model` in eval mode with weights away from zero, as after training; the same weights each time.

    A runtime folds away the weights that timm starts at zero, and subnormal numbers behind them are slow. Batch norms
    take their statistics from two batches of noise.
    """
    height, width, channels = image_shape
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
            elif not name.endswith("bias"):
                nn.init.ones_(parameter)  # gains and layer scales
            else:
                nn.init.normal_(parameter, std=0.02)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.reset_running_stats()
                module.momentum = None
        model.train()
        for _ in range(2):
            model(torch.randn(8, channels, height, width))
    return model.eval()


def _archive(folder: Path) -> bytes:
    """A .tar.gz that holds no time and no owner."""

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, 0, "", ""
        return entry

    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        archive.add(folder, "kit", filter=anonymous)  # sorted
    return gzip.compress(raw.getvalue(), mtime=0)
