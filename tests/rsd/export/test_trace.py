import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import timm
import torch
from onnx import TensorProto
from pydantic import ValidationError
from torch import nn

from rsd.export import precisions, tensorrt
from rsd.export.graph import checked, save
from rsd.export.half import to_half
from rsd.export.ladder import Ladder
from rsd.export.options import ExportOptions, export_options
from rsd.export.parity import MaxDifference, compare
from rsd.export.precisions.base import Exported
from rsd.export.quantize import Int8Options, calibrated, quantized
from rsd.export.runtimes.onnxruntime import logits_of
from rsd.export.trace import judge_traced, trace
from rsd.export.ungated import write_files
from rsd.machine.errors import UserError
from rsd.models.pixels import RawPixels
from rsd.sources.images import LabelledImages
from tests.rsd.export.conftest import MEAN, STD, export, lively, squares, telling

KINDS = [("resnet", "fp32"), ("vit", "fp16")]
HIERA: dict[str, Any] = {"img_size": 64, "embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1)}


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_the_models_of_these_tests_tell_images_apart(traced, images, name):
    logits = traced(name).logits(images)
    assert logits.std(axis=0).mean() > 0.03 * np.ptp(logits)
    assert len(set(logits.argmax(axis=1))) > 2


@pytest.mark.parametrize(("name", "precision"), KINDS)
def test_onnx_runtime_says_what_pytorch_says(exported, images, name, precision):
    student = exported(name, precision)
    reference = student.logits(images)
    record = compare(reference, logits_of(student.path, images), reference.argmax(axis=1))
    export_options()().gate(precision).check(record)
    assert record.max_difference_share < (1e-5 if precision == "fp32" else 5e-3)


@pytest.mark.parametrize(("name", "precision"), KINDS)
def test_the_batch_may_have_any_size(exported, images, name, precision):
    session = ort.InferenceSession(exported(name, precision).path)
    whole = session.run(None, {"image": images[:5]})[0]
    for size in (1, 2, 3):
        part = session.run(None, {"image": images[:size]})[0]
        assert part.shape == (size, 10)
        np.testing.assert_allclose(part, whole[:size], atol=1e-2 if precision == "fp16" else 1e-5)


@pytest.mark.parametrize(("name", "precision"), KINDS)
def test_raw_pixels_go_in_float32_logits_come_out(exported, name, precision):
    proto = onnx.load(exported(name, precision).path)
    (image,), (logits,) = proto.graph.input, proto.graph.output
    assert (image.name, image.type.tensor_type.elem_type) == ("image", TensorProto.UINT8)
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", TensorProto.FLOAT)
    assert proto.ir_version == 10
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 20)]


def test_an_fp16_graph_keeps_float32_pixel_statistics(exported):
    graph = onnx.load(exported("vit", "fp16").path).graph
    types = {t.name: t.data_type for t in graph.initializer}
    full = [t for t in graph.initializer if t.data_type == TensorProto.FLOAT]
    assert types["model.pos_embed"] == TensorProto.FLOAT16
    assert sum(int(np.prod(t.dims)) for t in full) <= 4  # scale, shift, 0 and 1 of their BatchNormalization
    (normalisation,) = [node for node in graph.node if node.op_type == "BatchNormalization"]
    assert {types[name] for name in normalisation.input[1:]} == {TensorProto.FLOAT}


def test_pixels_are_normalised_in_one_step(traced):
    kinds = [node.op_type for node in traced("vit").traced.proto.graph.node]
    first = kinds.index("Cast")
    assert kinds[first : first + 3] == ["Cast", "Transpose", "BatchNormalization"]
    assert not {"Sub", "Div"} & {*kinds[: first + 5]}


def test_the_same_model_gives_the_same_bytes(exported, tmp_path, capfd):
    student = exported("vit", "fp16")
    capfd.readouterr()
    export(student.model, "fp16", tmp_path / "again.onnx")
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "again.onnx").read_bytes() == student.path.read_bytes()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_the_file_names_no_folder_of_this_machine(exported, name, precision):
    content = exported(name, precision).path.read_bytes()
    for folder in (Path.cwd(), Path(sys.prefix), Path(torch.__file__).parent, Path(timm.__file__).parent):
        assert str(folder).encode() not in content
    assert b"stack_trace" not in content


def test_metadata_travels_in_the_file(exported):
    properties = {p.key: p.value for p in onnx.load(exported("resnet", "fp32").path).metadata_props}
    assert properties == {"name": "tiny", "classes": '["a", "b"]'}


def test_exporting_leaves_the_model_as_it_was(exported):
    student = exported("vit", "fp16")
    assert {p.dtype for p in student.model.parameters()} == {torch.float32}


def test_a_path_in_the_metadata_is_refused(tmp_path):
    with pytest.raises(UserError, match="take it out of the metadata"):
        export(_Linear(), "fp32", tmp_path / "m.onnx", metadata={"data": f"{Path.cwd()}/images"})
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("/app", True),
        ("in /app/x", True),
        ("a\n/app", True),
        ("/apple", False),
        ("fruit/apple", False),
        ("a/app", False),
    ],
)
def test_a_path_is_one_by_its_whole_components(traced, tmp_path, monkeypatch, text, refused):
    monkeypatch.setattr(Path, "cwd", lambda: Path("/app"))
    metadata = {"a": text, "b": "c"}
    if refused:
        with pytest.raises(UserError, match="found /app; take it out"):
            save(traced("resnet").traced.proto, tmp_path / "m.onnx", metadata=metadata)
    else:
        save(traced("resnet").traced.proto, tmp_path / "m.onnx", metadata=metadata)


def test_attention_in_windows_is_exported_unfused(tmp_path):
    model = lively(timm.create_model("hiera_tiny_224", num_classes=10, **HIERA))
    pixels = squares(5, 64, 3)
    path = tmp_path / "hiera.onnx"
    write_files(model, {"fp32": path}, mean=[0.5] * 3, std=[0.5] * 3, image_shape=(64, 64, 3), classes=10)
    with torch.no_grad():
        expected = RawPixels(model, [0.5] * 3, [0.5] * 3)(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(logits_of(path, pixels), expected, atol=1e-4)
    assert any(getattr(module, "fused_attn", False) for module in model.modules())  # the given model is left alone


def test_a_value_clipped_twice_keeps_every_limit(tmp_path, images):
    class Clipping(_Linear):
        def __init__(self) -> None:
            super().__init__()
            self.limits = nn.Buffer(torch.tensor([0.1, 0.2, 0.4]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            clipped = [torch.clamp(x, -limit, limit) for limit in self.limits]
            return super().forward(torch.stack(clipped).sum(dim=0))

    torch.manual_seed(0)
    model = Clipping()
    export(model, "fp32", tmp_path / "m.onnx")
    pixels = (images[..., 0].reshape(len(images), -1) / 255 - MEAN[0]) / STD[0]
    clipped = sum(pixels.clip(-limit, limit) for limit in (0.1, 0.2, 0.4))
    expected = clipped @ model.head.weight.detach().numpy().T + model.head.bias.detach().numpy()
    np.testing.assert_allclose(logits_of(tmp_path / "m.onnx", images), expected, atol=1e-4)


def test_an_export_that_fails_is_a_sentence(tmp_path):
    class Eigen(_Linear):
        def forward(self, x):
            return super().forward(x) + torch.linalg.eigvals(x[:, 0]).real.sum()

    with pytest.raises(UserError, match=r"^expected a student that torch.onnx exports.*; choose another") as error:
        export(Eigen(), "fp32", tmp_path / "m.onnx")
    assert "\x1b" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet", "vit"])
@pytest.mark.parametrize(("opset", "ir_version"), [(18, 8), (20, 10), (23, 13)])
def test_every_opset_agrees_with_pytorch_in_every_precision(traced, images, tmp_path, name, opset, ir_version):
    student = traced(name)
    kind: dict[str, Any] = {"image_shape": (16, 16, 1), "classes": 10, "opset": opset, "ir_version": ir_version}
    proto = trace(student.model, mean=MEAN, std=STD, **kind).proto
    graphs = {"fp32": proto, "fp16": to_half(proto), "int8": quantized(proto, calibrated(proto, images, Int8Options()))}
    reference = student.logits(images)
    for (precision, graph), within in zip(graphs.items(), (1e-5, 1e-2, 0.2), strict=True):
        path = tmp_path / f"{precision}.onnx"
        if (name, precision) == ("vit", "int8") and opset > (precisions.get("int8").largest_opset or (23,))[0]:
            # Once this loads, `rsd.config.resolve` need not refuse the opset any more.
            with pytest.raises(UserError, match="ONNX Runtime loads and runs, found a fault: .*QuantizeLinear"):
                save(checked(graph), path, metadata={})
            continue
        save(checked(graph), path, metadata={})
        made = onnx.load(path)
        assert ([(o.domain, o.version) for o in made.opset_import], made.ir_version) == ([("", opset)], ir_version)
        share = compare(reference, logits_of(path, images), reference.argmax(axis=1)).max_difference_share
        assert share < within, precision


def test_a_graph_that_strays_names_the_node(traced, images):
    student = traced("resnet")
    proto = onnx.ModelProto()
    proto.CopyFrom(student.traced.proto)
    split = LabelledImages(images, student.logits(images).argmax(axis=1), [str(number) for number in range(10)])
    (node,) = [node for node in proto.graph.node if node.name == "node_relu_3"]
    node.op_type = "Softplus"
    with pytest.raises(UserError, match=r"^the fp32 export differs .*: \d+, .*'node_relu_3'") as error:
        judge_traced(
            Ladder(student.logits(images), split), MaxDifference("fp32", 1e-4), student.traced._replace(proto=proto)
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["aad", "projection"])
def test_a_training_only_module_is_refused(tmp_path, part):
    model = _Linear()
    model.add_module(part, nn.Linear(10, 10))
    with pytest.raises(UserError, match=f"found '{part}.weight'"):
        export(model, "fp32", tmp_path / "m.onnx")


def test_a_student_beyond_an_onnx_file_is_refused(tmp_path):
    with torch.device("meta"):
        model = nn.Linear(2**15, 2**14)
    with pytest.raises(UserError, match=r"less than 2 GiB in fp32.*, found 2\.0 GiB"):
        export(model, "fp32", tmp_path / "m.onnx")


def test_weights_that_are_not_the_models_are_refused(tmp_path):
    foreign = torch.randn(10, 2000)

    class Grown(nn.Module):
        def forward(self, x):
            return (x.flatten(1)[:, :10] @ foreign)[:, :10]

    with pytest.raises(UserError, match="found 20,0"):
        export(Grown(), "fp32", tmp_path / "m.onnx")


def test_another_number_of_classes_is_refused(tmp_path):
    with pytest.raises(UserError, match="check the number of classes"):
        export(_Linear(), "fp32", tmp_path / "m.onnx", classes=11)


def test_weights_beyond_fp16_are_refused(tmp_path):
    model = _Linear()
    nn.init.constant_(model.head.weight, 1e6)
    with pytest.raises(UserError, match="ship fp32"):
        export(model, "fp16", tmp_path / "m.onnx")


def test_an_opset_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected a graph in opset 11 of ONNX, found"):
        export(_Linear(), "fp32", tmp_path / "m.onnx", opset=11)


def test_a_licence_is_an_spdx_expression():
    assert ExportOptions().license == "NOASSERTION"
    assert ExportOptions(license="apache-2.0 OR mit").license == "Apache-2.0 OR MIT"
    assert ExportOptions(license="LicenseRef-Ours").license == "LicenseRef-Ours"
    with pytest.raises(ValidationError, match="expected an SPDX expression"):
        ExportOptions(license="free for all")


def test_an_unloadable_graph_is_not_written(traced, tmp_path):
    proto = onnx.ModelProto()
    proto.CopyFrom(traced("resnet").traced.proto)
    proto.graph.node[3].op_type = "NoSuchOperator"
    with pytest.raises(UserError, match="expected a graph that ONNX Runtime loads"):
        save(proto, tmp_path / "m.onnx", metadata={})
    assert not (tmp_path / "m.onnx").exists()


def test_unknown_options_are_an_error():
    with pytest.raises(ValidationError, match="opsett"):
        ExportOptions(opsett=19)  # type: ignore[call-arg]


class _Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(256, 10)

    def forward(self, x):
        return self.head(x.flatten(1))


STUDENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": ("resnet18", {}),
    "mobilenetv2": ("mobilenetv2_100", {}),
    "deit_t": ("deit_tiny_patch16_224", {}),
    "swin_n": ("swin_tiny_patch4_window7_224", {"embed_dim": 64, "depths": (2, 2, 2, 2), "num_heads": (2, 4, 8, 16)}),
    "swin_p": ("swin_tiny_patch4_window7_224", {"embed_dim": 48, "depths": (2, 2, 2, 2), "num_heads": (2, 4, 8, 16)}),
    "resmlp_12": ("resmlp_12_224", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(STUDENTS))
def test_every_student_at_224_climbs_the_ladder(tmp_path, name):
    kind, args = STUDENTS[name]
    torch.manual_seed(0)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    pixels = squares(24, 224, 3)
    model = telling(lively(timm.create_model(kind, num_classes=10, **args)), pixels, mean, std)
    made = trace(model, mean=mean, std=std, image_shape=(224, 224, 3), classes=10, opset=20, ir_version=10)
    with torch.no_grad():
        reference = RawPixels(model, mean, std)(torch.from_numpy(pixels)).numpy()
    assert reference.std(axis=0).mean() > 0.05 * np.ptp(reference)  # they differ between images
    assert len(set(reference.argmax(axis=1))) > 3
    labels = reference.argmax(axis=1)  # so that every change of the first class is an error
    split = LabelledImages(pixels, labels, [str(number) for number in range(10)])
    ladder, options = Ladder(reference, split), export_options()()
    judge_traced(ladder, options.gate("fp32"), made)
    half = precisions.get("fp16").convert(
        Exported(made.proto, {}, ladder, options.gate("fp16"), lambda _: split), options.of("fp16")
    )
    graphs = {"fp32": made.proto, "fp16": half.graph}
    # `telling` takes the common part off the logits and so most of the range that shares are of.
    assert half.parity.max_difference_share < 5e-2
    assert half.parity.disagreements_beyond_near_ties == 0
    known = calibrated(made.proto, pixels[:8], Int8Options())
    graphs["int8"] = checked(quantized(made.proto, known))
    # An untrained MobileNetV2 multiplies every rounding (pixels that are off by 2 of 255 leave its logits a correlation
    # of 0.82), so int8 is compared where it cannot pile up.
    top = checked(quantized(made.proto, known, in_float=known.nodes[:-10]))
    answers = logits_of(top.SerializeToString(), pixels)
    assert np.corrcoef(reference.ravel(), answers.ravel())[0, 1] > 0.9
    for precision, proto in graphs.items():
        path = tmp_path / f"{precision}.onnx"
        save(proto, path, metadata={})
    if (tensorrt.available() or ("",))[0] != "tensorrt_rtx":
        pytest.skip("the ladder passed; no engines were built, since tensorrt_rtx is not used here")
    for precision in graphs:
        engine = tmp_path / "engine"
        tensorrt.build(tmp_path / f"{precision}.onnx", engine, tensorrt.EngineOptions(), precision=precision)


OLDEST = ("onnxruntime==1.18.0", "numpy==1.26.4")
"""The first ONNX Runtime that reads IR 10 and opset 20, and the last numpy that it was built for."""
RUN_THERE = """
import sys
import numpy as np, onnxruntime as ort
images = np.load(sys.argv[1])
for path in sys.argv[2:]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.save(path + ".npy", session.run(["logits"], {"image": images})[0])
print(ort.__version__)
"""


@pytest.mark.slow
def test_the_files_run_in_the_oldest_onnx_runtime(traced, images, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", "--only-binary", ":all:", *OLDEST],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"pip cannot install {OLDEST[0]} here: {done.stdout.strip().splitlines()[-1:]}")
    np.save(tmp_path / "images.npy", images)
    paths = []
    for name in ("resnet", "vit"):
        proto = traced(name).traced.proto
        known = calibrated(proto, images, Int8Options())
        for precision, graph in (("fp32", proto), ("fp16", to_half(proto)), ("int8", quantized(proto, known))):
            paths.append(tmp_path / f"{name}-{precision}.onnx")
            save(checked(graph), paths[-1], metadata={})
    answers = subprocess.check_output([python, "-c", RUN_THERE, tmp_path / "images.npy", *paths], text=True)
    assert answers.strip() == OLDEST[0].split("==")[1]
    for path in paths:
        here, there = logits_of(path, images), np.load(f"{path}.npy")
        apart = compare(here, there, here.argmax(axis=1)).max_difference_share
        if "int8" in path.name:
            # Kernels of another version round to the next level of int8 now and then: the one must be as good as the
            # other beside the graph that both stand for.
            exact = logits_of(path.with_name(path.name.replace("int8", "fp32")), images)
            strays = [compare(exact, logits, exact.argmax(axis=1)).mean_difference for logits in (here, there)]
            assert strays[1] < 1.25 * strays[0]
        else:
            assert apart < (1e-5 if "fp32" in path.name else 2e-2)
