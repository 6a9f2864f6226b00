"""The device's own check of a signature against `model-signing`, which made it."""

import base64
import json
import random
import shutil
from pathlib import Path

import pytest
from rsd_edge import bundle as bundles
from rsd_edge.errors import EdgeError

from rsd.machine.errors import UserError
from rsd.release import sign

SIGNATURE = sign.SIGNATURE


def library(folder: Path, key: Path) -> bool:
    try:
        sign.verify(folder, key)
    except (UserError, OSError):
        return False
    return True


def device(folder: Path, key: Path) -> bool:
    """Signature, files and digests: what the library checks, and nothing about this device."""
    try:
        bundles.check_files(bundles.read(folder, [key]))
    except (EdgeError, OSError):
        return False
    return True


def spelt_alike(one: Path, two: Path) -> bool:
    """Whether two signature files say the same in JSON and base64."""
    try:
        first, second = (json.loads(path.read_bytes()) for path in (one, two))
        for bundle in (first, second):
            envelope = bundle["dsseEnvelope"]
            for holder, name in ((envelope, "payload"), (envelope["signatures"][0], "sig")):
                holder[name] = base64.b64decode(holder[name])
    except (ValueError, LookupError, TypeError):
        return False
    return bool(first == second)


@pytest.fixture
def copy(shared, tmp_path):
    return Path(shutil.copytree(shared.first, tmp_path / "copy"))


def test_both_take_a_valid_bundle_wherever_it_lies(shared, copy):
    assert library(copy, shared.public)
    assert device(copy, shared.public)


def flip(folder: Path, source: random.Random) -> tuple[Path, int]:
    """Flip one bit of one file, each byte of all files being as likely as any other."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = source.choices(files, [path.stat().st_size for path in files])[0]
    content = bytearray(path.read_bytes())
    place = source.randrange(len(content))
    content[place] ^= 1 << source.randrange(8)
    path.write_bytes(content)
    return path, place


@pytest.mark.parametrize("only_signature", [False, True], ids=["any file", "the signature"])
def test_every_flipped_byte_is_refused_by_the_device(shared, copy, only_signature):
    """Where the library overlooks a flip, as in the unused bits of base64, the signature still says the same."""
    source = random.Random(0)
    for _ in range(100):
        if only_signature:
            holder = copy.with_name("holder")
            holder.mkdir()
            (holder / SIGNATURE).write_bytes((shared.first / SIGNATURE).read_bytes())
            flip(holder, source)
            path = copy / SIGNATURE
            shutil.copyfile(holder / SIGNATURE, path)
            shutil.rmtree(holder)
        else:
            path, _ = flip(copy, source)
        assert not device(copy, shared.public), path
        same = path.name == SIGNATURE and spelt_alike(path, shared.first / SIGNATURE)
        assert not library(copy, shared.public) or same, path
        shutil.copyfile(shared.first / path.relative_to(copy), path)
    assert device(copy, shared.public)


def change(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


TAMPERED = {
    "a changed file": lambda b: (b / "labels.json").write_text("[]"),
    "a missing file": lambda b: (b / "fp16" / "model.onnx").unlink(),
    "an extra file": lambda b: (b / "extra.txt").touch(),
    "an extra file that git would ignore": lambda b: (b / ".gitignore").touch(),
    "a file in an extra folder": lambda b: ((b / ".git").mkdir(), (b / ".git" / "x").touch()),
    "two files exchanged": lambda b: (b / "labels.json").write_bytes((b / "preprocessing.json").read_bytes()),
    "a link in place of a file": lambda b: (
        shutil.move(b / "labels.json", b.parent / "labels.json"),
        (b / "labels.json").symlink_to(b.parent / "labels.json"),
    ),
    "a renamed file": lambda b: (b / "labels.json").rename(b / "label.json"),
    "no signature": lambda b: (b / SIGNATURE).unlink(),
    "an empty signature": lambda b: (b / SIGNATURE).write_bytes(b""),
    "a signature cut in half": lambda b: (b / SIGNATURE).write_bytes((b / SIGNATURE).read_bytes()[:500]),
    "another payload type": lambda b: change(b / SIGNATURE, b"vnd.in-toto", b"vnd.in-tutu"),
    "another media type": lambda b: change(b / SIGNATURE, b"bundle.v0.3", b"bundle.v0.4"),
    "a signature that is no object": lambda b: (b / SIGNATURE).write_text("[1]"),
    "a signature nested too deep": lambda b: (b / SIGNATURE).write_text("[" * 100_000),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_both_refuse(shared, copy, kind):
    TAMPERED[kind](copy)
    assert not library(copy, shared.public)
    assert not device(copy, shared.public)


def test_both_refuse_another_key_or_another_bundle(shared, copy, tmp_path):
    _, other = sign.make_key(tmp_path / "other")
    assert not library(copy, other)
    assert not device(copy, other)
    shutil.copyfile(shared.second / SIGNATURE, copy / SIGNATURE)
    assert not library(copy, shared.public)
    assert not device(copy, shared.public)


def test_both_refuse_an_exchanged_key_hint(shared, copy, tmp_path):
    """Signed by a stranger who names the pinned key."""
    stranger, public = sign.make_key(tmp_path / "stranger")
    hints = [json.loads((copy / SIGNATURE).read_text())["verificationMaterial"]["publicKey"]["hint"]]
    (copy / SIGNATURE).unlink()
    shared_key, shared.key = shared.key, stranger
    try:
        forged = shared.forged(copy)
    finally:
        shared.key = shared_key
    hints += [json.loads((forged / SIGNATURE).read_text())["verificationMaterial"]["publicKey"]["hint"]]
    assert device(forged, public)
    change(forged / SIGNATURE, hints[1].encode(), hints[0].encode())
    assert not library(forged, shared.public)
    assert not device(forged, shared.public)


@pytest.mark.parametrize("curve", ["SECP256R1", "SECP384R1", "SECP521R1"])
def test_both_take_every_curve_of_model_signing(shared, copy, tmp_path, curve):
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(getattr(ec, curve)())
    (tmp_path / "k.pem").write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
    (tmp_path / "k.pub").write_bytes(key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
    (copy / SIGNATURE).unlink()
    own, shared.key = shared.key, tmp_path / "k.pem"
    try:
        forged = shared.forged(copy)
    finally:
        shared.key = own
    assert library(forged, tmp_path / "k.pub")
    assert device(forged, tmp_path / "k.pub")


def test_only_the_two_pinned_keys_are_taken(shared, copy, tmp_path):
    second, third = (sign.make_key(tmp_path / name)[1] for name in ("second", "third"))
    for keys in ([shared.public, second], [second, shared.public]):
        bundles.check_files(bundles.read(copy, keys))
    with pytest.raises(EdgeError, match="one of the 2 pinned keys, found that of another key"):
        bundles.read(copy, [second, third])
    for keys in ([], [shared.public, second, third]):
        with pytest.raises(EdgeError, match=f"expected one or two pinned public keys, found {len(keys)}"):
            bundles.read(copy, keys)


@pytest.mark.parametrize("content", [b"", b"no key", b"private"])
def test_a_pinned_file_must_be_a_public_key(shared, copy, tmp_path, content):
    (tmp_path / "bad.pub").write_bytes(shared.key.read_bytes() if content == b"private" else content)
    with pytest.raises(EdgeError, match="expected a public key in .*bad.pub"):
        bundles.read(copy, [tmp_path / "bad.pub"])
