import hashlib
import json

import numpy as np
import onnx
import pytest

from rsd.export.runtimes.onnxruntime import logits_of
from rsd.release.bundle import BundleOptions, write_bundle
from rsd.run.records import Requires
from tests.bundles import SHAPE, ingredients

OPTIONS = BundleOptions(name="digits", release=3)


@pytest.fixture
def made(tmp_path):
    return ingredients(tmp_path)


def test_every_file_is_listed_with_its_digest(made, tmp_path):
    manifest = write_bundle(tmp_path / "bundle", OPTIONS, **made)
    files = {str(p.relative_to(tmp_path / "bundle")): p for p in (tmp_path / "bundle").rglob("*") if p.is_file()}
    assert json.loads(files.pop("manifest.json").read_text()) == manifest.content()
    assert manifest.content()["files"] == {
        name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for name, path in files.items()
    }


def test_links_become_files(made, tmp_path):
    onnx = made["converted"][0].folder / "model.onnx"
    onnx.rename(tmp_path / "cached")
    onnx.symlink_to(tmp_path / "cached")
    write_bundle(tmp_path / "bundle", OPTIONS, **made)
    assert not any(path.is_symlink() for path in (tmp_path / "bundle").rglob("*"))


def test_an_unsigned_bundle_holds_what_a_device_needs(made, tmp_path):
    manifest = write_bundle(tmp_path / "bundle", OPTIONS, **made)
    assert (manifest.name, manifest.release, manifest.signed) == ("digits", 3, False)
    assert manifest.models["fp32"].engine == "fp32/model.engine"
    assert manifest.models["fp16"].engine is None
    assert manifest.requires.openvino is None
    assert json.loads((tmp_path / "bundle" / "labels.json").read_text()) == ["a", "b", "c"]
    assert {p.name for p in (tmp_path / "bundle" / "licences").iterdir()} == {"all.txt", "tiny.txt"}
    assert not (tmp_path / "bundle" / "model.sig").exists()


def test_a_licence_is_found_by_the_datas_name(made, tmp_path):
    (made["licences"] / "data" / "mine.txt").write_text("for mine")
    write_bundle(tmp_path / "bundle", OPTIONS, **made | {"data_name": "mine"})
    assert {p.name for p in (tmp_path / "bundle" / "licences").iterdir()} == {"all.txt", "mine.txt", "tiny.txt"}


@pytest.mark.parametrize("precisions", [("fp32",), ("fp32", "fp16", "int8")])
def test_golden_logits_are_those_of_shipped_models(tmp_path, precisions):
    made = ingredients(tmp_path, precisions=precisions)
    golden = write_bundle(tmp_path / "bundle", OPTIONS, **made).content()["golden"]
    images = np.load(tmp_path / "bundle" / golden["images"])
    assert np.array_equal(images[:8], made["images"][:8])
    assert len(images) == 8 + len(golden["files"])
    for precision in precisions:
        result = logits_of(tmp_path / "bundle" / precision / "model.onnx", images)
        allowed = golden["tolerances"]["logits"][precision]
        recorded = np.load(tmp_path / "bundle" / golden["logits"][precision]["onnxruntime"])
        assert np.abs(result - recorded).max() <= 1e-5 < allowed


def test_two_runtimes_share_a_file_of_equal_bytes(made, tmp_path):
    for file in made["converted"]:
        file.pairs |= dict.fromkeys(("openvino", "tensorrt"), file.main)
    manifest = write_bundle(tmp_path / "bundle", OPTIONS, **made)
    assert manifest.models["fp16"].onnx == {"onnxruntime": "fp16/model.onnx", "openvino": "fp16/model.onnx"}
    assert [path.name for path in (tmp_path / "bundle" / "fp16").glob("*.onnx")] == ["model.onnx"]
    assert [*manifest.golden.logits["fp16"]] == ["onnxruntime", "openvino"]
    assert manifest.requires.openvino == "2024.4"


def test_golden_files_vary_in_size_and_format(made, tmp_path):
    from PIL import Image

    folder = tmp_path / "bundle"
    golden = write_bundle(folder, OPTIONS, **made).content()["golden"]
    images = [Image.open(folder / file["path"]) for file in golden["files"]]
    assert {image.format for image in images} == {"JPEG", "PNG"}
    assert len({image.size for image in images}) == len(images)
    assert images[0].size == SHAPE[1::-1]
    assert np.array_equal(np.load(folder / golden["images"])[8], made["images"][0])


def test_the_same_inputs_give_the_same_bytes(made, tmp_path):
    assert write_bundle(tmp_path / "one", OPTIONS, **made) == write_bundle(tmp_path / "two", OPTIONS, **made)


def test_a_failure_leaves_the_last_bundle_whole(made, tmp_path):
    before = write_bundle(tmp_path / "bundle", OPTIONS, **made)
    (made["converted"][1].folder / "model.onnx").unlink()
    with pytest.raises(FileNotFoundError):
        write_bundle(tmp_path / "bundle", OPTIONS.model_copy(update={"release": 4}), **made)
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text()) == before.content()


@pytest.mark.parametrize("name", ["", "../up", "With Space", "-x"])
def test_a_name_unfit_for_a_folder_is_refused(name):
    with pytest.raises(ValueError, match="pattern"):
        BundleOptions(name=name, release=1)


@pytest.mark.parametrize(
    ("opset", "ir_version", "wanted", "release"),
    [
        (20, 10, None, "1.18"), (21, 10, None, "1.18"), (22, 10, None, "1.21"), (23, 8, None, "1.23"),
        (18, 11, None, "1.23"), (18, 13, None, "1.24"), (20, 10, "1.22", "1.22"), (23, 10, "1.19", "1.23"),
    ],
)  # fmt: skip
def test_the_runtime_follows_from_opset_and_ir(tmp_path, opset, ir_version, wanted, release):
    given = ingredients(tmp_path)
    for record in given["converted"][1:]:
        path = record.folder / "model.onnx"
        model = onnx.load(path)
        model.ir_version, model.opset_import[0].version = ir_version, opset
        onnx.save(model, path)
    options = BundleOptions(name="tiny", release=1, requires=Requires(onnxruntime=wanted))
    manifest = write_bundle(tmp_path / "bundle", options, **given)
    assert manifest.requires.onnxruntime == release
