import hashlib
import json

import numpy as np
import pytest

from rsd.bundle import BundleOptions, write_bundle
from rsd.files import write_json

IMAGES = np.arange(20 * 4 * 4, dtype=np.uint8).reshape(20, 4, 4, 1)


@pytest.fixture
def made(tmp_path):
    """Two precisions, one with an engine; returns what `write_bundle` needs."""
    export, engines = {}, {}
    for precision in ("fp32", "fp16"):
        export[precision] = tmp_path / "export" / precision
        engines[precision] = tmp_path / "engines" / precision
        for folder in (export[precision], engines[precision]):
            folder.mkdir(parents=True)
        (export[precision] / "model.onnx").write_bytes(precision.encode())
        np.save(export[precision] / "logits.npy", np.ones((20, 3), np.float32))
        record = {"student": "rsd-1", "classes": ["a", "b", "c"], "preprocessing": {"mean": [0.5]}, "parity": {"x": 1}}
        write_json(export[precision] / "export.json", record)
        write_json(engines[precision] / "engine.json", {"status": "built" if precision == "fp32" else "skipped"})
    (engines["fp32"] / "model.engine").write_bytes(b"engine")
    return {"export": export, "engines": engines, "images": IMAGES, "metrics": {"top1": 98.0},
            "latency": {"device": {"cpu": "x"}, "rows": []}, "revision": "abc"}  # fmt: skip


OPTIONS = BundleOptions(name="digits", release=3)


def test_every_file_is_listed_with_its_digest_and_there_is_no_other(made, tmp_path):
    manifest = write_bundle(tmp_path / "bundle", OPTIONS, **made)
    files = {str(p.relative_to(tmp_path / "bundle")): p for p in (tmp_path / "bundle").rglob("*") if p.is_file()}
    assert json.loads(files.pop("manifest.json").read_text()) == manifest
    assert manifest["files"] == {
        name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for name, path in files.items()
    }
    assert not any(path.is_symlink() for path in files.values())


def test_it_holds_what_a_device_needs_and_says_it_is_unsigned(made, tmp_path):
    manifest = write_bundle(tmp_path / "bundle", OPTIONS, **made)
    assert (manifest["name"], manifest["release"], manifest["signed"]) == ("digits", 3, False)
    assert manifest["models"]["fp32"]["engine"] == "fp32/model.engine"
    assert "engine" not in manifest["models"]["fp16"]
    assert np.array_equal(np.load(tmp_path / "bundle" / "golden" / "images.npy"), IMAGES[:8])
    assert json.loads((tmp_path / "bundle" / "labels.json").read_text()) == ["a", "b", "c"]


def test_the_same_inputs_give_the_same_bytes(made, tmp_path):
    assert write_bundle(tmp_path / "one", OPTIONS, **made) == write_bundle(tmp_path / "two", OPTIONS, **made)


def test_a_failure_leaves_the_last_bundle_whole(made, tmp_path):
    before = write_bundle(tmp_path / "bundle", OPTIONS, **made)
    (made["export"]["fp16"] / "model.onnx").unlink()
    with pytest.raises(FileNotFoundError):
        write_bundle(tmp_path / "bundle", OPTIONS.model_copy(update={"release": 4}), **made)
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text()) == before


@pytest.mark.parametrize("name", ["", "../up", "With Space", "-x"])
def test_a_name_that_is_no_folder_name_is_refused(name):
    with pytest.raises(ValueError, match="pattern"):
        BundleOptions(name=name, release=1)
