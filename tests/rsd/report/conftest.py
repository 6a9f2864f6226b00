"""A small synthetic `out/`: the records of a run on the digits, as the stages write them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rsd.run.paths import Run
from rsd.run.records import (
    ConvertRecord,
    EngineRecord,
    ExportRecord,
    Model,
    Pair,
    Parity,
    Stray,
    StudentRecord,
    Validation,
)
from rsd.sources.images import write_arrays
from tests.rsd.run.small import INPUT
from tests.rsd.run.small import TRAINED as PLAIN

EPOCHS, IMAGES = 12, 360
DIGITS = [str(digit) for digit in range(10)]
DEVICE = {
    "cpu": {
        "name": "Intel(R) Xeon(R) Processor @ 2.60GHz",
        "architecture": "x86_64",
        "logical_cores": 2,
        "flags": ["avx2", "fma"],
    },
    "memory_gib": 15,
    "python": "3.11.2",
    "gpus": [],
    "versions": {"torch": "2.14.1", "onnxruntime": "1.24.0", "tensorrt": None},
}
TRAINED: dict[str, Any] = {
    **{key: value for key, value in PLAIN.items() if key != "parameters"},
    "classes": DIGITS,
    "height": 16,
    "width": 16,
    "mean": [0.3],
    "std": [0.3],
    "embedding_width": 32,
    "versions": {"torch": "2.14.1", "timm": "1.0.31"},
}
COUNTS = {"train": 448, "validation": 360, "test": IMAGES}
LEVEL = {"teacher": 98.9, "scratch": 95.6, "rsd": 97.6}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_records(tmp_path / "out")
    return tmp_path / "out"


def page_arguments(out: Path) -> dict[str, Any]:
    """What `write_page` asks for, in a tree like the one below."""
    return {"run": Run(out), "params": out / "params.yaml", "budget": out.parent / "budget"}


def start_from_weights(out: Path) -> None:
    """Make the students of `write_records` those that started from weights from elsewhere."""
    for path in (out / "students").glob("*/student.json"):
        start = {"name": "weights/lite0", "sha256": "0123456789abcdef", "new_head": True}
        write(path, json.loads(path.read_text()) | {"start": start})


def write_records(out: Path, *, seeds: tuple[int, ...] = (0, 1, 2), epochs: int = EPOCHS) -> None:
    """Every record the report reads; the same bytes each time."""
    random = np.random.default_rng(7)
    shipped = f"rsd-{seeds[-1]}"
    identities: list[tuple[str, str, int | None]] = [("teacher", "teacher", None)]
    identities += [(f"{method}-{seed}", method, seed) for method in ("scratch", "rsd") for seed in seeds]
    run = Run(out)
    models, curves, calibration = [], [], []
    confusion: dict[str, pd.DataFrame] = {}
    for model, method, seed in identities:
        level = LEVEL[method] + (0 if seed is None else random.normal(0, 0.5))
        actual = np.arange(IMAGES) % 10
        confused = (actual + random.choice([1, 5, 7], IMAGES)) % 10
        predicted = np.where(random.random(IMAGES) * 100 < level, actual, confused)
        right = predicted == actual
        confusion[model] = pd.DataFrame({"actual": actual.astype(str), "predicted": predicted.astype(str)})
        who = {"model": model, "method": method, "seed": seed}
        models.append(
            {
                **who,
                "weights_sha256": model,
                "parameters": 77_354 if method == "teacher" else 27_018,
                "top1": 100 * right.mean(),
                "top5": 99.9,
                "nll": 0.05 + (100 - level) / 40,
                "ece": 1.0 + (100 - level) / 3,
                "embedding_width": 64 if method == "teacher" else 32,
                "effective_rank": {"teacher": 30.0, "scratch": 12.5, "rsd": 21.75}[method],
                "correlation_rms": 0.25 if method == "scratch" else 0.125,
                "agreement": 100.0 if method == "teacher" else level - 0.4,
                "per_class": {digit: 100 * right[actual == int(digit)].mean() for digit in DIGITS},
                "images": IMAGES,
            }
        )
        curves.append(_curve(who, epochs, level, random))
        confidence = np.array([0.45, 0.58, 0.7, 0.83, 0.97])
        calibration.append(
            pd.DataFrame(
                {
                    **who,
                    "confidence": confidence,
                    "accuracy": np.clip(confidence - random.normal(0.03, 0.05, 5), 0.2, 1),
                    "count": [4, 9, 15, 32, 300],
                }
            )
        )
        if seed is not None:
            trained = TRAINED | {"model": Model(name="resmlp_12_224", args={"embed_dim": 32, "num_blocks": 4})}
            record = StudentRecord(
                **trained,
                method=method,
                seed=seed,
                parameters=27_018,
                extra_parameters=0 if method == "scratch" else 12_544,
                validation=Validation(top1=level + 0.2, loss=0.11, epoch=epochs - 1),
                weights_sha256=model,
                options={},
                recipe={},
                compute={},
                views=30,
                effective_batch_size=64,
                steps=510,
            )
            run.write(record)

    write(out / "evaluate" / "models.json", models)
    pd.concat(curves).to_csv(out / "evaluate" / "curves.csv", index=False)
    pd.concat(calibration).to_csv(out / "evaluate" / "calibration.csv", index=False)
    (out / "evaluate" / "confusion").mkdir()
    for name, answers in confusion.items():
        answers.to_csv(out / "evaluate" / "confusion" / f"{name}.csv", index=False)
    _inside(out / "evaluate", seeds[0], random)
    _images(out, confusion[shipped], random)
    run.write(_export(shipped))
    for precision, count in (("fp32", 118_400), ("fp16", 61_200)):
        run.write(_convert(shipped, precision, count))
        run.write(EngineRecord.model_validate(_engine(precision, 2 * count)))
    _latency(out / "benchmark", random)
    _params(out / "params", list(seeds))
    write(out / "device.json", DEVICE)


def _curve(who: dict[str, Any], epochs: int, level: float, random: np.random.Generator) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    fall = np.exp(-5 * epoch / epochs)

    def noisy(values: Any) -> Any:
        return values * np.exp(random.normal(0, 0.05, epochs))

    frame = pd.DataFrame({**who, "epoch": epoch, "learning_rate": 0.005 * np.cos(epoch / epochs * 1.5)})
    frame["loss"] = frame["cross_entropy"] = noisy(0.05 + 2.2 * fall)
    if who["method"] == "rsd":
        frame["invariance"] = noisy(8 + 50 * fall)
        frame["redundancy"] = noisy(140 + 400 * fall)
        frame["diagonal_mean"] = 0.75 - 0.6 * fall
        frame["off_diagonal_rms"] = noisy(0.14 + 0.15 * fall)
        frame["off_diagonal_chance"] = 0.125
        frame["loss"] += 0.1 * (frame["invariance"] + 0.01 * frame["redundancy"])
    frame["gradient_norm"] = noisy(0.6 + 3 * fall)
    frame["validation_top1"] = level - (level - 20) * fall + random.normal(0, 0.3, epochs)
    frame["validation_loss"] = noisy(0.12 + 2.1 * fall)
    return frame


def _inside(folder: Path, seed: int, random: np.random.Generator) -> None:
    rows = [
        {
            "student": f"{method}-{seed}",
            "method": method,
            "student_layer": student,
            "teacher_layer": teacher,
            "cka": level - 0.1 * abs(i - j) + random.normal(0, 0.02),
        }
        for method, level in (("scratch", 0.6), ("rsd", 0.85))
        for i, student in enumerate(("blocks.0", "blocks.1", "embedding"))
        for j, teacher in enumerate(("layer1", "layer2", "layer3", "embedding"))
    ]
    pd.DataFrame(rows).to_csv(folder / "cka.csv", index=False)
    noise = random.normal(0, 0.05, (2, 16, 16))
    pictures = {
        when: {
            "diagonal_mean": level,
            "off_diagonal_rms": 0.05,
            "matrix": (noise[i] + level * np.eye(16)).round(4).tolist(),
        }
        for i, (when, level) in enumerate((("before", 0.0), ("after", 0.9)))
    }
    facts = {
        "caption": "RSD draws the diagonal to 1.",
        "images": 360,
        "width": 16,
        "cells": 16,
        "chance": 0.0527,
        "teacher_rms": 0.21,
    }
    write(folder / "correlation.json", {"student": f"rsd-{seed}", "correlation": facts | pictures})


def _images(out: Path, answers: pd.DataFrame, random: np.random.Generator) -> None:
    """A test split of grey 16 x 16 images, and logits that give the shipped student's answers."""
    labels = answers["actual"].astype(int).to_numpy()
    images = random.integers(0, 256, (IMAGES, 16, 16, 1), np.uint8)
    checksums = write_arrays(out / "data" / "test", images, labels)
    shape = {"height": 16, "width": 16, "channels": 1, "mean": [0.3], "std": [0.3]}
    record = {"source": "digits", "classes": DIGITS, **shape, "counts": COUNTS, "checksums": checksums}
    write(out / "data" / "dataset.json", record)
    logits = random.normal(0, 1, (IMAGES, 10)).astype(np.float32)
    logits[np.arange(IMAGES), answers["predicted"].astype(int)] = random.uniform(4, 9, IMAGES)
    for precision in ("fp32", "fp16"):
        (out / "convert" / precision).mkdir(parents=True)
        np.save(out / "convert" / precision / "logits.npy", logits)


def _export(student: str) -> ExportRecord:
    return ExportRecord(
        student=student,
        license="MIT",
        classes=DIGITS,
        preprocessing=INPUT,
        validation_top1=97.8,
        test_top1=97.78,
        parameters=27_018,
        opset=20,
        ir_version=10,
        bytes=118_400,
        sha256="onnx",
        ladder=[],
        made_from={f"students/{student}/model.safetensors": student},
    )


def _convert(student: str, precision: str, count: int) -> ConvertRecord:
    exact = precision == "fp32"
    parity = Parity(
        rung=precision,
        against="stripped",
        max_difference=3.1e-6 if exact else 0.0183,
        mean_difference=4.0e-7 if exact else 0.0021,
        logit_range=21.7,
        max_difference_share=1.4e-7 if exact else 8.4e-4,
        min_cosine=1.0 if exact else 0.999998,
        top1_agreement=1.0 if exact else 0.9972,
        disagreements=0 if exact else 1,
        disagreements_beyond_near_ties=0,
        near_tie_share=0.01,
        reference_accuracy=0.9778,
        accuracy=0.9778 if exact else 0.975,
        accuracy_delta_points=0.0 if exact else -0.28,
        accuracy_delta_images=0 if exact else -1,
        accuracy_delta_margin=None if exact else 0.54,
        worst_images=[],
        images=IMAGES,
    )
    strays = [] if exact else [Stray(value=f"v{i}", part="stem", error=1e-3 * (i + 1)) for i in range(3)]
    return ConvertRecord(
        student=student,
        precision=precision,
        pairs={"onnxruntime": Pair(file="model.onnx", bytes=count, sha256=precision, parity=parity, strays=strays)},
        ladder=[parity],
        made_from={"export/model.onnx": "onnx"},
    )


def _engine(precision: str, count: int) -> dict[str, Any]:
    return {
        "status": "built",
        "reason": None,
        "library": "tensorrt_rtx",
        "version": "1.2.0.54",
        "compute_capabilities": ["7.5", "8.6", "8.9", "12.0"],
        "precision": precision,
        "bytes": count,
        "build_seconds": 1.4,
        "parity": "not measured: no CUDA device",
    }


def _latency(folder: Path, random: np.random.Generator) -> None:
    rows: list[dict[str, Any]] = []
    samples = []
    for precision, median in (("fp32", 0.21), ("fp16", 0.29)):
        for threads in (1, 2):
            times = median / threads**0.3 * np.exp(random.gamma(1.2, 0.08, 1500))
            rows.append(
                {
                    "file": f"out/convert/{precision}/model.onnx",
                    "runtime": "onnxruntime",
                    "precision": precision,
                    "threads": threads,
                    "scenario": "single stream",
                    "batch": 1,
                    "status": "measured",
                    **{f"p{q}_ms": float(np.percentile(times, q)) for q in (50, 90, 99)},
                    "mean_ms": float(times.mean()),
                    "images_per_second": float(1000 / times.mean()),
                    "samples": len(times),
                    "cpu_ms": float(times.mean()),
                    "noisy": precision == "fp16" and threads == 2,
                    "spread": 0.31,
                    "settled": True,
                    "cold_start_ms": [12.0, 11.0, 14.0],
                    "peak_memory_bytes": 91_000_000,
                }
            )
            samples.append(
                pd.DataFrame(
                    {
                        "file": f"out/convert/{precision}/model.onnx",
                        "runtime": "onnxruntime",
                        "precision": precision,
                        "threads": threads,
                        "batch": 1,
                        "round": np.arange(len(times)) // 500,
                        "nanoseconds": (times * 1e6).astype(int),
                    }
                )
            )
        rows.append(
            {
                "file": f"out/engines/{precision}/model.engine",
                "runtime": "tensorrt_rtx",
                "precision": precision,
                "threads": None,
                "scenario": "single stream",
                "batch": 1,
                "status": "not measured: no CUDA device",
            }
        )
    state = {"affinity": [0, 1], "clock_mhz": [2600, 2600], "governor": None, "load": 0.1}
    write(
        folder / "latency.json",
        {
            "device": DEVICE,
            "conditions": {"before": state, "after": state},
            "options": {"min_seconds": 2.0, "min_samples": 662, "rounds": 3},
            "rows": rows,
        },
    )
    pd.concat(samples).to_csv(folder / "samples.csv.gz", index=False)


def _params(folder: Path, seeds: list[int]) -> None:
    sections = {
        "run": {
            "pair": "digits/resnet-resmlp",
            "data": "digits",
            "recipe": "digits_mlp",
            "methods": ["scratch", "rsd"],
            "seeds": seeds,
            "precisions": ["fp32", "fp16"],
            "ships": "rsd",
        },
        "data": {"source": "digits", "size": 16, "split": {"validation": 0.2, "test": 0.2, "seed": 0}},
        "teacher": {"name": "resnet18", "args": {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]}},
        "student": {"name": "resmlp_12_224", "args": {"embed_dim": 32, "num_blocks": 4}},
        "recipe": {"epochs": EPOCHS, "batch_size": 64, "learning_rate": 0.005, "weight_decay": 0.05},
        "teacher_recipe": {"epochs": 20, "batch_size": 64, "learning_rate": 0.01},
        "views": {"count": 30, "dtype": "float16"},
        "compute": {"threads": 1, "device": "cpu"},
        "export": {"method": "rsd", "opset": 20},
        "engine": {"library": "auto"},
        "benchmark": {"seconds": 2, "warm_up": 0.5},
    }
    for name, values in sections.items():
        write(folder / f"{name}.json", values)
    write(folder / "method" / "scratch.json", {})
    write(folder / "method" / "rsd.json", {"weight": 0.1, "kappa": 0.01, "gamma": 2, "space": "embedding"})


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
