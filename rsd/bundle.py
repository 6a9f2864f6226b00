"""What is shipped: models, engines, labels, preprocessing and golden pairs in one folder with a manifest."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from rsd.data.images import Images
from rsd.files import read_json, sha256, write_json, written_aside
from rsd.options import Options

SCHEMA_VERSION = 1
GOLDEN = 8


class BundleOptions(Options):
    """`bundle` of params.yaml."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """What the bundle is called on devices."""
    release: int = Field(ge=1)
    """Grows with every release; a device refuses an older one."""


def write_bundle(
    folder: Path,
    options: BundleOptions,
    *,
    export: dict[str, Path],
    engines: dict[str, Path],
    images: Images,
    metrics: dict[str, Any],
    latency: dict[str, Any],
    revision: str | None,
) -> dict[str, Any]:
    """Copy everything a device needs under `folder` and describe it in `manifest.json`.

    The bundle is not signed: signing is a release step of its own, and the manifest says so. The same
    inputs give the same bytes.

    Args:
        export: precision -> folder with model.onnx, export.json and the logits of all test images.
        engines: precision -> folder with engine.json and, if one was built, model.engine.
        images: test images, uint8 `[N, H, W, C]`; the first few become golden inputs.
        metrics: of the shipped student.
        latency: latency.json as the `benchmark` stage wrote it.
        revision: the git commit it is made from.
    """
    with written_aside(folder) as aside:
        aside.mkdir()
        records = {precision: read_json(path / "export.json") for precision, path in export.items()}
        first = next(iter(records.values()))
        write_json(aside / "labels.json", first["classes"])
        write_json(aside / "preprocessing.json", first["preprocessing"])
        (aside / "golden").mkdir()
        np.save(aside / "golden" / "images.npy", np.array(images[:GOLDEN]))
        models: dict[str, Any] = {}
        for precision, path in export.items():
            (aside / precision).mkdir()
            shutil.copyfile(path / "model.onnx", aside / precision / "model.onnx")
            golden = np.load(path / "logits.npy", allow_pickle=False)[:GOLDEN]
            np.save(aside / "golden" / f"logits.{precision}.npy", golden)
            models[precision] = {"onnx": f"{precision}/model.onnx", "parity": records[precision]["parity"]}
        for precision, path in engines.items():
            shutil.copyfile(path / "engine.json", aside / precision / "engine.json")
            if (path / "model.engine").is_file():
                shutil.copyfile(path / "model.engine", aside / precision / "model.engine")
                models[precision]["engine"] = f"{precision}/model.engine"
        files = sorted(path for path in aside.rglob("*") if path.is_file())
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "name": options.name,
            "release": options.release,
            "signed": False,
            "git_revision": revision,
            "student": first["student"],
            "models": models,
            "metrics": metrics,
            "latency": {"device": latency["device"], "rows": latency["rows"]},
            "files": {
                str(path.relative_to(aside)): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files
            },
        }
        write_json(aside / "manifest.json", manifest)
    return manifest
