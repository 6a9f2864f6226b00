"""Which bundles are refused, each with a sentence of its own."""

import base64
import json
import os
import random
import re
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from rsd_edge import bundle as bundles
from rsd_edge.errors import EdgeError

from tests.bundles import edit
from tests.deploy.edge.device import events
from tests.deploy.edge.test_signature import flip


def rewrite(change):
    """Change the manifest and sign again, as only the key's owner could."""

    def build(workshop):
        bundle = workshop.unsigned()
        edit(bundle / "manifest.json", change)
        return workshop.forged(bundle)

    return build


def changed(change, *, forge=False):
    """Change the files of a signed bundle; and sign them again if `forge`."""

    def build(workshop):
        bundle = workshop.signed()
        change(bundle)
        return workshop.forged(bundle) if forge else bundle

    return build


def link(bundle):
    (bundle / "labels.json").unlink()
    (bundle / "labels.json").symlink_to("/etc/hostname")


def linked_folder(bundle):
    shutil.move(bundle / "golden", bundle.parent / "golden")
    (bundle / "golden").symlink_to(bundle.parent / "golden")


def pipe(bundle):
    (bundle / "labels.json").unlink()
    os.mkfifo(bundle / "labels.json")


def enlarge(bundle):
    with (bundle / "labels.json").open("a") as file:
        file.write(" " * 1000)


def of_another_key(workshop):
    bundle = workshop.signed()
    shutil.copy(workshop.public, bundle.parent)
    from rsd.release import sign

    workshop.public.unlink()
    shutil.copy(sign.make_key(workshop.folder / "secret" / "two")[1], workshop.pinned)
    return bundle


def escaping(path):
    """Signed by whoever has the key, and yet not to be written outside of the release's folder."""

    def build(workshop):
        bundle = workshop.signed()
        signature = json.loads((bundle / "model.sig").read_text())
        statement = json.loads(base64.b64decode(signature["dsseEnvelope"]["payload"]))
        statement["predicate"]["resources"][-1]["name"] = path
        payload = json.dumps(statement).encode()
        key = serialization.load_pem_private_key(workshop.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        pae = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)
        signature["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        value = key.sign(pae, ec.ECDSA(hashes.SHA256()))
        signature["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(value).decode()
        (bundle / "model.sig").write_text(json.dumps(signature, separators=(",", ":")))
        return bundle

    return build


OTHER = "aarch64" if os.uname().machine == "x86_64" else "x86_64"


REFUSED = {
    "unsigned": (lambda w: w.unsigned(), "expected a signed bundle in .*, found no model.sig; run `rsd sign bundle`"),
    "of another key": (of_another_key, "expected a signature of one of the 1 pinned keys, found that of another key"),
    "half copied, a file missing": (
        changed(lambda b: (b / "fp16" / "model.onnx").unlink()),
        "found no fp16/model.onnx; copy the bundle again",
    ),
    "half copied, a file cut": (
        changed(lambda b: os.truncate(b / "fp32" / "model.onnx", 100)),
        r"expected \d+ bytes in fp32/model.onnx, found 100",
    ),
    "an oversize file": (changed(enlarge), r"expected 24 bytes in labels.json, found 1024"),
    "an extra file": (changed(lambda b: (b / "x").touch()), "expected only signed files, found 'x' too"),
    "a linked file": (changed(link), "found the symbolic link 'labels.json'"),
    "a linked folder": (changed(linked_folder), "found the symbolic link 'golden'"),
    "a pipe": (changed(pipe), "found the pipe or device 'labels.json'"),
    "a path up": (escaping("../up"), r"expected plain relative paths in a bundle, found '../up'"),
    "an absolute path": (escaping("/etc/passwd"), "expected plain relative paths"),
    "a hidden path": (escaping(".x/y"), "expected plain relative paths"),
    "a path with a line break": (escaping("a\nb"), r"found 'a\\nb'"),
    "a path that is a number": (escaping(7), "expected a signature over the SHA-256 of every file"),
    "too large": (
        rewrite(lambda m: m["files"]["labels.json"].update(bytes=1 << 40)),
        r"expected 1099511627776 bytes in labels.json, found 24",
    ),
    "another schema": (rewrite(lambda m: m.update(schema_version=99)), "expected a bundle of schema 3, found 99"),
    "a manifest of other files": (
        rewrite(lambda m: m["files"].pop("README.md")),
        "expected the signed files in manifest.json, found others",
    ),
    "a manifest without a release": (rewrite(lambda m: m.pop("release")), "expected a manifest.json as rsd writes it"),
    "a name that is a path": (rewrite(lambda m: m.update(name="../up")), "expected a manifest.json as rsd writes it"),
    "another architecture": (
        lambda w: w.signed(options={"requires": {"architectures": [OTHER]}}),
        "expected a device of (aarch64|x86_64), found",
    ),
    "a newer runtime": (
        lambda w: w.signed(options={"requires": {"onnxruntime": "99.0", "memory_mib": 0}}),
        "expected ONNX Runtime 99.0 or newer, found .*a lower export.opset or export.ir_version",
    ),
    "more memory": (
        rewrite(lambda m: m["requires"].update(memory_mib=1 << 30)),
        "expected 1073741824 MiB of free memory, found",
    ),
    "no folder": (lambda w: w.folder / "none", "expected the folder of a bundle, found none at"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_each_defect_is_refused_in_its_own_sentence(workshop, releases, kind):
    make, sentence = REFUSED[kind]
    bundle = make(workshop)
    with pytest.raises(EdgeError) as caught:
        releases.install(bundle, workshop.keys)
    assert re.search(sentence, str(caught.value)), caught.value
    assert events(releases) == ["refused"]
    assert releases.status()["installed"] == []
    assert list((releases.root / "releases").iterdir()) == []
    assert not (releases.root.parent / "up").exists()


def test_no_two_refusals_share_a_sentence():
    sentences = [sentence for _, sentence in REFUSED.values()]
    assert len(
        {re.sub("expected (plain relative paths|a manifest).*", str(i), s) for i, s in enumerate(sentences)}
    ) == len(sentences)


def test_a_bundle_beyond_limit_or_disk_is_refused(shared, releases, monkeypatch):
    monkeypatch.setattr(bundles, "MAX_BYTES", 1000)
    with pytest.raises(EdgeError, match=r"expected at most 1000 bytes in a bundle, found \d+; make it smaller"):
        releases.install(shared.first, shared.keys)
    monkeypatch.undo()
    monkeypatch.setattr("rsd_edge.releases.RESERVE", 1 << 60)
    with pytest.raises(EdgeError, match="free some space"):
        releases.install(shared.first, shared.keys)
    monkeypatch.undo()
    monkeypatch.setattr(bundles, "MAX_FILES", 3)
    with pytest.raises(EdgeError, match="expected at most 3 files"):
        releases.install(shared.first, shared.keys)


def as_link(bundle):
    (bundle / "labels.json").rename(bundle / "kept")
    (bundle / "labels.json").symlink_to(bundle / "kept")


@pytest.mark.parametrize("exchange", [lambda b: (b / "labels.json").write_text('["x", "y", "z"]'), enlarge, as_link])
def test_files_exchanged_between_check_and_copy_are_refused(shared, releases, tmp_path, monkeypatch, exchange):
    """What is copied is hashed while it is copied; a link is not followed, a file that grows not read on."""
    bundle = Path(shutil.copytree(shared.first, tmp_path / "copy"))
    real = bundles.check_files
    monkeypatch.setattr(bundles, "check_files", lambda checked, target=None: (exchange(bundle), real(checked, target)))
    with pytest.raises((EdgeError, OSError)):
        releases.install(bundle, shared.keys)
    assert list((releases.root / "releases").iterdir()) == []


def flips(shared, folder, count, seed):
    source = random.Random(seed)
    for _ in range(count):
        bundle = Path(shutil.copytree(shared.first, folder / "copy"))
        yield bundle, flip(bundle, source)
        shutil.rmtree(bundle)


def each_flip_is_refused(shared, releases, tmp_path, count, seed):
    for bundle, (path, place) in flips(shared, tmp_path, count, seed):
        with pytest.raises(EdgeError):
            releases.install(bundle, shared.keys)
            pytest.fail(f"taken with byte {place} of {path.name} flipped")
    assert releases.status()["installed"] == []


def test_a_flipped_bit_anywhere_is_refused(shared, releases, tmp_path):
    each_flip_is_refused(shared, releases, tmp_path, 25, seed=0)


@pytest.mark.slow
def test_each_of_500_flipped_bits_is_refused(shared, releases, tmp_path):
    each_flip_is_refused(shared, releases, tmp_path, 500, seed=1)
