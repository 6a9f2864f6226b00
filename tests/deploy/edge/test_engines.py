"""The engines that TensorRT builds on a device; a fake stands in for its provider."""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rsd_edge import disk
from rsd_edge.errors import EdgeError
from rsd_edge.model import Model

from tests.bundles import edit


class TensorRT:
    """A runtime that says it has TensorRT, and builds by writing a file."""

    def __init__(self, monkeypatch, log: Path):
        import rsd_edge.onnxruntime_session as module

        self.real, self.module, self.log = module.ort.InferenceSession, module, log
        log.touch()  # engines are built in a process of their own
        self.has_libraries, self.refuses = True, "nothing"
        available = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(module.ort, "InferenceSession", self.session)
        monkeypatch.setattr(module.ort, "get_available_providers", lambda: available)
        self.updated_to(monkeypatch, module.ort.__version__)

    def updated_to(self, monkeypatch, version):
        monkeypatch.setattr(self.module.ort, "__version__", version)
        self.module.runtime.cache_clear()

    def note(self, kind: str, value: object) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps([kind, value]) + "\n")

    def notes(self, kind: str) -> list[Any]:
        return [value for each, value in map(json.loads, self.log.read_text().splitlines()) if each == kind]

    @property
    def built(self) -> list[Path]:
        return [*map(Path, self.notes("built"))]

    @property
    def settings(self) -> dict[str, dict[str, object]]:
        """Of the last session with TensorRT, by precision."""
        return dict(self.notes("settings"))

    def session(self, path, options, providers, **others):
        return Session(self, path, providers, others)


class Session:
    def __init__(self, runtime, path, providers, others):
        self.inner = runtime.real(path, providers=["CPUExecutionProvider"], **others)
        self.runtime, self.engines = runtime, None
        if isinstance(providers[0], tuple) and runtime.has_libraries:  # else it falls back, as the real one does
            if Path(path).parent.name == runtime.refuses:
                raise RuntimeError("TensorRT EP failed to create an engine from a network")
            settings = providers[0][1]
            self.engines = Path(settings["trt_engine_cache_path"])
            runtime.note("settings", [Path(path).parent.name, settings])

    def get_providers(self):
        return ["TensorrtExecutionProvider" if self.engines else "CPUExecutionProvider"]

    def run(self, *arguments):
        assert not self.engines or len(arguments[1]["image"]) <= 8
        if self.engines and not (self.engines / "x.engine").exists():
            self.runtime.note("built", str(self.engines))
            (self.engines / "x.engine").write_bytes(b"built here")
        return self.inner.run(*arguments)


@pytest.fixture
def tensorrt(monkeypatch, tmp_path):
    runtime = TensorRT(monkeypatch, tmp_path / "tensorrt.log")
    yield runtime
    runtime.module.runtime.cache_clear()


def test_engines_are_built_by_install_only(shared, releases, tensorrt, capsys):
    releases.install(shared.first, shared.keys)
    assert "tiny-1: TensorRT builds its fp32 engine, which can take minutes" in capsys.readouterr().err
    assert [path.name.split("-")[0] for path in tensorrt.built] == [".fp32", ".fp16"]
    releases.activate(shared.keys)
    releases.recover(shared.keys)
    model = Model.open(releases.current())
    assert model.provider == "TensorrtExecutionProvider"
    assert model.infer(np.zeros((20, 6, 5, 3), np.uint8)).shape == (20, 3)
    assert len(tensorrt.built) == 2
    shutil.rmtree(releases.root / "engines")  # without one it is not built while somebody waits
    assert Model.open(releases.current()).provider == "CPUExecutionProvider"
    assert len(tensorrt.built) == 2
    releases.activate(shared.keys)
    assert len(tensorrt.built) == 4


def test_tensorrt_gets_the_graph_s_precision_and_batches(workshop, releases, tensorrt):
    releases.install(workshop.signed(1, precisions=("fp32", "fp16", "int8")), workshop.keys)
    chosen = {"trt_fp16_enable", "trt_int8_enable"}
    result = {precision: chosen & {*settings} for precision, settings in tensorrt.settings.items()}
    assert result == {"fp32": set(), "fp16": {"trt_fp16_enable"}, "int8": {"trt_int8_enable"}}
    assert all(settings["trt_profile_max_shapes"] == "image:8x6x5x3" for settings in tensorrt.settings.values())


def test_only_activate_rebuilds_engines_after_a_runtime_update(shared, releases, tensorrt, monkeypatch):
    releases.install(shared.bundle(1), shared.keys)
    releases.activate(shared.keys)
    tensorrt.updated_to(monkeypatch, "99.0")
    assert Model.open(releases.current()).provider == "CPUExecutionProvider"
    assert len(tensorrt.built) == 1
    releases.activate(shared.keys)
    assert Model.open(releases.current()).provider == "TensorrtExecutionProvider"
    assert len(tensorrt.built) == 2
    assert len([*(releases.root / "engines" / "tiny-1").iterdir()]) == 1  # what the old one built is gone


def test_missing_tensorrt_libraries_are_no_error(shared, releases, tensorrt):
    tensorrt.has_libraries = False
    releases.install(shared.first, shared.keys)
    assert releases.activate(shared.keys) == "tiny-1"
    assert Model.open(releases.current()).provider == "CPUExecutionProvider"
    assert [*(releases.root / "engines" / "tiny-1").iterdir()] == []
    (first, _) = [e for e in releases.status()["events"] if e["event"] == "engine not built"]
    assert first["reason"] == "TensorRT is not usable here"


def test_only_a_failed_engine_that_serves_is_fatal(shared, releases, tensorrt):
    tensorrt.refuses = "fp16"
    releases.install(shared.first, shared.keys)
    assert releases.activate(shared.keys) == "tiny-1"
    missed = [event for event in releases.status()["events"] if event["event"] == "engine not built"]
    assert [event["precision"] for event in missed] == ["fp16", "fp16"]
    assert "failed to create an engine" in missed[0]["reason"]
    assert len(tensorrt.built) == 1
    tensorrt.refuses = "fp32"
    with pytest.raises(EdgeError, match="expected ONNX Runtime .* to load fp32/model.onnx, found: TensorRT EP failed"):
        releases.install(shared.second, shared.keys)
    assert releases.current().name == "tiny-1"


def test_engine_files_are_synced_before_the_rename(shared, releases, tensorrt, monkeypatch):
    calls = []
    real_sync, real_replace = disk.sync, os.replace

    def sync(path):
        calls.append(("sync", path.name))
        real_sync(path)

    def replace(old, new):
        calls.append(("name", Path(old).name))
        real_replace(old, new)

    shared.bundle(1)
    monkeypatch.setattr(disk, "sync", sync)
    monkeypatch.setattr(os, "replace", replace)
    releases.install(shared.bundle(1), shared.keys)
    (named,) = [place for place, (what, name) in enumerate(calls) if what == "name" and name.endswith(".building")]
    before = [name for what, name in calls[:named] if what == "sync"]
    assert {"x.engine", calls[named][1]} <= {*before}


def test_building_an_engine_prints_progress(shared, releases, tensorrt, monkeypatch, capsys):
    monkeypatch.setattr("rsd_edge.engines.PROGRESS", 0.01)
    real = Session.run

    def slow(session, *arguments):
        time.sleep(0.3)
        return real(session, *arguments)

    shared.bundle(1)
    monkeypatch.setattr(Session, "run", slow)
    releases.install(shared.bundle(1), shared.keys)
    assert "tiny-1: TensorRT builds its fp32 engine: 0 s\n" in capsys.readouterr().err


def test_an_engine_is_built_of_its_own_file(workshop, releases, tensorrt):
    """Of the file that the bundle has for it, with that file's golden answers; its CPU reads the other one."""
    bundle = workshop.unsigned(1, precisions=("fp32",))
    shutil.copy(bundle / "fp32" / "model.onnx", bundle / "fp32" / "tensorrt.onnx")
    shutil.copy(bundle / "golden" / "logits.fp32.onnxruntime.npy", bundle / "golden" / "logits.fp32.tensorrt.npy")

    def change(manifest):
        for path in ("fp32/tensorrt.onnx", "golden/logits.fp32.tensorrt.npy"):
            content = (bundle / path).read_bytes()
            manifest["files"][path] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest["models"]["fp32"]["onnx"]["tensorrt"] = "fp32/tensorrt.onnx"
        manifest["golden"]["logits"]["fp32"]["tensorrt"] = "golden/logits.fp32.tensorrt.npy"

    edit(bundle / "manifest.json", change)
    releases.install(workshop.forged(bundle), workshop.keys)
    releases.activate(workshop.keys)
    assert not [event for event in releases.status()["events"] if event["event"] == "pair refused"]
    model = Model.open(releases.current())
    assert (model.provider, model.answers.name) == ("TensorrtExecutionProvider", "logits.fp32.tensorrt.npy")
    shutil.rmtree(releases.root / "engines")
    assert Model.open(releases.current()).answers.name == "logits.fp32.onnxruntime.npy"
