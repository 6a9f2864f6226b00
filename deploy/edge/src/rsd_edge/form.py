"""The file in a form, as `curl -F` and HTML forms send it: multipart/form-data, RFC 7578."""

from collections.abc import Callable
from email.message import Message
from email.parser import BytesHeaderParser

from starlette.exceptions import HTTPException

MAX_PARTS = 16


def uploaded(body: bytes, content_type: str) -> bytes:
    """The content of the one file of a form; the body itself if it is no form.

    Raises:
        HTTPException: with status 400, if the form is damaged or does not hold one file.
    """
    header = Message()
    header["content-type"] = content_type
    if header.get_content_type() != "multipart/form-data":
        return body
    boundary = _parameter(header.get_boundary)
    if not boundary:
        raise HTTPException(400, "expected the boundary of the form in the header Content-Type, found none")
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1", "replace"), MAX_PARTS + 1)
    if not parts or not parts[-1].startswith(b"--"):
        raise HTTPException(400, f"expected a whole form of up to {MAX_PARTS} parts, found it cut or larger")
    files = []
    for part in parts[:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        if _parameter(BytesHeaderParser().parsebytes(head.lstrip(b" \t\r\n")).get_filename) is not None:
            files.append(content)
    if len(files) != 1:
        raise HTTPException(400, f"expected one file in the form, found {len(files)}; send it as curl -F image=@FILE")
    return files[0]


def _parameter(read: Callable[[], str | None]) -> str | None:
    try:
        return read()
    except Exception:  # `email` raises many classes for malformed parameters
        raise HTTPException(
            400, "expected headers as RFC 2231 has them in the form, found others; send it as curl -F image=@FILE"
        ) from None
