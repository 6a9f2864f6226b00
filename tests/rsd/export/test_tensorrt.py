import builtins
import importlib
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from pydantic import ValidationError

from rsd.export import tensorrt
from rsd.export.half import to_half
from rsd.export.refusals import RefusedGraphError
from rsd.export.runtimes import _tensorrt
from rsd.export.runtimes._tensorrt import measurable
from rsd.export.tensorrt import EngineOptions, available, build, skipped
from rsd.machine.cuda import Driver, Gpu
from rsd.machine.errors import UserError
from rsd.machine.files import sha256
from rsd.run.records import Port
from stages.engine import record_of
from tests.rsd.export.conftest import export, tiny_model
from tests.rsd.export.precisions.test_fp16 import POOLED

pytestmark = pytest.mark.xdist_group("engine")

needs_rtx = pytest.mark.skipif(
    (available() or ("none",))[0] != "tensorrt_rtx",
    reason="tensorrt_rtx, which needs no GPU, is not used here",
)


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_is_built_without_a_gpu(exported, tmp_path, precision):
    source, engine = exported("vit", precision).path, tmp_path / "model.engine"
    record = build(source, engine, EngineOptions(), precision=precision)
    assert record.status == "built"
    assert record.inputs == [Port(name="image", dtype="uint8", shape=[-1, 16, 16, 1])]
    assert record.outputs == [Port(name="logits", dtype="float32", shape=[-1, 10])]
    assert record.compute_capabilities == ["8.6", "8.9", "12.0"]
    assert (record.onnx_sha256, record.engine_sha256) == (sha256(source), sha256(engine))
    assert record.bytes == engine.stat().st_size > 1000


@needs_rtx
def test_an_fp16_graph_with_pooling_builds(tmp_path):
    source = tmp_path / "model.onnx"
    onnx.save(to_half(parse_model(POOLED % 20)), source)
    assert build(source, tmp_path / "m.engine", EngineOptions(), precision="fp16").status == "built"


@needs_rtx
def test_two_builds_give_the_same_engine(tmp_path):
    source = _graph(tmp_path, "Relu")
    records = [build(source, tmp_path / f"{i}.engine", EngineOptions(), precision="fp32") for i in range(2)]
    assert records[0].engine_sha256 == records[1].engine_sha256


@needs_rtx
def test_the_log_of_a_failed_build_is_kept(tmp_path):
    record = build(
        _graph(tmp_path, "Relu"), tmp_path / "m.engine", EngineOptions(), precision="fp32", log=tmp_path / "log"
    )
    lines = (tmp_path / "log").read_text().splitlines()
    assert any(line.startswith("INFO: ") for line in lines)
    assert not any(line.startswith("INFO") for line in record.warnings)
    assert str(tmp_path) not in "".join(lines)
    with pytest.raises(UserError, match="see .*/failed.log$"):
        build(
            _graph(tmp_path, "Det"),
            tmp_path / "m2.engine",
            EngineOptions(),
            precision="fp32",
            log=tmp_path / "failed.log",
        )
    assert "ERROR" in (tmp_path / "failed.log").read_text()


@needs_rtx
def test_an_int8_graph_builds_in_the_same_way(exported, images, tmp_path):
    class Reader(CalibrationDataReader):
        batches = iter([{"image": images}])

        def get_next(self):
            return next(self.batches, None)

    quantised = tmp_path / "int8.onnx"
    quantize_static(
        exported("vit", "fp32").path,
        quantised,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    record = build(quantised, tmp_path / "m.engine", EngineOptions(), precision="int8")
    assert record.precision == "int8"
    assert record.outputs == [Port(name="logits", dtype="float32", shape=[-1, 10])]


def _node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs.split(), [output], **attributes)


CAST = _node("Cast", "image", "pixels", to=TensorProto.FLOAT)
# nodes, their constants, the operator that is refused, and what helps
REFUSED: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], str, str]] = {
    "an operator that it has not": (
        [CAST, _node("Det", "pixels", "logits", name="n")],
        {},
        "Det",
        "has no such operator",
    ),
    "uint8 pixels that are not cast first": (
        [_node("Transpose", "image", "t", perm=[0, 2, 1], name="n"), _node("Cast", "t", "logits", to=1)],
        {},
        "Transpose",
        "cast the uint8 pixels to float before",
    ),
    "a quantised bias": (
        [CAST, _node("DequantizeLinear", "bias scale", "b", name="n"), _node("Add", "pixels b", "logits")],
        {"bias": np.arange(4, dtype=np.int32)},
        "DequantizeLinear",
        "QuantizeBias=False",
    ),
    "an asymmetric quantisation": (
        [
            CAST,
            _node("QuantizeLinear", "pixels scale zero", "q", name="n"),
            _node("DequantizeLinear", "q scale zero", "logits"),
        ],
        {"zero": np.array(3, np.int8)},
        "QuantizeLinear",
        "quantise symmetrically",
    ),
}


@needs_rtx
@pytest.mark.parametrize("what", REFUSED)
def test_a_refused_graph_names_node_operator_and_hint(tmp_path, what):
    nodes, constants, operator, hint = REFUSED[what]
    constants = {"scale": np.array(0.1, np.float32), **constants}
    inits = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    with pytest.raises(UserError, match=rf"at node 'n' \({operator}\): .*; .*{hint}") as e:
        build(_saved(tmp_path, nodes, inits), tmp_path / "m.engine", EngineOptions(), precision="fp32")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "m.engine").exists()


@needs_rtx
def test_attention_without_a_kernel_is_the_graphs_fault(tmp_path, monkeypatch):
    export(tiny_model("vit"), "fp32", tmp_path / "vit.onnx", opset=23)
    sentence = r"found a fault in .*vit.onnx: Attention operation was not supported by a dedicated kernel; export with"
    with pytest.raises(RefusedGraphError, match=sentence):
        build(tmp_path / "vit.onnx", tmp_path / "m.engine", EngineOptions(), precision="fp32")
    record = record_of(
        tmp_path / "vit.onnx", tmp_path / "m.engine", EngineOptions(), precision="fp32", log=tmp_path / "log"
    )
    assert (record.status, record.library, record.version) == ("skipped", "tensorrt_rtx", None)
    assert "Attention operation" in (record.reason or "")


@needs_rtx
def test_an_unknown_compute_capability_is_refused(tmp_path):
    options = EngineOptions(compute_capabilities=["8.6", "5.0"])
    with pytest.raises(UserError, match=r"8\.9.*found 5\.0"):
        build(_graph(tmp_path, "Relu"), tmp_path / "m.engine", options, precision="fp32")


@needs_rtx
def test_a_gpu_unknown_to_the_library_is_refused(tmp_path, monkeypatch):
    """The library itself builds for it, and refuses the engine when it is loaded."""
    monkeypatch.setattr(tensorrt, "driver", lambda: Driver((13, 0), [Gpu("NVIDIA Fake", "9.0", 1)]))
    options = EngineOptions(library="tensorrt_rtx", compute_capabilities=["current"])
    with pytest.raises(UserError, match=r"found 9\.0; change `compute_capabilities` .*, or take another library"):
        build(_graph(tmp_path, "Relu"), tmp_path / "m.engine", options, precision="fp32")


@needs_rtx
@pytest.mark.parametrize("level", ["ampere_plus", "same_compute_capability"])
def test_lacking_hardware_compatibility_is_one_sentence(tmp_path, level):
    options = EngineOptions(hardware_compatibility=level)
    with pytest.raises(UserError, match=f"builds with hardware_compatibility {level}, found tensorrt_rtx .* set"):
        build(_graph(tmp_path, "Relu"), tmp_path / "m.engine", options, precision="fp32")


@needs_rtx
def test_lacking_version_compatibility_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="that later versions load, found tensorrt_rtx .*`version_compatible: false`"):
        build(_graph(tmp_path, "Relu"), tmp_path / "m.engine", EngineOptions(version_compatible=True), precision="fp32")


@needs_rtx
def test_current_gpu_needs_a_gpu(tmp_path, no_driver):
    with pytest.raises(UserError, match="expected a GPU for the compute capability `current`, found none; name one"):
        options = EngineOptions(compute_capabilities=["current"])
        build(_graph(tmp_path, "Relu"), tmp_path / "m.engine", options, precision="fp32")


@needs_rtx
@pytest.mark.skipif(measurable() is None, reason="with a GPU it may well be built")
def test_weights_are_left_out_or_a_sentence_tells(exported, tmp_path):
    try:
        options = EngineOptions(strip_weights=True)
        record = build(exported("vit", "fp32").path, tmp_path / "m.engine", options, precision="fp32")
        assert record.weights_stripped
    except UserError as error:
        assert "set strip_weights to false" in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


class Config:
    """A builder's configuration as `tensorrt` has it: for this machine's GPU alone, with compatibility."""

    def __init__(self, real):
        self.__dict__.update(real=real, flags=set(), hardware_compatibility_level=None)

    def __getattr__(self, name):
        if name in ("set_compute_capability", "num_compute_capabilities"):
            raise AttributeError(name)
        return getattr(self.real, name)

    def set_flag(self, flag):
        self.flags.add(flag)

    def get_flag(self, flag):
        return flag in self.flags


@pytest.fixture
def data_centre(monkeypatch, gpus):
    """`tensorrt` on a machine with a GPU: tensorrt_rtx under its name, with what differs between the two."""
    rtx = pytest.importorskip("tensorrt_rtx")
    configs = []

    class Builder(rtx.Builder):  # type: ignore[name-defined]
        def create_builder_config(self):
            configs.append(Config(super().create_builder_config()))
            return configs[-1]

        def build_serialized_network(self, network, config):
            return super().build_serialized_network(network, config.real)

    library = SimpleNamespace(**{**vars(rtx), "__name__": "tensorrt", "__version__": "11.4.0", "Builder": Builder})
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    gpus("8.7")
    return configs


def test_tensorrt_builds_for_the_gpu_of_the_machine(data_centre, tmp_path):
    record = build(_graph(tmp_path, "Relu"), tmp_path / "m.engine", EngineOptions(), precision="fp32")
    assert (record.library, record.version, record.compute_capabilities) == ("tensorrt", "11.4.0", ["8.7"])
    assert record.built_on == {"gpu": "NVIDIA Fake", "compute_capability": "8.7", "driver": "CUDA 13.0"}
    assert (tmp_path / "m.engine").stat().st_size == record.bytes


def test_tensorrt_is_asked_for_every_compatibility(data_centre, tmp_path):
    import tensorrt_rtx as trt

    options = EngineOptions(hardware_compatibility="ampere_plus", version_compatible=True, strip_weights=True)
    record = build(_graph(tmp_path, "Relu"), tmp_path / "m.engine", options, precision="fp32")
    assert data_centre[0].hardware_compatibility_level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert data_centre[0].flags == {trt.BuilderFlag.VERSION_COMPATIBLE, trt.BuilderFlag.STRIP_PLAN}
    assert (record.hardware_compatibility, record.version_compatible) == ("ampere_plus", True)


def test_tensorrt_refuses_another_gpu_than_its_own(data_centre, tmp_path):
    options = EngineOptions(compute_capabilities=["8.6", "8.9"])
    with pytest.raises(
        UserError, match=r"\(8\.7\) alone, found 8\.6, 8\.9; build on the device itself, or with tensorrt"
    ):
        build(_graph(tmp_path, "Relu"), tmp_path / "m.engine", options, precision="fp32")


def test_an_older_tensorrt_without_an_option_says_so(data_centre, tmp_path):
    sys.modules["tensorrt"].BuilderFlag = SimpleNamespace()  # type: ignore[attr-defined]
    for options, words in [
        ({"strip_weights": True}, "engines without weights"),
        ({"version_compatible": True}, "later versions load"),
    ]:
        with pytest.raises(UserError, match=f"{words}, found tensorrt 11.4.0, which does not"):
            build(_graph(tmp_path, "Relu"), tmp_path / "m", EngineOptions.model_validate(options), precision="fp32")


def test_the_named_library_is_taken_or_none(data_centre, monkeypatch, no_driver):
    assert available() == available("tensorrt_rtx")
    assert available("tensorrt") is None
    assert "needs the GPU that it builds for" in (skipped("tensorrt", "fp32").reason or "")


def test_without_a_library_engines_are_skipped(monkeypatch, tmp_path):
    real = importlib.import_module

    def absent(name, *rest):
        if name.startswith("tensorrt"):
            raise ModuleNotFoundError(name=name)
        return real(name, *rest)

    monkeypatch.setattr(_tensorrt.importlib, "import_module", absent)
    assert available() is None
    assert skipped("auto", "fp32").status == "skipped"
    assert "pip install 'rsd[engine]'" in (skipped("auto", "fp32").reason or "")
    with pytest.raises(UserError, match="pip install"):
        build(tmp_path / "m.onnx", tmp_path / "m.engine", EngineOptions(), precision="fp32")


def test_tensorrt_is_preferred_where_it_has_a_gpu(monkeypatch):
    class Library:
        __version__ = "11"

    monkeypatch.setitem(sys.modules, "tensorrt", Library)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", Library)
    monkeypatch.setattr(_tensorrt, "measurable", lambda: None)
    assert available() == ("tensorrt", "11")
    monkeypatch.setattr(_tensorrt, "measurable", lambda: "not measured: no CUDA device")
    assert available() == ("tensorrt_rtx", "11")


def test_without_a_driver_nothing_can_be_measured(no_driver):
    assert measurable() == "not measured: no CUDA device"


def test_a_library_is_imported_only_when_asked_for(monkeypatch):
    real = builtins.__import__

    def guarded(name, *rest, **named):
        assert not name.startswith("tensorrt")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", guarded)
    importlib.reload(tensorrt)


@pytest.mark.parametrize(
    "wrong",
    [{"min_batch": 4}, {"compute_capabilities": []}, {"compute_capabilities": ["RTX"]}, {"fp16": True}],
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError):
        EngineOptions(**wrong)


def _graph(folder, operator):
    """uint8 `[N, 4, 4]` -> Cast -> `operator`."""
    return _saved(folder, [CAST, _node(operator, "pixels", "logits", name="n")], [])


def _saved(folder, nodes, constants):
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 4, 4])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [image], [logits], constants)
    path = folder / "graph.onnx"
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path
