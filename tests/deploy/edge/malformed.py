"""Requests and images that no honest client sends, made from honest ones; the same ones for the same seed."""

import io
import json
import random
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image
from rsd_edge.images import FORMATS

from tests.junk import JUNK

from .serving import NAME, images, infer_body

PATHS = ["/", "/v1/classify", "/v1/status", "/metrics", "/v2", f"/v2/models/{NAME}", f"/v2/models/{NAME}/infer"]


def malformed(chance: random.Random) -> bytes:
    """The bytes of one request; some are even valid."""
    kind = chance.randrange(10)
    if kind < 4:
        return _post("/v1/classify", _image(chance), {})
    if kind < 7:
        body, headers = _infer(chance)
        return _post(f"/v2/models/{NAME}/infer", body, headers)
    request = _post(f"/v2/models/{NAME}/infer", *infer_body(images(1), binary=chance.random() < 0.5))
    if kind == 7:
        return _flipped(chance, request, chance.randint(1, 30))
    if kind == 8:
        return request[: chance.randrange(len(request))]
    return _head(chance)


def _post(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: device", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _flipped(chance: random.Random, data: bytes, count: int) -> bytes:
    changed = bytearray(data)
    for _ in range(count):
        if changed:
            changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def _head(chance: random.Random) -> bytes:
    """A request whose head is wrong in its own way."""
    path, body = chance.choice(PATHS), chance.randbytes(chance.randrange(200))
    header = chance.choice(
        [
            "Content-Length: -1",
            "Content-Length: 99999999999999999999999",
            "Content-Length: 99999999",
            "Content-Length: 1\r\nContent-Length: 2",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 3",
            "Content-Encoding: gzip",
            "Content-Encoding: " + "br" * 100,
            "Expect: 100-continue",
            "Upgrade: websocket\r\nConnection: Upgrade",
            "Authorization: Bearer \u00ff\u00fe",
            "Inference-Header-Content-Length: " + chance.choice(["-1", "nan", "1" * 400, "+1"]),
            "X: " + "y" * chance.choice([10, 10_000, 70_000]),
            ": no name",
            "No colon",
            "Nul: \0",
            "\tfolded: line",
        ]
    )
    method = chance.choice(["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "G\0T", "PRI", "x" * 300])
    target = chance.choice([path, path + "?" + "a" * 2000, "*", "http://other/", "//", path + "/%00%ff/..", "/" + "é"])
    version = chance.choice(["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", "SSH-2.0", ""])
    request = f"{method} {target} {version}\r\nHost: device\r\n{header}\r\n\r\n".encode("latin-1") + body
    return chance.choice([request, request * 3, chance.randbytes(chance.randrange(1, 500)), b"\r\n" * 500])


def _infer(chance: random.Random) -> tuple[bytes, dict[str, str]]:
    """An `infer` body with a value, a length or its text changed."""
    binary = chance.random() < 0.5
    body, headers = infer_body(images(chance.choice([1, 3])), binary=binary, id="a", outputs=[{"name": "logits"}])
    length = int(headers.get("Inference-Header-Content-Length", len(body)))
    document, raw = json.loads(body[:length]), body[length:]
    kind = chance.randrange(6)
    if kind < 3:
        _replace(chance, document)
    if kind == 3:
        raw = raw[: chance.randrange(len(raw) + 1)] + chance.randbytes(chance.randrange(10))
    text = json.dumps(document).encode()
    if kind == 4:
        text = _flipped(chance, text, chance.randint(1, 10))
    if kind == 5:
        text = chance.choice([b"[" * 20_000, b'{"inputs":' * 5000, b'{"id": ' + b"9" * 20_000 + b"}", b"NaN", b"\xff"])
        text += b"]" * chance.choice([0, 20_000])
    if headers:
        stated = chance.choice([len(text)] * 5 + [0, len(text) + 1, 10**6])
        headers = {"Inference-Header-Content-Length": str(stated)}
    return text + raw, headers


def _replace(chance: random.Random, value: Any) -> None:
    """Put junk in the place of something anywhere in `value`."""
    while True:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = chance.choice(list(keys))
        inner = value[key]
        if not isinstance(inner, dict | list) or not inner or chance.random() < 0.3:
            value[key] = chance.choice(JUNK)
            return
        value = inner


def _image(chance: random.Random) -> bytes:
    """An image file that is broken, huge, of a kind that is not taken, or just odd."""
    kind = chance.randrange(8)
    if kind == 0:
        return _bomb(chance.choice([1, 30_000, 70_000, 2**31 - 1]), chance.choice([1, 30_000, 2**31 - 1]))
    if kind == 1:
        return chance.randbytes(chance.choice([0, 1, 10, 1000]))
    if kind == 2:
        return _saved(chance, chance.choice(["GIF", "PPM", "ICO"]))
    data = _saved(chance, chance.choice(FORMATS))
    if kind == 3:
        return data[: chance.randrange(len(data))]
    if kind == 4:
        return data + chance.randbytes(1000)
    if kind == 5:
        return data[:50] + data[:50] + data[20:]
    return _flipped(chance, data, chance.choice([1, 5, 50]))


def _saved(chance: random.Random, format_: str) -> bytes:
    mode = chance.choice(["RGB", "L", "RGBA", "P", "1", "CMYK", "I;16", "LA"])
    size = (chance.choice([1, 2, 17, 100]), chance.choice([1, 3, 64]))
    pixels = np.random.default_rng(chance.randrange(100)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for attempt in (mode, "RGB"):
        buffer = io.BytesIO()
        try:
            if attempt == "I;16":
                image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
            exif = chance.randbytes(40)
            extra = {"exif": b"Exif\0\0" + exif} if format_ in ("JPEG", "PNG") and chance.random() < 0.2 else {}
            image.convert(attempt).save(buffer, format_, **extra)
        except (OSError, ValueError, KeyError):
            image = Image.fromarray(pixels)
            continue
        return buffer.getvalue()
    return b""


def _bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be of any size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
