"""What is shipped: models, engines, labels, preprocessing, golden pairs and licences in one folder with a manifest.

rsd/release/sign.py makes a signed copy of it; deploy/edge takes that on a device.
"""

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import Field

from rsd.export.parity import logits_of
from rsd.machine.errors import UserError
from rsd.machine.files import read_json, sha256, write_json, written_aside
from rsd.machine.options import Options
from rsd.release.golden import IMAGES, LOGITS, PIXELS, write_files
from rsd.run.records import ExportRecord
from rsd.sources.images import DatasetRecord, Images

SCHEMA_VERSION = 2


class Requires(Options):
    """What a device must have."""

    architectures: list[Literal["x86_64", "aarch64"]] = Field(["x86_64", "aarch64"], min_length=1)
    onnxruntime: str = Field("1.18", pattern=r"^\d+\.\d+$")
    """Or newer. 1.18 is the first that reads IR version 10 of ONNX."""
    memory_mib: int = Field(256, ge=0)
    """Free when a release is installed."""


class BundleOptions(Options):
    """`bundle` of params.yaml."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    """What the bundle is called on devices."""
    release: int = Field(ge=1, lt=2**53)
    """Grows with every release; a device refuses an older one."""
    p99_ms: float | None = Field(None, gt=0)
    """A device refuses the release if the 99th percentile of one inference there takes longer; None: no limit."""
    requires: Requires = Requires()


def write_bundle(
    folder: Path,
    options: BundleOptions,
    *,
    exported: ExportRecord,
    models: dict[str, Path],
    engines: dict[str, Path],
    images: Images,
    record: DatasetRecord,
    metrics: dict[str, Any],
    latency: dict[str, Any],
    licences: Path,
    origin: dict[str, Any],
) -> dict[str, Any]:
    """Copy everything a device needs under `folder` and describe it in `manifest.json`.

    The bundle is not signed: signing is a release step of its own, and the manifest says so. The same
    inputs give the same bytes. Links become files.

    Args:
        exported: the record of the shipped student's graph.
        models: precision -> folder with model.onnx, convert.json and the logits of all test images; the first one
            is what a device serves.
        engines: precision -> folder with engine.json and, if one was built, model.engine.
        images: test images, uint8 `[N, H, W, C]`; the first few become golden inputs.
        record: of the data set.
        metrics: of the shipped student.
        latency: latency.json as the `benchmark` stage wrote it.
        licences: folder of `*.txt` for every bundle, and `data/SOURCE.txt` for those of a data set.
        origin: revision and digests of what the bundle was made from.

    Raises:
        UserError: there are no test images.
    """
    if not len(images):
        raise UserError("expected test images to make golden pairs of, found none; prepare a larger test split")
    with written_aside(folder) as aside:
        aside.mkdir()
        write_json(aside / "labels.json", exported.classes)
        write_json(aside / "preprocessing.json", exported.preprocessing | record.preprocessing)
        (aside / "golden" / "files").mkdir(parents=True)
        names, pixels = write_files(aside / "golden" / "files", images, record)
        tensors = np.array(images[:IMAGES])
        np.save(aside / "golden" / "images.npy", np.concatenate([tensors, pixels]))
        golden: dict[str, Any] = {
            "images": "golden/images.npy",
            "files": [{"path": f"golden/files/{name}", "row": len(tensors) + row} for row, name in enumerate(names)],
            "logits": {},
            "tolerances": {"pixels": PIXELS, "logits": {}},
        }
        served: dict[str, Any] = {}
        for precision, path in models.items():
            (aside / precision).mkdir()
            shutil.copyfile(path / "model.onnx", aside / precision / "model.onnx")
            logits = np.load(path / "logits.npy", allow_pickle=False)
            of_files = logits_of(path / "model.onnx", pixels)
            np.save(aside / "golden" / f"logits.{precision}.npy", np.concatenate([logits[: len(tensors)], of_files]))
            golden["logits"][precision] = f"golden/logits.{precision}.npy"
            golden["tolerances"]["logits"][precision] = LOGITS[precision] * float(np.ptp(logits))
            parity = read_json(path / "convert.json")["parity"]
            served[precision] = {"onnx": f"{precision}/model.onnx", "parity": parity}
        for precision, path in engines.items():
            shutil.copyfile(path / "engine.json", aside / precision / "engine.json")
            if (path / "model.engine").is_file():
                shutil.copyfile(path / "model.engine", aside / precision / "model.engine")
                served[precision]["engine"] = f"{precision}/model.engine"
        (aside / "licences").mkdir()
        for path in [*licences.glob("*.txt"), licences / "data" / f"{record.source}.txt"]:
            if path.is_file():
                shutil.copyfile(path, aside / "licences" / path.name)
        files = sorted(path for path in aside.rglob("*") if path.is_file())
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "name": options.name,
            "release": options.release,
            "signed": False,
            "origin": origin,
            "requires": options.requires.model_dump(),
            "p99_ms": options.p99_ms,
            "student": exported.student,
            "models": served,
            "golden": golden,
            "metrics": metrics,
            "latency": {"device": latency["device"], "rows": latency["rows"]},
            "files": {
                str(path.relative_to(aside)): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files
            },
        }
        write_json(aside / "manifest.json", manifest)
    return manifest


def params_digest(folder: Path) -> str:
    """Hex SHA-256 over the resolved params as the `params` stage wrote them, all sections and methods."""
    sections = {str(path.relative_to(folder)): read_json(path) for path in folder.rglob("*.json")}
    return _digest(sections)


def lock_digest(path: Path) -> str | None:
    """Hex SHA-256 over what dvc.lock says of the stages that a bundle is made of, in no order; None without the file.

    The entries of the bundle itself and of the report, which may run beside it, are left out: they are written later.
    """
    for _ in range(50):  # DVC may be writing it for a stage that runs beside this one
        if not path.is_file():
            return None
        before = path.read_bytes()
        time.sleep(0.02)
        if path.read_bytes() == before:
            break
    stages = (yaml.safe_load(before) or {}).get("stages", {})
    return _digest({name: entry for name, entry in stages.items() if name not in ("bundle", "report")})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
