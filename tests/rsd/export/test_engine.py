"""The driver and Polygraphy's runner are fakes here (the runner answers from the ONNX graph); files, digests and
the library's own judgement are real."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from rsd.export import engine as module
from rsd.export.engine import OtherGpuError, WrongEngineError, check_engine, open_engine
from rsd.export.tensorrt import available
from rsd.machine.cuda import NoDriverError
from rsd.machine.errors import UserError
from rsd.machine.files import read_json, sha256, write_json
from tests.rsd.export.conftest import PolygraphyError, Runner

pytestmark = [
    pytest.mark.xdist_group("engine"),
    pytest.mark.skipif((available() or ("none",))[0] != "tensorrt_rtx", reason="tensorrt_rtx is not used here"),
]


@pytest.fixture
def folder(built, tmp_path):
    """A copy of it to be spoiled."""
    for path in built[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def changed(folder, **facts):
    write_json(folder / "engine.json", read_json(folder / "engine.json") | facts)
    return folder


def test_an_engine_for_this_machine_passes(folder, gpus, trusted):
    gpus("8.9", version=13000)
    assert check_engine(folder).precision == "fp32"


def test_no_driver_is_no_wrong_engine(folder, no_driver):
    with pytest.raises(NoDriverError, match="install the driver"):
        check_engine(folder)
    with (folder / "model.engine").open("ab") as file:
        file.write(b"x")
    with pytest.raises(WrongEngineError, match="SHA-256"):  # which is found without a GPU
        check_engine(folder)


def test_a_missing_engine_is_refused(folder):
    (folder / "model.engine").unlink()
    with pytest.raises(WrongEngineError, match="found no file"):
        check_engine(folder)
    with pytest.raises(WrongEngineError, match="found that it was not built: no library"):
        check_engine(changed(folder, status="skipped", reason="no library"))
    with pytest.raises(WrongEngineError, match="run the stage `engine`"):
        check_engine(folder / "nowhere")


def test_another_version_of_the_library_is_refused(folder, gpus):
    gpus("8.9")
    with pytest.raises(WrongEngineError, match=r"expected tensorrt_rtx 1\.0\.0, .* found \d"):
        check_engine(changed(folder, version="1.0.0"))


@pytest.mark.parametrize(
    ("built_by", "here", "reads"),
    [
        ("11.0.0.114", "11.4.0.106", True),
        ("11.4.0.106", "11.0.0.114", False),
        ("10.3.0", "11.4.0", True),
        ("8.6.1", "10.0.1", True),
        ("8.6.1", "11.0.0", False),
        ("11.0.0", "10.3.0", False),
        ("10.0.0rc1", "10.0.1", True),
        ("10.0.1", "10.0.1rc1", False),
    ],
)
def test_version_compatible_engines_run_in_the_named_versions(
    folder, gpus, trusted, monkeypatch, built_by, here, reads
):
    gpus("8.9")
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=here))
    changed(folder, library="tensorrt", version=built_by, version_compatible=True)
    if reads:
        assert check_engine(folder)
    else:
        with pytest.raises(WrongEngineError, match="version-compatible"):
            check_engine(folder)


def test_a_version_that_is_none_is_a_sentence(folder, gpus, monkeypatch):
    gpus("8.9")
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.0.1"))
    with pytest.raises(WrongEngineError, match="found 'ten' and '10.0.1'; build the engine again"):
        check_engine(changed(folder, library="tensorrt", version="ten", version_compatible=True))


def test_a_missing_library_is_no_missing_driver(folder, no_driver, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(WrongEngineError, match="found none that can be imported"):
        check_engine(changed(folder, library="tensorrt"))


def test_an_old_driver_is_the_machines_fault(folder, gpus, trusted):
    gpus("8.9", version=12080)
    with pytest.raises(NoDriverError, match=r"for CUDA 13, .* found one for CUDA 12\.8; update the driver"):
        check_engine(folder)


def test_an_engine_for_other_gpus_is_refused(folder, gpus, trusted):
    gpus("7.5")
    with pytest.raises(OtherGpuError, match=r"8\.6 or 8\.9 or 12\.0, .* found NVIDIA Fake with 7\.5; .*\[7\.5\]"):
        check_engine(folder)


def test_a_gpu_without_option_needs_the_other_library(folder, gpus, trusted):
    gpus("9.0")
    with pytest.raises(OtherGpuError, match=r"with 9\.0; tensorrt_rtx builds none for it: take `library: tensorrt`"):
        check_engine(folder)


@pytest.mark.parametrize(("capability", "runs"), [("7.5", False), ("8.7", True), ("9.0", True), ("12.0", True)])
def test_an_ampere_plus_engine_runs_on_later_gpus(folder, gpus, trusted, capability, runs):
    gpus(capability)
    changed(folder, compute_capabilities=["8.0"], hardware_compatibility="ampere_plus")
    if runs:
        assert check_engine(folder)
    else:
        with pytest.raises(OtherGpuError):
            check_engine(folder)


def test_the_librarys_own_verdict_counts(folder, gpus):
    gpus("8.9")
    (folder / "model.engine").write_bytes(b"no engine" * 100)
    changed(folder, engine_sha256=sha256(folder / "model.engine"))
    with pytest.raises(WrongEngineError, match="says MALFORMED_ENGINE of"):
        check_engine(folder)


@pytest.mark.parametrize("count", [1, 2, 8, 9, 33])
def test_any_number_of_images_goes_through(built, polygraphy, images, count):
    folder, onnx = built
    expected = ort.InferenceSession(onnx).run(None, {"image": images[:count]})[0]
    with open_engine(folder) as engine:
        result = engine.logits(images[:count])
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_copies_and_computation_alone_are_two_calls(built, polygraphy, images):
    with open_engine(built[0]) as engine:
        assert engine.with_copies(images[:2])()["logits"].shape == (2, 10)
        engine.compute_only(images[:4])()
    assert Runner.device_batches[-1] == 4


def test_polygraphy_is_told_which_library_it_is(built, polygraphy):
    import os

    with open_engine(built[0]):
        assert os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] == "1"


def test_polygraphys_absence_and_its_failure_are_sentences(folder, polygraphy, monkeypatch):
    def fail(content):
        raise PolygraphyError("log\nCould not deserialize engine.")

    polygraphy["polygraphy.backend.trt"].EngineFromBytes = fail
    with pytest.raises(UserError, match="found: Could not deserialize engine.; look at the GPU's free memory"):
        open_engine(folder).__enter__()
    monkeypatch.setitem(sys.modules, "polygraphy.backend.trt", None)
    with pytest.raises(UserError, match="library polygraphy, found none; run `pip install"):
        open_engine(folder).__enter__()


def test_a_stripped_engine_takes_its_own_graphs_weights(folder, built, polygraphy, monkeypatch, tmp_path):
    changed(folder, weights_stripped=True)
    filled = []
    monkeypatch.setattr(module, "_refit", lambda library, engine, graph: filled.append(graph))
    with open_engine(folder, onnx=built[1]):
        assert filled == [built[1].read_bytes()]
    another = tmp_path / "another.onnx"
    another.write_bytes(b"of another student")
    for onnx, words in [(None, "found none; put it"), (another, "found another one")]:
        with pytest.raises(WrongEngineError, match=words):
            open_engine(folder, onnx=onnx).__enter__()


@pytest.mark.parametrize(("parsed", "filled"), [(True, True), (False, True), (True, False)])
def test_a_refit_that_fails_is_refused(monkeypatch, parsed, filled):
    class Logger:
        ERROR = 0

        def __init__(self, level):
            pass

    fake = SimpleNamespace(
        Logger=Logger,
        Refitter=lambda engine, logger: SimpleNamespace(refit_cuda_engine=lambda: filled),
        OnnxParserRefitter=lambda refitter, logger: SimpleNamespace(refit_from_bytes=lambda graph: parsed),
    )
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    if parsed and filled:
        module._refit("tensorrt", None, b"")
    else:
        with pytest.raises(WrongEngineError, match="whose weights fit"):
            module._refit("tensorrt", None, b"")


def test_the_sidecar_is_json_with_nothing_but_facts(built):
    record = json.loads((built[0] / "engine.json").read_text())
    assert record["profile"] == {"min": 2, "opt": 4, "max": 8}
    assert (record["cuda"], record["hardware_compatibility"], record["version_compatible"]) == (13, "none", False)
    assert not record["weights_stripped"]
