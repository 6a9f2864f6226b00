"""Records of the files for devices: the exported graph, its precisions, their engines, the origin of a bundle."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from rsd.run.records.base import Part, Record


class Comparison(Part):
    """How far the logits of one form of a model lie from those of another, on the same images."""

    images: int
    max_difference: float
    mean_difference: float
    logit_range: float
    max_difference_share: float
    """Of the logit range."""
    min_cosine: float
    top1_agreement: float
    """Share of the images, 0 to 1, as are the accuracies."""
    disagreements: int
    disagreements_beyond_near_ties: int
    near_tie_share: float
    reference_accuracy: float
    accuracy: float
    accuracy_delta_points: float
    accuracy_delta_images: int
    accuracy_delta_margin: float | None = None
    """Half of the 95 % interval of `accuracy_delta_points`, paired over the images; None where no image changed."""
    worst_images: list[int]


class Rounded(Part):
    """A part of a comparison, with every value rounded to fp16, as a runtime in half precision computes."""

    images: int
    max_difference: float
    accuracy_delta_images: int


class Parity(Comparison):
    """A rung of the ladder from the trained student to a file."""

    rung: str
    """`stripped`, or a precision."""
    against: str
    """`as trained`: the student in its training-only module; `stripped`: out of it, in PyTorch."""
    rounded: Rounded | None = None
    """Of fp16."""


class ServedSize(Part):
    """How the project serves an image of another size, so that a device can do the same with Pillow.

    An array is resized as a whole (bilinear). An image file is cut to its central square of `crop_share` (bicubic).
    """

    height: int
    """In pixels, as is `width`."""
    width: int
    channels: int
    resize: Literal["bilinear", "bicubic"]
    crop_share: float | None
    """Of the shorter side."""


class GraphInput(ServedSize):
    """What a graph takes: served images, which it normalises itself."""

    mean: list[float]
    """Per channel, of pixels in [0, 1], as is `std`."""
    std: list[float]
    normalised: Literal["inside"] = "inside"


class ExportRecord(Record):
    """`export/export.json`: the shipped student as an ONNX graph in float32."""

    student: str
    license: str
    classes: list[str]
    preprocessing: GraphInput
    validation_top1: float
    """Per cent, as is `test_top1`, which is the graph's."""
    test_top1: float
    parameters: int
    opset: int
    ir_version: int
    bytes: int
    sha256: str
    ladder: list[Parity]
    parts: dict[str, str] = Field({})
    """Which part of the PyTorch model a value of the graph comes from, such as `blocks.0.attn.qkv`."""

    location = "export/export.json"

    @property
    def files(self) -> dict[str, str]:
        return {"export/model.onnx": self.sha256}


class Harm(Part):
    """What one node alone does in another precision."""

    node: str
    operator: str
    error: float
    """Root mean square of what it changes in the logits, as a share of their standard deviation."""


class Details(BaseModel):
    """What a precision says of its conversion; a precision may add to it."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    nodes: int
    """That can be converted."""
    in_float: list[Harm]
    """Nodes that stayed in float, the most harmful first."""


class Stray(Part):
    """How far a value within a graph lies from the same value in fp32."""

    value: str
    part: str
    """Of the PyTorch model; empty if it is not known."""
    error: float
    """Root mean square, as a share of the value's standard deviation in fp32."""


class Pair(Part):
    """A file in one runtime, held to the gate of its precision there."""

    file: str
    """In the record's folder. Two runtimes may read one file."""
    bytes: int
    sha256: str
    parity: Parity
    """Of this pair against the trained student."""
    passes_off: list[str] = Field([])
    """Where an engine cannot run here, ONNX Runtime computes in its place, without these passes."""
    details: SerializeAsAny[Details] | None = None
    strays: list[Stray] = Field([])
    """Every value of a file that is not fp32, from pixels to logits, as the file is written."""

    @property
    def test_top1(self) -> float:
        """Per cent."""
        return round(100 * self.parity.accuracy, 2)


class ConvertRecord(Record):
    """`convert/PRECISION/convert.json`: the files of one precision, a pair for each runtime."""

    student: str
    precision: str
    ladder: list[Parity]
    """From the trained student to the file in ONNX Runtime."""
    pairs: dict[str, Pair]
    """By runtime; `tensorrt` is any that builds engines. ONNX Runtime's is always there, and the first."""
    lost: dict[str, str] = Field({})
    """Why a runtime has none, in a sentence."""

    location = "convert/{0.precision}/convert.json"

    @property
    def main(self) -> Pair:
        """In ONNX Runtime."""
        return self.pairs["onnxruntime"]

    @property
    def files(self) -> dict[str, str]:
        return {f"convert/{self.precision}/{pair.file}": pair.sha256 for pair in self.pairs.values()}


class Port(Part):
    """An input or output of an engine."""

    name: str
    dtype: str
    shape: list[int]
    """-1: any batch size."""


class EngineRecord(Record):
    """`engines/PRECISION/engine.json`: an engine that was built, or why there is none. Devices read it, too."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    status: str
    """`built` or `skipped`."""
    precision: str
    library: str
    version: str | None = None
    cuda: int | None = None
    """Major version that the library is made with."""
    reason: str | None = None
    """Why there is none."""
    compute_capabilities: list[str] = Field([])
    """GPU generations that it is for."""
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    weights_stripped: bool = False
    built_on: dict[str, str] | None = None
    """The GPU of the machine that built it."""
    inputs: list[Port] = Field([])
    outputs: list[Port] = Field([])
    profile: dict[str, int] | None = None
    """Batch sizes: `min`, `opt` (which kernels are chosen for) and `max`."""
    metadata: dict[str, str] = Field({})
    """What the ONNX file says of itself."""
    onnx_sha256: str | None = None
    engine_sha256: str | None = None
    bytes: int | None = None
    build_seconds: float | None = None
    warnings: list[str] = Field([])
    parity: Comparison | str | None = None
    """Against its ONNX file; a sentence where the engine could not be run here."""

    @property
    def batches(self) -> tuple[int, int]:
        """The smallest and the largest batch that it takes; one image where there is no engine."""
        return (self.profile["min"], self.profile["max"]) if self.profile else (1, 1)

    location = "engines/{0.precision}/engine.json"

    @property
    def files(self) -> dict[str, str]:
        return {f"engines/{self.precision}/model.engine": self.engine_sha256} if self.engine_sha256 else {}
