"""What is shipped: models, engines, labels, preprocessing, golden pairs and licences in one folder with a manifest.

rsd/release/sign.py makes a signed copy of it; deploy/edge takes that on a device.
"""

import shutil
from pathlib import Path

import numpy as np
from pydantic import Field

from rsd.export import precisions, runtimes
from rsd.machine.errors import UserError
from rsd.machine.extras import needs
from rsd.machine.files import sha256, write_json, written_aside
from rsd.machine.options import Options
from rsd.release.golden import IMAGES, PIXELS, write_files
from rsd.run.names import CARD, ENGINE, ENGINE_RECORD, GOLDEN, IMAGE_ARRAY, LABELS, LOGITS, PREPROCESSING
from rsd.run.records import (
    BundledModel,
    ConvertRecord,
    EngineRecord,
    Evaluation,
    ExportRecord,
    Golden,
    LatencyRecord,
    Manifest,
    Origin,
    Requires,
)
from rsd.sources.images import DatasetRecord, Images

SCHEMA_VERSION = 3
_LOADS = (("1.18", 21, 10), ("1.21", 22, 10), ("1.23", 23, 11), ("1.24", 23, 13))
"""Releases of ONNX Runtime, each with the newest opset and IR version that it loaded of a ResNet's and a ViT's file."""
_OPENVINO = "2024.4"  # the oldest OpenVINO that the device's package takes


class BundleOptions(Options):
    """`bundle` of params.yaml."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    """What the bundle is called on devices; in params.yaml null takes the data's name."""
    release: int = Field(ge=1, lt=2**53)
    """Grows with every release; a device refuses an older one."""
    p99_ms: float | None = Field(None, gt=0)
    """A device refuses the release if the 99th percentile of one inference there takes longer; None: no limit."""
    requires: Requires = Requires()


def write_bundle(
    folder: Path,
    options: BundleOptions,
    *,
    export: ExportRecord,
    converted: list[ConvertRecord],
    engines: list[EngineRecord],
    images: Images,
    record: DatasetRecord,
    metrics: Evaluation,
    latency: LatencyRecord,
    licences: Path,
    data_name: str,
    made_from: dict[str, str],
    card: str,
) -> Manifest:
    """Copy everything a device needs under `folder` and describe it in `manifest.json`.

    The bundle is not signed, and the manifest says so: signing is a step of its own. The same inputs give the same
    bytes. Links become files.

    Args:
        export: of the shipped student.
        converted: one per precision, as read from its folder, in the order of preference.
        engines: one per precision, as read from its folder.
        images: test images, uint8 `[N, H, W, C]`; the first few become golden inputs.
        record: of the data set.
        metrics: of the shipped student.
        licences: folder of `*.txt` for every bundle; the others are of one data set, see `data_licences`.
        data_name: what the params call the data.
        made_from: SHA-256 of the run's files behind the bundle; see `Origin`.
        card: the text of README.md.

    Raises:
        UserError: there are no test images, or a file is of another student.
    """
    if not len(images):
        raise UserError("expected test images to make golden pairs of, found none; prepare a larger test split")
    for one in (metrics.model, *(file.student for file in converted)):
        if one != export.student:
            raise UserError(
                f"expected figures and files of {export.student}, which was exported, found some of {one}; "
                "run `dvc repro bundle`"
            )
    with written_aside(folder) as aside:
        aside.mkdir()
        (aside / CARD).write_text(card)
        write_json(aside / LABELS, export.classes)
        write_json(aside / PREPROCESSING, export.preprocessing.model_dump(mode="json"))
        for path in filter(Path.is_file, [*licences.glob("*.txt"), *data_licences(licences, data_name, record.source)]):
            (aside / "licences").mkdir(exist_ok=True)
            shutil.copyfile(path, aside / "licences" / path.name)
        models = {file.precision: _model(aside, file) for file in converted}
        for_openvino = any("openvino" in model.onnx for model in models.values())
        for engine in engines:
            models[engine.precision].engine = _engine(aside, engine)
        golden = _golden(aside, images, record, converted, models)
        paths = sorted(path for path in aside.rglob("*") if path.is_file())
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=options.name,
            release=options.release,
            signed=False,
            origin=Origin(made_from=made_from),
            requires=options.requires.model_copy(
                update={
                    "onnxruntime": _runtime(aside, options, models),
                    "openvino": (options.requires.openvino or _OPENVINO) if for_openvino else None,
                }
            ),
            p99_ms=options.p99_ms,
            student=export.student,
            models=models,
            golden=golden,
            metrics=metrics,
            latency={"device": latency.device, "rows": latency.rows},
            files={
                str(path.relative_to(aside)): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths
            },
        )
        manifest.write(aside)
    return manifest


def data_licences(licences: Path, name: str, source: str) -> list[Path]:
    """Where the licence of the images may lie: by the data's name in the params, and by the name of its source."""
    return [licences / "data" / f"{stem}.txt" for stem in dict.fromkeys([name, source])]


def _runtime(folder: Path, options: BundleOptions, models: dict[str, BundledModel]) -> str:
    """The oldest ONNX Runtime that loads all its files, or the one that the options ask for if that is newer."""
    needs("export", "onnx", "onnxruntime")
    import onnx  # late: `params` imports this file for its options
    import onnxruntime as ort

    needed = [options.requires.onnxruntime] if options.requires.onnxruntime else []
    for model in models.values():
        graph = onnx.load(folder / model.onnx["onnxruntime"], load_external_data=False)
        opset = max(entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx"))
        loading = (release for release, opsets, irs in _LOADS if opset <= opsets and graph.ir_version <= irs)
        needed.append(next(loading, ".".join(ort.__version__.split(".")[:2])))
    return max(needed, key=lambda release: tuple(map(int, release.split("."))))


def _model(folder: Path, file: ConvertRecord) -> BundledModel:
    """Copy the files of a precision, the same bytes once; its entry of the manifest."""
    (folder / file.precision).mkdir()
    # What builds engines is named only where it wants a file of its own.
    pairs = {name: pair for name, pair in file.pairs.items() if name != runtimes.BUILDER or pair.file != file.main.file}
    paths = {runtime: f"{file.precision}/{pair.file}" for runtime, pair in pairs.items()}
    for path in set(paths.values()):
        shutil.copyfile(file.folder / Path(path).name, folder / path)
    return BundledModel(onnx=paths, parity={runtime: pair.parity for runtime, pair in pairs.items()})


def _engine(folder: Path, engine: EngineRecord) -> str | None:
    """Copy the record of an engine, and the engine if one was built; its path in the bundle."""
    path = f"{engine.precision}/{ENGINE}"
    shutil.copyfile(engine.folder / ENGINE_RECORD, (folder / path).with_name(ENGINE_RECORD))
    if not (engine.folder / ENGINE).is_file():
        return None
    shutil.copyfile(engine.folder / ENGINE, folder / path)
    return path


def _golden(
    folder: Path, images: Images, record: DatasetRecord, converted: list[ConvertRecord], models: dict[str, BundledModel]
) -> Golden:
    """Write inputs and the logits that each file gives for them in each runtime; the manifest's entry."""
    import onnx  # late, as in `_runtime`

    from rsd.export.run_graph import logits_in

    (folder / GOLDEN / "files").mkdir(parents=True)
    names, pixels = write_files(folder / GOLDEN / "files", images, record)
    tensors = np.array(images[:IMAGES])
    inputs = np.concatenate([tensors, pixels])
    np.save(folder / GOLDEN / IMAGE_ARRAY, inputs)
    logits: dict[str, dict[str, str]] = {}
    tolerances = {}
    for file in converted:
        logits[file.precision] = {}
        for runtime, path in models[file.precision].onnx.items():
            logits[file.precision][runtime] = f"{GOLDEN}/logits.{file.precision}.{runtime}.npy"
            answers = logits_in(runtime, onnx.load(folder / path), inputs)
            np.save(folder / logits[file.precision][runtime], answers)
        of_test = np.load(file.folder / LOGITS, allow_pickle=False)
        tolerances[file.precision] = precisions.get(file.precision).golden * float(np.ptp(of_test))
    return Golden(
        images=f"{GOLDEN}/{IMAGE_ARRAY}",
        files=[{"path": f"{GOLDEN}/files/{name}", "row": len(tensors) + row} for row, name in enumerate(names)],
        logits=logits,
        tolerances={"pixels": PIXELS, "logits": tolerances},
    )
