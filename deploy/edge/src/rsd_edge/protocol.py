"""The Open Inference Protocol, version 2, with its binary tensor data extension: bytes to arrays and back.

https://github.com/kserve/open-inference-protocol and, for binary data,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md

One input, `image: UINT8 [N, H, W, C]`, and one output, `logits: FP32 [N, classes]`.
"""

import json
import zlib
from typing import Any, NamedTuple

import numpy as np

INPUT, OUTPUT = "image", "logits"
HEADER_LENGTH = "inference-header-content-length"
MOST_JSON = 1 << 21
"""Bytes of the JSON of a request; pixels that take more travel as binary data."""


class RefusedError(Exception):
    """A request that is not served: an HTTP status and one sentence for the client."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class InferRequest(NamedTuple):
    """What a client asks for."""

    images: np.ndarray
    """uint8 `[N, H, W, C]`."""
    id: str | None
    """Comes back with the answer."""
    binary: bool
    """Whether the logits go back as bytes instead of JSON numbers."""


def parse(body: bytes, header_length: str | None, *, shape: tuple[int, ...], max_batch: int) -> InferRequest:
    """Read the body of an `infer` request.

    Args:
        body: JSON, or JSON followed by the input's bytes.
        header_length: the header `Inference-Header-Content-Length`, if there is one: the bytes of JSON.
        shape: (H, W, C) that the model takes.
        max_batch: the largest N.

    Raises:
        RefusedError: with status 400 or 413, if the request is not as the protocol and the model want it.
    """
    length = len(body) if header_length is None else _header_length(header_length, len(body))
    # Python lists take up to 21 times the memory of their text, and nothing else runs while it is read: hold the text
    # to what the largest batch needs, and to what an image of 384 x 384 needs.
    most = min(MOST_JSON, 65536 + 8 * max_batch * int(np.prod(shape)))
    if length > most:
        raise RefusedError(413, f"expected at most {most} bytes of JSON, found {length}; send binary data, or less")
    request = _object(_json(body[:length]), "the request")
    image = _one(request, "inputs", INPUT)
    images = _images(image, body[length:], shape, max_batch)
    id_ = request.get("id")
    if id_ is not None and not isinstance(id_, str):
        raise RefusedError(400, f"expected a string as id, found {_short(id_)}")
    parameters = _parameters(request, "the request")
    binary = parameters.get("binary_data_output", False)
    if request.get("outputs"):
        output = _one(request, "outputs", OUTPUT)
        parameters = _parameters(output, OUTPUT)
        for unknown in ("classification", "shared_memory_region"):
            if unknown in parameters:
                raise RefusedError(400, f"expected no parameter {unknown} of {OUTPUT}: this server does not offer it")
        binary = parameters.get("binary_data", binary)
    if not isinstance(binary, bool):
        raise RefusedError(400, f"expected true or false for binary data, found {_short(binary)}")
    return InferRequest(images, id_, binary)


def answer(logits: np.ndarray, request: InferRequest, *, name: str, release: int) -> tuple[bytes, dict[str, str]]:
    """The body and headers that answer `request`; `logits` are float32 `[N, classes]`."""
    output: dict[str, Any] = {"name": OUTPUT, "datatype": "FP32", "shape": list(logits.shape)}
    document: dict[str, Any] = {"model_name": name, "model_version": str(release), "outputs": [output]}
    if request.id is not None:
        document["id"] = request.id
    if not request.binary:
        # A float32 as the nearest Python number, in full: whoever reads it back as float32 gets the same bits.
        output["data"] = logits.ravel().tolist()
        return to_json(document), {"content-type": "application/json"}
    data = logits.astype("<f4", copy=False).tobytes()
    output["parameters"] = {"binary_data_size": len(data)}
    head = to_json(document)
    return head + data, {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}


def to_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def unpacked(body: bytes, encoding: str, most: int) -> bytes:
    """Undo a `Content-Encoding`; never makes more than `most` bytes.

    Raises:
        RefusedError: 415 for another encoding than gzip and deflate, 413 if it is larger, 400 if it is broken.
    """
    windows = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
    if encoding not in windows:
        raise RefusedError(415, f"expected a body in gzip, deflate or as it is, found the encoding {_short(encoding)}")
    stream = zlib.decompressobj(windows[encoding])
    try:
        data = stream.decompress(body, most + 1)
    except zlib.error:
        raise RefusedError(400, f"expected a body in {encoding}, found one that cannot be unpacked") from None
    if len(data) > most:
        raise RefusedError(413, f"expected at most {most} bytes of body, found more after unpacking {encoding}")
    if not stream.eof:
        raise RefusedError(400, f"expected a body in {encoding}, found one that ends too early")
    return data


def _header_length(text: str, size: int) -> int:
    # Python reads "١", "1_0" and " 1" as numbers, too; a length of 20 digits is none.
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= size):
        raise RefusedError(400, f"expected {HEADER_LENGTH} from 0 to the body's {size} bytes, found {_short(text)}")
    return int(text)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"expected JSON, found {_short(text)}: {_short(error)}") from None


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RefusedError(400, f"expected an object as {what}, found {_short(value)}")
    return value


def _parameters(value: dict[str, Any], what: str) -> dict[str, Any]:
    return _object(value.get("parameters", {}), f"the parameters of {what}")


def _one(request: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    """The one tensor of `inputs` or `outputs`, which must be called `name`."""
    tensors = request.get(key)
    if not isinstance(tensors, list) or len(tensors) != 1:
        found = f"{len(tensors)} of them" if isinstance(tensors, list) else _short(tensors)
        raise RefusedError(400, f"expected a list with one tensor as {key}, found {found}")
    tensor = _object(tensors[0], f"a tensor of {key}")
    if tensor.get("name") != name:
        raise RefusedError(400, f"expected the tensor {name} as {key}, found {_short(tensor.get('name'))}")
    return tensor


def _images(tensor: dict[str, Any], raw: bytes, shape: tuple[int, ...], max_batch: int) -> np.ndarray:
    if tensor.get("datatype") != "UINT8":
        raise RefusedError(400, f"expected the datatype UINT8 of {INPUT}, found {_short(tensor.get('datatype'))}")
    found = tensor.get("shape")
    if not (isinstance(found, list) and len(found) == 4 and all(type(n) is int for n in found)):
        raise RefusedError(400, f"expected the shape {_wanted(shape)} of {INPUT}, found {_short(found)}")
    if tuple(found[1:]) != tuple(shape) or found[0] < 1:
        raise RefusedError(400, f"expected the shape {_wanted(shape)} of {INPUT}, found {_short(found)}")
    if found[0] > max_batch:
        raise RefusedError(400, f"expected at most {max_batch} images at a time, found {_short(found[0])}")
    parameters = _parameters(tensor, INPUT)
    if "shared_memory_region" in parameters:
        raise RefusedError(400, f"expected the data of {INPUT} in the request, found a shared memory region")
    size = int(np.prod(found))
    if "binary_data_size" in parameters:
        if "data" in tensor:
            raise RefusedError(400, f"expected the data of {INPUT} as JSON or as bytes, found both")
        stated = parameters["binary_data_size"]
        if type(stated) is not int or stated != size or len(raw) != size:
            raise RefusedError(
                400, f"expected {size} bytes for {found}, found binary_data_size {_short(stated)} and {len(raw)} bytes"
            )
        return np.frombuffer(raw, np.uint8).reshape(found)
    if raw:
        raise RefusedError(400, f"expected nothing after the JSON, found {len(raw)} bytes and no binary_data_size")
    return _numbers(tensor.get("data"), found, size)


def _numbers(data: Any, shape: list[int], size: int) -> np.ndarray:
    """JSON numbers, flat or nested as `shape`, as uint8.

    NumPy never sees what is not a number: it would make an array of a client's strings as wide as the longest.
    """
    wanted = f"expected {size} whole numbers from 0 to 255 as data of {INPUT}, flat or nested as {shape}"
    values = [data]
    for extent in shape if _nested(data) else [size]:
        if not all(isinstance(row, list) and len(row) == extent for row in values):
            raise RefusedError(400, f"{wanted}, found {_short(data)}")
        values = [value for row in values for value in row]
    if set(map(type, values)) != {int}:
        raise RefusedError(400, f"{wanted}, found something else among them")
    try:
        return np.frombuffer(bytes(values), np.uint8).reshape(shape)
    except ValueError:
        raise RefusedError(400, f"{wanted}, found numbers from {min(values)} to {max(values)}"[:300]) from None


def _nested(data: Any) -> bool:
    return isinstance(data, list) and bool(data) and isinstance(data[0], list)


def _wanted(shape: tuple[int, ...]) -> str:
    return f"[N, {', '.join(map(str, shape))}]"


def _short(value: Any) -> str:
    """A value from a client as it may stand in an answer: not long, nothing but printable ASCII."""
    try:
        text = ascii(value) if not isinstance(value, Exception) else ascii(str(value)).strip("'\"")
    except (ValueError, RecursionError):  # an int of too many digits, a list of too many lists
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
