"""The Open Inference Protocol, version 2, with its binary tensor data extension: bytes to arrays and back.

https://github.com/kserve/open-inference-protocol and, for binary data,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md

One input, `image: UINT8 [N, H, W, C]`, and one output, `logits: FP32 [N, classes]`.
"""

import json
import zlib
from typing import Any, NamedTuple

import numpy as np
from starlette.exceptions import HTTPException
from starlette.responses import Response

INPUT, OUTPUT = "image", "logits"
HEADER_LENGTH = "inference-header-content-length"
MAX_JSON = 1 << 21
"""Bytes of the JSON of a request; more pixels must come as binary data."""


class InferRequest(NamedTuple):
    """A request that was checked."""

    images: np.ndarray
    """uint8 `[N, H, W, C]`."""
    id: str | None
    """Returned with the answer."""
    binary: bool
    """Whether the answer holds the logits as bytes instead of JSON numbers."""


def parse(body: bytes, header_length: str | None, *, shape: tuple[int, ...], max_batch: int) -> InferRequest:
    """Read the body of an `infer` request.

    Args:
        body: JSON, or JSON followed by the input's bytes.
        header_length: the header `Inference-Header-Content-Length`, the number of bytes of JSON; None if absent.
        shape: `(H, W, C)` of the model's input.
        max_batch: the largest N.

    Raises:
        HTTPException: with status 400 or 413, if the request does not fit the protocol or the model.
    """
    length = len(body) if header_length is None else _header_length(header_length, len(body))
    # Python lists take up to 21 times the memory of their text, and no other thread runs while JSON is parsed. So the
    # text may be as long as the largest batch needs, but no longer than an image of 384 x 384 needs.
    limit = min(MAX_JSON, 65536 + 8 * max_batch * int(np.prod(shape)))
    if length > limit:
        raise HTTPException(413, f"expected at most {limit} bytes of JSON, found {length}; send binary data, or less")
    request = _object(_json(body[:length]), "the request")
    image = _one(request, "inputs", INPUT)
    images = _images(image, body[length:], shape, max_batch)
    id_ = request.get("id")
    if id_ is not None and not isinstance(id_, str):
        raise HTTPException(400, f"expected a string as id, found {_short(id_)}")
    parameters = _parameters(request, "the request")
    binary = parameters.get("binary_data_output", False)
    if request.get("outputs"):
        output = _one(request, "outputs", OUTPUT)
        parameters = _parameters(output, OUTPUT)
        for name in ("classification", "shared_memory_region"):
            if name in parameters:
                raise HTTPException(400, f"expected no parameter {name} of {OUTPUT}: this server does not offer it")
        binary = parameters.get("binary_data", binary)
    if not isinstance(binary, bool):
        raise HTTPException(400, f"expected true or false for binary data, found {_short(binary)}")
    return InferRequest(images, id_, binary)


def answer(logits: np.ndarray, request: InferRequest, *, name: str, release: int) -> Response:
    """The answer to `request`; `logits` are float32 `[N, classes]`, `name` and `release` those of the model."""
    output: dict[str, Any] = {"name": OUTPUT, "datatype": "FP32", "shape": list(logits.shape)}
    document: dict[str, Any] = {"model_name": name, "model_version": str(release), "outputs": [output]}
    if request.id is not None:
        document["id"] = request.id
    if not request.binary:
        # Python prints a float in full: a client that reads it back as float32 gets the same bits.
        output["data"] = logits.ravel().tolist()
        return Response(_to_json(document), media_type="application/json")
    data = logits.astype("<f4", copy=False).tobytes()
    output["parameters"] = {"binary_data_size": len(data)}
    head = _to_json(document)
    return Response(head + data, media_type="application/octet-stream", headers={HEADER_LENGTH: str(len(head))})


def _to_json(document: dict[str, Any]) -> bytes:
    # ASCII, unlike Starlette's JSONResponse: an id may hold half of a surrogate pair, which UTF-8 does not have.
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo a `Content-Encoding`; never makes more than `limit` bytes.

    Raises:
        HTTPException: with status 415 for another encoding than gzip and deflate, 413 if the content is larger than
            `limit`, 400 if it is damaged.
    """
    windows = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
    if encoding not in windows:
        raise HTTPException(415, f"expected a body in gzip, deflate or as it is, found the encoding {_short(encoding)}")
    stream = zlib.decompressobj(windows[encoding])
    try:
        data = stream.decompress(body, limit + 1)
    except zlib.error:
        raise HTTPException(400, f"expected a body in {encoding}, found one that cannot be unpacked") from None
    if len(data) > limit:
        raise HTTPException(413, f"expected at most {limit} bytes of body, found more after unpacking {encoding}")
    if not stream.eof:
        raise HTTPException(400, f"expected a body in {encoding}, found one that ends too early")
    return data


def _header_length(text: str, size: int) -> int:
    # `int` also takes "١", "1_0" and " 1"; no body is so long that its length has 20 digits.
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= size):
        raise HTTPException(400, f"expected {HEADER_LENGTH} from 0 to the body's {size} bytes, found {_short(text)}")
    return int(text)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"expected JSON, found {_short(text)}: {_short(error)}") from None


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise HTTPException(400, f"expected an object as {what}, found {_short(value)}")
    return value


def _parameters(value: dict[str, Any], what: str) -> dict[str, Any]:
    return _object(value.get("parameters", {}), f"the parameters of {what}")


def _one(request: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    """The one tensor of `inputs` or `outputs`, which must be called `name`."""
    tensors = request.get(key)
    if not isinstance(tensors, list) or len(tensors) != 1:
        description = f"{len(tensors)} of them" if isinstance(tensors, list) else _short(tensors)
        raise HTTPException(400, f"expected a list with one tensor as {key}, found {description}")
    tensor = _object(tensors[0], f"a tensor of {key}")
    if tensor.get("name") != name:
        raise HTTPException(400, f"expected the tensor {name} as {key}, found {_short(tensor.get('name'))}")
    return tensor


def _images(tensor: dict[str, Any], raw: bytes, shape: tuple[int, ...], max_batch: int) -> np.ndarray:
    if tensor.get("datatype") != "UINT8":
        raise HTTPException(400, f"expected the datatype UINT8 of {INPUT}, found {_short(tensor.get('datatype'))}")
    size: Any = tensor.get("shape")
    whole = isinstance(size, list) and len(size) == 4 and all(type(extent) is int for extent in size)
    if not whole or tuple(size[1:]) != tuple(shape) or size[0] < 1:
        expected = ", ".join(map(str, shape))
        raise HTTPException(400, f"expected the shape [N, {expected}] of {INPUT}, found {_short(size)}")
    if size[0] > max_batch:
        raise HTTPException(400, f"expected at most {max_batch} images at a time, found {_short(size[0])}")
    parameters = _parameters(tensor, INPUT)
    if "shared_memory_region" in parameters:
        raise HTTPException(400, f"expected the data of {INPUT} in the request, found a shared memory region")
    count = int(np.prod(size))
    if "binary_data_size" in parameters:
        if "data" in tensor:
            raise HTTPException(400, f"expected the data of {INPUT} as JSON or as bytes, found both")
        declared = parameters["binary_data_size"]
        if type(declared) is not int or declared != count or len(raw) != count:
            sentence = f"found binary_data_size {_short(declared)} and {len(raw)} bytes"
            raise HTTPException(400, f"expected {count} bytes for the shape {size}, {sentence}")
        return np.frombuffer(raw, np.uint8).reshape(size)
    if raw:
        raise HTTPException(400, f"expected nothing after the JSON, found {len(raw)} bytes and no binary_data_size")
    return _numbers(tensor.get("data"), size, count)


def _numbers(data: Any, shape: list[int], count: int) -> np.ndarray:
    """JSON numbers, flat or nested as `shape`, as uint8.

    Every type is checked before NumPy sees the data: of strings it would make an array as wide as the longest.
    """
    expected = f"expected {count} whole numbers from 0 to 255 as data of {INPUT}, flat or nested as {shape}"
    nested = isinstance(data, list) and bool(data) and isinstance(data[0], list)
    values = [data]
    for extent in shape if nested else [count]:
        if not all(isinstance(row, list) and len(row) == extent for row in values):
            raise HTTPException(400, f"{expected}, found {_short(data)}")
        values = [value for row in values for value in row]
    if set(map(type, values)) != {int}:
        raise HTTPException(400, f"{expected}, found something else among them")
    try:
        return np.frombuffer(bytes(values), np.uint8).reshape(shape)
    except ValueError:
        raise HTTPException(400, f"{expected}, found numbers from {min(values)} to {max(values)}"[:300]) from None


def _short(value: Any) -> str:
    """A value from a client as a sentence may quote it: short and printable ASCII."""
    try:
        text = ascii(value) if not isinstance(value, Exception) else ascii(str(value)).strip("'\"")
    except (ValueError, RecursionError):  # an int of too many digits, a list of too many lists
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
