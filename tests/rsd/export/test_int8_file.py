import numpy as np
import onnx
import pytest

from rsd.export import int8_file as module
from rsd.export import write_int8
from rsd.export.int8_file import chosen, mean_cosine
from rsd.export.placement import CPU_ALL, CPU_PRODUCTS
from rsd.export.quantize import Int8Options, calibrated, quantized
from rsd.export.run_graph import logits_in
from rsd.machine.errors import UserError

RUNTIMES = ("onnxruntime", "openvino", "tensorrt")


@pytest.fixture
def source(exported):
    return lambda name: exported(name, "fp32").path


@pytest.mark.parametrize("runs_on", RUNTIMES)
@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_its_logits_point_where_fp32s_do(source, images, tmp_path, name, runs_on):
    write_int8(source(name), tmp_path / "int8.onnx", images, runs_on=runs_on)
    exact, near = (logits_in(runs_on, onnx.load(path), images) for path in (source(name), tmp_path / "int8.onnx"))
    assert 0.9 < mean_cosine(exact, near) < 1
    assert (tmp_path / "int8.onnx").stat().st_size < source(name).stat().st_size


def test_the_same_arguments_give_the_same_bytes(source, images, tmp_path):
    for name in ("a", "b"):
        write_int8(source("vit"), tmp_path / name, images)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_cpu_runtimes_share_a_file(source, images, tmp_path):
    for name in RUNTIMES:
        write_int8(source("vit"), tmp_path / name, images, runs_on=name)
    contents = [(tmp_path / name).read_bytes() for name in RUNTIMES]
    assert contents[0] == contents[1] != contents[2]


def test_what_the_source_says_of_itself_stays(source, images, tmp_path):
    write_int8(source("vit"), tmp_path / "int8.onnx", images)
    before, after = (
        {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        for path in (source("vit"), tmp_path / "int8.onnx")
    )
    assert after == before | {"precision": "int8"}


@pytest.mark.parametrize(
    ("near", "form"),
    [([0.999], CPU_PRODUCTS), ([0.97, 0.974], CPU_PRODUCTS), ([0.97, 0.98], CPU_ALL), ([np.nan, 0.5], CPU_ALL)],
)
def test_the_faster_form_is_taken_unless_it_strays(traced, images, monkeypatch, near, form):
    """The other form is looked at only where it could be closer by more than `CLOSE`."""
    answers = iter(near)
    monkeypatch.setattr(module, "mean_cosine", lambda *_: next(answers))
    proto = traced("vit").traced.proto
    assert chosen(proto, images, Int8Options(), runs_on="onnxruntime").form is form
    assert not [*answers]


@pytest.mark.parametrize("batch", [1, 4])
def test_a_form_that_cannot_run_is_refused(traced, images, monkeypatch, batch):
    def run(runtime, graph, batch_images, **options):
        quantised = any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
        if quantised and len(batch_images) == batch:
            raise UserError("no kernel")
        return logits_in(runtime, graph, batch_images, **options)

    monkeypatch.setattr(module, "logits_in", run)
    with pytest.raises(UserError, match="found none .products: no kernel; all: no kernel.; ship fp32"):
        chosen(traced("vit").traced.proto, images, Int8Options(), runs_on="onnxruntime")


@pytest.mark.parametrize(
    ("near", "calibration"), [([0.996], "min_max"), ([0.98, 0.97], "min_max"), ([0.98, 0.99], "percentile")]
)
def test_the_ranges_nearest_to_fp32_are_taken(source, images, tmp_path, monkeypatch, near, calibration):
    """The outermost values are left out only where all of them leave the logits far from fp32's."""
    answers = iter(near)
    monkeypatch.setattr(module, "mean_cosine", lambda *_: next(answers))
    monkeypatch.setattr(
        module, "chosen", lambda proto, images, options, *, runs_on: calibrated(proto, images, options, CPU_PRODUCTS)
    )
    write_int8(source("vit"), tmp_path / "int8.onnx", images)
    assert not [*answers]
    ranges = calibrated(onnx.load(source("vit")), images, Int8Options(calibration=calibration), CPU_PRODUCTS)
    expected = logits_in("onnxruntime", quantized(onnx.load(source("vit")), ranges), images)
    assert np.array_equal(logits_in("onnxruntime", onnx.load(tmp_path / "int8.onnx"), images), expected)


def test_bad_arguments_get_a_sentence(source, images, tmp_path):
    target = tmp_path / "int8.onnx"
    (tmp_path / "text").write_text("no graph")
    for wrong, sentence in (
        ({"runs_on": "tvm"}, "expected a runtime out of .*openvino.*, found 'tvm'"),
        ({"source": tmp_path / "text"}, "to be an ONNX file"),
        ({"source": tmp_path / "none"}, "to be an ONNX file"),
        ({"images": images.astype(np.float32)}, r"expected images uint8 \[N, 16, 16, 1\] with N > 0, found float32"),
        ({"images": images[:0]}, "with N > 0"),
        ({"images": images[:, :8]}, r"found uint8 \[64, 8, 16, 1\]"),
    ):
        given = {"source": source("vit"), "images": images} | wrong
        with pytest.raises(UserError, match=sentence):
            write_int8(given.pop("source"), target, given.pop("images"), **given)
    assert not target.exists()


def test_a_runtime_that_is_absent_is_named(source, images, tmp_path, monkeypatch):
    openvino = type(module.runtimes.get("openvino"))  # an instance would keep the restored method as its own
    monkeypatch.setattr(openvino, "missing", lambda self: "OpenVINO is not installed (no module)")
    with pytest.raises(UserError, match="OpenVINO is not installed .*; pip install 'rsd.openvino.'"):
        write_int8(source("vit"), tmp_path / "int8.onnx", images, runs_on="openvino")


def test_the_cosine_is_the_mean_over_images():
    reference, logits = np.random.default_rng(0).normal(size=(2, 7, 5)).astype(np.float32)
    rows = zip(reference.astype(np.float64), logits.astype(np.float64), strict=True)
    angles = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in rows]
    assert mean_cosine(reference, logits) == pytest.approx(np.mean(angles), abs=1e-12)
