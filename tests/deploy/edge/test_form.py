"""An image in a form is classified like the bare file."""

import json
import random
import shutil
import subprocess

import pytest
from rsd_edge.form import uploaded
from starlette.exceptions import HTTPException

from .serving import Tiny, always, ask, images, png, served

TYPE = 'multipart/form-data; boundary="a b"'


def part(content: bytes, *, name: str = "image", filename: str | None = "x.jpg") -> bytes:
    file = f'; filename="{filename}"' if filename is not None else ""
    return f'\r\n--a b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content


def form(*parts: bytes) -> bytes:
    return b"".join(parts)[2:] + b"\r\n--a b--\r\n"


def test_a_form_s_file_arrives_byte_for_byte():
    chance = random.Random(0)
    for _ in range(300):
        content = b"".join(chance.choice([b"\r", b"\n", b"--", b"a b", b"\0", chance.randbytes(3)]) for _ in range(20))
        content = content.replace(b"--a b", b"")  # a client chooses another boundary
        assert uploaded(form(part(content)), TYPE) == content
        assert uploaded(form(part(b"7", filename=None), part(content)), TYPE) == content


@pytest.mark.parametrize("kind", ["", "image/jpeg", "application/x-www-form-urlencoded", "multipart", "x" * 1000])
def test_any_other_body_is_the_file_itself(kind):
    assert uploaded(form(part(b"x")), kind) == form(part(b"x"))


@pytest.mark.parametrize(
    ("body", "kind", "sentence"),
    [
        (form(part(b"x")), "multipart/form-data", "expected the boundary"),
        (form(part(b"x"))[:-7], TYPE, "expected a whole form"),
        (b"", TYPE, "expected a whole form"),
        (b"\xff\xd8\xff", TYPE, "expected a whole form"),
        (form(*[part(b"x")] * 99), TYPE, "expected a whole form of up to 16 parts"),
        (form(part(b"x", filename=None)), TYPE, "expected one file in the form, found 0; send it as curl -F"),
        (form(part(b"x"), part(b"y")), TYPE, "expected one file in the form, found 2"),
        (form(b"\r\n--a b"), TYPE, "expected one file in the form, found 0"),
        (form(part(b"x")), "multipart/form-data; boundary*=x; boundary*0=y", "expected headers as RFC 2231 has them"),
        (form(part(b"x").replace(b"filename=", b"filename*=a; filename*0=")), TYPE, "expected headers as RFC 2231"),
    ],
)
def test_a_damaged_form_is_refused_with_status_400(body, kind, sentence):
    with pytest.raises(HTTPException, match=sentence) as caught:
        uploaded(body, kind)
    assert caught.value.status_code == 400


def test_malformed_forms_raise_nothing_else():
    chance = random.Random(1)
    whole = form(part(b"1", filename=None), part(b"image"))
    for _ in range(300):
        content, kind = bytearray(whole), bytearray(TYPE.encode())
        for text in (content, kind):
            for _ in range(chance.randrange(4)):
                text[chance.randrange(len(text))] = chance.randrange(256)
        try:
            assert isinstance(uploaded(bytes(content), kind.decode("latin-1")), bytes)
        except HTTPException as error:
            answer = error
            assert answer.status_code == 400


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")
def test_curl_sends_an_image_as_a_form(tmp_path):
    (tmp_path / "x.png").write_bytes(png(images(1)[0]))
    with served(always(Tiny())) as address:
        bare = json.loads(ask(address, "POST", "/v1/classify", (tmp_path / "x.png").read_bytes())[2])
        url = f"http://{address}/v1/classify"
        for way in (["-F", f"image=@{tmp_path / 'x.png'}"], ["--data-binary", f"@{tmp_path / 'x.png'}"]):
            done = subprocess.run(["curl", "-s", *way, url], capture_output=True, check=True, timeout=60)
            assert json.loads(done.stdout)["classes"] == bare["classes"]
