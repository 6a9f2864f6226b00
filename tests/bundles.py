"""Small real bundles: a linear classifier in ONNX, its logits, and what else `write_bundle` takes."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rsd.export.runtimes.onnxruntime import logits_of
from rsd.release import sign
from rsd.release.bundle import BundleOptions, write_bundle
from rsd.run.paths import Run
from rsd.run.records import (
    ConvertRecord,
    EngineRecord,
    Evaluation,
    ExportRecord,
    GraphInput,
    LatencyRecord,
    Pair,
    Parity,
)
from rsd.sources.images import DatasetRecord
from tests.rsd.run.small import DEVICE, PARITY, TIMING

SHAPE = (6, 5, 3)
CLASSES = ["a", "b", "c"]


def graph(shape: tuple[int, int, int], seed: int = 0) -> bytes:
    """An ONNX file: uint8 `[N, H, W, C]` -> float32 `[N, 3]`."""
    pixels = int(np.prod(shape))
    weight = np.random.default_rng(seed).normal(0, 1 / pixels, (pixels, len(CLASSES))).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *shape])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(CLASSES)])
    body = helper.make_graph(nodes, "tiny", [image], [logits], [numpy_helper.from_array(weight, "weight")])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(onnx.ModelProto.SerializeToString(model))


def dataset(shape: tuple[int, int, int] = SHAPE, crop_share: float | None = None) -> DatasetRecord:
    """With `crop_share` one of files, else one of arrays."""
    return DatasetRecord(
        source="tiny", kept="arrays" if crop_share is None else "files", crop_share=crop_share, classes=CLASSES,
        height=shape[0], width=shape[1], channels=shape[2], mean=[0.5] * shape[2], std=[0.5] * shape[2], counts={},
        checksums={},
    )  # fmt: skip


def ingredients(
    folder: Path,
    *,
    shape: tuple[int, int, int] = SHAPE,
    crop_share: float | None = None,
    precisions: tuple[str, ...] = ("fp32", "fp16"),
    seed: int = 0,
    models: Mapping[str, bytes] | None = None,
    images: NDArray[np.uint8] | None = None,
) -> dict[str, Any]:
    """What `write_bundle` takes, with an engine for the first precision.

    `models` holds the ONNX file of each precision, for images of `shape`, with a logit for each of `CLASSES`. Without
    it the same tiny model stands for every precision. `images`, of which the golden ones are taken, are noise if they
    are not given.
    """
    if images is None:
        images = np.random.default_rng(1).integers(0, 256, (20, *shape), np.uint8)
    run, data = Run(folder), dataset(shape, crop_share)
    served = GraphInput(**data.preprocessing.model_dump(), mean=[0.5], std=[0.5])
    facts = {"student": "rsd-1", "test_top1": 98.0, "bytes": 1, "sha256": "0"}
    run.write(
        ExportRecord(
            **facts, license="MIT", classes=CLASSES, preprocessing=served,
            validation_top1=98.0, parameters=1, opset=20, ir_version=10, ladder=[],
        )
    )  # fmt: skip
    for precision in precisions:
        model = run.convert_folder(precision) / "model.onnx"
        model.parent.mkdir(parents=True)
        model.write_bytes(models[precision] if models else graph(shape, seed))
        np.save(model.with_name("logits.npy"), logits_of(model, images))
        parity = Parity(rung=precision, **PARITY)
        pairs = {"onnxruntime": Pair(file="model.onnx", bytes=1, sha256="0", parity=parity)}
        run.write(ConvertRecord(student="rsd-1", precision=precision, pairs=pairs, ladder=[parity]))
        status = "built" if precision == precisions[0] else "skipped"
        run.write(EngineRecord(status=status, precision=precision, library="tensorrt"))
    (run.engine_folder(precisions[0]) / "model.engine").write_bytes(b"engine")
    (folder / "licences" / "data").mkdir(parents=True)
    (folder / "licences" / "all.txt").write_text("for all")
    (folder / "licences" / "data" / "tiny.txt").write_text("for tiny")
    (folder / "licences" / "data" / "other.txt").write_text("for others")
    figures = dict.fromkeys(("top5", "nll", "ece", "agreement", "parameters", "images", "embedding_width"), 1)
    return {
        "export": run.export(), "converted": [run.converted(precision) for precision in precisions],
        "engines": [run.engine(precision) for precision in precisions], "images": images, "record": data,
        "metrics": Evaluation(model="rsd-1", method="rsd", seed=1, top1=98.0, per_class={}, **figures),
        "latency": LatencyRecord(device=DEVICE, conditions={}, options=TIMING, rows=[]),
        "licences": folder / "licences", "data_name": "any",
        "made_from": {}, "card": "# tiny\n",
    }  # fmt: skip


class Workshop:
    """Makes signed bundles; `key` is the private key, `pinned` the folder with the public one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key, public = sign.make_key(folder / "secret" / "one")
        self.pinned = folder / "pinned"
        self.pinned.mkdir()
        self.public = Path(shutil.copy(public, self.pinned))
        self._number = 0

    @property
    def keys(self) -> list[Path]:
        return sorted(self.pinned.glob("*.pub"))

    def unsigned(
        self, release: int = 1, *, name: str = "tiny", options: dict[str, Any] | None = None, **made: Any
    ) -> Path:
        self._number += 1
        work = self.folder / str(self._number)
        given = BundleOptions(name=name, release=release, **{"requires": {"memory_mib": 0}, **(options or {})})
        write_bundle(work / "bundle", given, **ingredients(work, seed=release, **made))
        return work / "bundle"

    def signed(self, release: int = 1, **made: Any) -> Path:
        return self.sign(self.unsigned(release, **made))

    def sign(self, bundle: Path) -> Path:
        target = bundle.with_name("signed")
        sign.sign(bundle, target, self.key)
        return target

    def forged(self, bundle: Path) -> Path:
        """A copy with a valid signature over whatever is in it: what only the key's owner could make."""
        from model_signing import hashing, signing

        target = bundle.with_name("forged")
        shutil.copytree(bundle, target, symlinks=True)
        (target / "model.sig").unlink(missing_ok=True)
        config = signing.Config().set_hashing_config(
            hashing.Config().set_ignored_paths(paths=["model.sig"], ignore_git_paths=False)
        )
        config.use_elliptic_key_signer(private_key=self.key).sign(target, target / "model.sig")
        return target


def edit(path: Path, change: Any) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def packed(bundle: Path, target: Path) -> Path:
    """A bundle as one file, by the command that the README gives."""
    subprocess.run(["tar", "-C", str(bundle), "-cf", str(target), "."], check=True)
    return target
