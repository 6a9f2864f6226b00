"""What is installed, made current and taken back, and what is refused with which sentence."""

import base64
import fcntl
import hashlib
import json
import os
import random
import re
import shutil
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from rsd_edge import bundle as bundles
from rsd_edge import disk
from rsd_edge.errors import EdgeError
from rsd_edge.model import Model
from rsd_edge.releases import Releases

from tests.bundles import edit
from tests.deploy.edge.serving import ask, process
from tests.deploy.edge.test_signature import flip


@pytest.fixture
def releases(tmp_path):
    return Releases(tmp_path / "device")


def events(releases):
    return [event["event"] for event in releases.status()["events"]]


def works(folder):
    """Whether a release is whole and infers."""
    model = Model.open(folder)
    expected = np.load(folder / "golden" / "logits.fp32.npy")
    found = model.infer(np.load(folder / "golden" / "images.npy"))
    model.close()
    return np.allclose(found, expected, atol=1e-3)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_release_is_installed_then_current_then_good(shared, releases):
    assert releases.install(shared.first, shared.keys) == ("tiny-1", True)
    assert releases.current() is None
    assert releases.activate() == "tiny-1"
    assert releases.current().name == "tiny-1"
    assert contents(releases.current()) == contents(shared.first)
    assert works(releases.current())
    assert releases.status()["good"] == ["tiny-1"]
    assert events(releases) == ["installed", "tested", "on trial", "good"]


def test_installing_changes_nothing_that_is_served_and_the_same_bundle_may_come_again(shared, releases):
    releases.install(shared.first, shared.keys)
    releases.activate()
    assert releases.install(shared.second, shared.keys) == ("tiny-2", True)
    assert releases.current().name == "tiny-1"
    assert releases.install(shared.second, shared.keys) == ("tiny-2", False)
    releases.activate()
    assert releases.rollback() == "tiny-1"
    assert releases.current().name == "tiny-1"
    assert works(releases.current())
    assert releases.activate("tiny-2") == "tiny-2"


def test_without_an_earlier_release_there_is_no_way_back(shared, releases):
    releases.install(shared.first, shared.keys)
    releases.activate()
    with pytest.raises(EdgeError, match="expected an earlier good release to go back to, found none"):
        releases.rollback()
    assert releases.current().name == "tiny-1"


def test_an_older_release_is_refused_unless_the_downgrade_is_allowed_and_logged(shared, releases):
    releases.install(shared.second, shared.keys)
    with pytest.raises(EdgeError, match="expected a release newer than 2, the newest ever installed here, found 1"):
        releases.install(shared.first, shared.keys)
    releases.install(shared.first, shared.keys, allow_downgrade=True)
    assert "downgrade" in events(releases)
    assert releases.status()["highest"] == 2


def test_a_replayed_release_is_refused_after_it_was_removed_from_the_device(shared, releases, workshop):
    for bundle in (shared.first, shared.second):
        releases.install(bundle, shared.keys, keep=1)
        releases.activate(keep=1)
    assert releases.status()["installed"] == ["tiny-2"]
    with pytest.raises(EdgeError, match="newer than 2"):
        releases.install(shared.first, shared.keys)


def test_the_same_number_with_other_content_and_another_name_are_refused(workshop, releases):
    releases.install(workshop.signed(1), workshop.keys)
    with pytest.raises(EdgeError, match="found that of another tiny-1; raise the number"):
        releases.install(workshop.signed(1, options={"p99_ms": 5.0}), workshop.keys)
    with pytest.raises(EdgeError, match="expected a bundle named tiny, found other"):
        releases.install(workshop.signed(2, name="other"), workshop.keys)


def rewrite(change):
    """Change the manifest and sign again, as only the key's owner could."""

    def made(workshop):
        bundle = workshop.unsigned()
        edit(bundle / "manifest.json", change)
        return workshop.forged(bundle)

    return made


def changed(change, *, forge=False):
    """Change the files of a signed bundle; and sign them again if `forge`."""

    def made(workshop):
        bundle = workshop.signed()
        change(bundle)
        return workshop.forged(bundle) if forge else bundle

    return made


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
    from rsd import sign

    workshop.public.unlink()
    shutil.copy(sign.make_key(workshop.folder / "secret" / "two")[1], workshop.pinned)
    return bundle


def escaping(path):
    """Signed by whoever has the key, and yet not to be written outside of the release's folder."""

    def made(workshop):
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

    return made


OTHER = "aarch64" if os.uname().machine == "x86_64" else "x86_64"
REFUSED = {
    "unsigned": (lambda w: w.unsigned(), "expected a signed bundle in .*, found no model.sig; sign it"),
    "of another key": (of_another_key, "expected a signature of one of the 1 pinned keys, found that of another key"),
    "half copied, a file missing": (
        changed(lambda b: (b / "fp16" / "model.onnx").unlink()),
        "found no fp16/model.onnx: the bundle is only half there",
    ),
    "half copied, a file cut": (
        changed(lambda b: os.truncate(b / "fp32" / "model.onnx", 100)),
        r"expected \d+ bytes in fp32/model.onnx, found 100",
    ),
    "an oversize file": (changed(enlarge), r"expected 24 bytes in labels.json, found 1024"),
    "an extra file": (changed(lambda b: (b / "x").touch()), "expected only signed files, found 'x' besides"),
    "a linked file": (changed(link), "found the symbolic link 'labels.json'"),
    "a linked folder": (changed(linked_folder), "found the symbolic link 'golden'"),
    "a pipe": (changed(pipe), "found 'labels.json', a pipe or a device"),
    "a path up": (escaping("../up"), r"expected plain relative paths in a bundle, found '../up'"),
    "an absolute path": (escaping("/etc/passwd"), "expected plain relative paths"),
    "a hidden path": (escaping(".x/y"), "expected plain relative paths"),
    "a path with a line break": (escaping("a\nb"), r"found 'a\\nb'"),
    "a path that is a number": (escaping(7), "expected a signature over every file by its SHA-256"),
    "too large": (
        rewrite(lambda m: m["files"]["labels.json"].update(bytes=1 << 40)),
        r"expected 1099511627776 bytes in labels.json, found 24",
    ),
    "another schema": (rewrite(lambda m: m.update(schema_version=99)), "expected a bundle of schema 2, found 99"),
    "a manifest of other files": (
        rewrite(lambda m: m["files"].pop("golden/images.npy")),
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
        "expected ONNX Runtime 99.0 or newer, found",
    ),
    "more memory": (
        lambda w: w.signed(options={"requires": {"memory_mib": 1 << 30}}),
        "expected 1073741824 MiB of free memory, found",
    ),
    "no folder": (lambda w: w.folder / "none", "expected the folder of a bundle, found none at"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_with_a_sentence_of_its_own_and_leaves_no_trace_but_in_the_log(workshop, releases, kind):
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


def test_more_bytes_than_a_bundle_may_have_and_than_the_disk_has_are_refused(shared, releases, monkeypatch):
    monkeypatch.setattr(bundles, "MOST_BYTES", 1000)
    with pytest.raises(EdgeError, match=r"expected at most 1000 bytes in a bundle, found \d+; make it smaller"):
        releases.install(shared.first, shared.keys)
    monkeypatch.undo()
    monkeypatch.setattr("rsd_edge.releases.RESERVE", 1 << 60)
    with pytest.raises(EdgeError, match="free some space"):
        releases.install(shared.first, shared.keys)
    monkeypatch.undo()
    monkeypatch.setattr(bundles, "MOST_FILES", 3)
    with pytest.raises(EdgeError, match="expected at most 3 files"):
        releases.install(shared.first, shared.keys)


def as_link(bundle):
    (bundle / "labels.json").rename(bundle / "kept")
    (bundle / "labels.json").symlink_to(bundle / "kept")


@pytest.mark.parametrize("exchange", [lambda b: (b / "labels.json").write_text('["x", "y", "z"]'), enlarge, as_link])
def test_a_file_that_is_exchanged_between_check_and_copy_is_refused(shared, releases, tmp_path, monkeypatch, exchange):
    """What is copied is hashed while it is copied; a link is not followed, a file that grows not read on."""
    bundle = Path(shutil.copytree(shared.first, tmp_path / "copy"))
    real = bundles.take
    monkeypatch.setattr(bundles, "take", lambda checked, target=None: (exchange(bundle), real(checked, target)))
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


def other_golden_logits(bundle, add):
    path = bundle / "golden" / "logits.fp16.npy"
    np.save(path, np.load(path) + np.float32(add))
    facts = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    edit(bundle / "manifest.json", lambda m: m["files"].update({"golden/logits.fp16.npy": facts}))


def test_a_release_that_fails_its_self_test_never_becomes_current(workshop, releases):
    releases.install(workshop.signed(1), workshop.keys)
    releases.activate()
    bundle = workshop.unsigned(2)
    other_golden_logits(bundle, 1)
    releases.install(workshop.forged(bundle), workshop.keys)
    with pytest.raises(EdgeError, match="expected the fp16 logits of golden images within .*, found 1 on CPU"):
        releases.activate()
    assert releases.current().name == "tiny-1"
    assert events(releases)[-1] == "failed"


def test_a_release_whose_logits_are_no_numbers_never_becomes_current_whatever_its_tolerances(
    workshop, releases, monkeypatch
):
    bundle = workshop.unsigned(1)
    other_golden_logits(bundle, "inf")
    edit(bundle / "manifest.json", lambda m: m["golden"]["tolerances"]["logits"].update(fp16=float("inf")))
    releases.install(workshop.forged(bundle), workshop.keys)
    real = Model.infer
    monkeypatch.setattr(Model, "infer", lambda self, images: real(self, images) + np.float32("inf"))
    with pytest.raises(EdgeError, match="expected finite fp32 logits of golden images, found NaN or infinity on CPU"):
        releases.activate()
    assert releases.current() is None


def test_a_release_that_is_too_slow_here_never_becomes_current(workshop, releases):
    releases.install(workshop.signed(1, options={"p99_ms": 1e-6}), workshop.keys)
    with pytest.raises(EdgeError, match="expected a 99th percentile of at most 1e-06 ms, found"):
        releases.activate()
    assert releases.current() is None


def test_the_way_back_is_free_while_the_device_is_busy_and_its_p99_is_logged(workshop, releases, monkeypatch):
    import rsd_edge.selftest as module

    for number in (1, 2):
        releases.install(workshop.signed(number, precisions=("fp32",), options={"p99_ms": 50.0}), workshop.keys)
        releases.activate()
    monkeypatch.setattr(module, "latency", lambda *arguments: module.Latency(1000, 1.0, 1.0, 60.0))
    assert releases.rollback() == "tiny-1"
    (tested,) = [event for event in releases.status()["events"][-3:] if event["event"] == "tested"]
    assert (tested["release"], tested["p99_ms"]) == ("tiny-1", 60.0)
    with pytest.raises(EdgeError, match="expected a 99th percentile of at most 50.0 ms, found 60.000 ms"):
        releases.activate("tiny-2")


def test_a_release_that_is_never_healthy_or_stops_being_so_is_taken_back(shared, releases):
    releases.install(shared.first, shared.keys)
    releases.activate()
    releases.install(shared.second, shared.keys)
    with pytest.raises(EdgeError, match="found it never was"):
        releases.activate(window=0.05, healthy=lambda release: False)
    assert releases.current().name == "tiny-1"
    answers = iter([False, True, False])
    with pytest.raises(EdgeError, match="expected tiny-2 to stay healthy"):
        releases.activate(window=5, healthy=lambda release: next(answers))
    assert releases.current().name == "tiny-1"
    with pytest.raises(KeyboardInterrupt):
        releases.activate(window=5, healthy=lambda release: (_ for _ in ()).throw(KeyboardInterrupt))
    assert releases.current().name == "tiny-1"
    assert releases.status()["pending"] is None
    answers = iter([False, True])
    assert releases.activate(window=0.3, healthy=lambda release: next(answers)) == "tiny-2"


def test_health_is_asked_of_the_server_for_this_very_release(shared, releases):
    from rsd_edge.health import served
    from rsd_edge.live import LiveModel

    from tests.deploy.edge.serving import served as serving

    releases.install(shared.first, shared.keys)
    releases.activate()
    live = LiveModel(releases.current, lambda folder: Model.open(folder))
    live.refresh()
    with serving(live) as address:
        assert served(f"http://{address}")("tiny-1")
        assert not served(f"http://{address}")("tiny-2")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert not served(f"http://127.0.0.1:{taken.getsockname()[1]}")("tiny-1")


def test_health_is_asked_past_any_proxy_and_nonsense_is_ill(monkeypatch):
    from rsd_edge.health import served

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer(content):
            client, _ = listener.accept()
            with client:
                client.recv(4096)
                client.sendall(content)

        healthy = served(f"http://127.0.0.1:{listener.getsockname()[1]}")
        for content, expected in (
            (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", True),
            (b"nonsense\r\n\r\n", False),
        ):
            thread = threading.Thread(target=answer, args=(content,))
            thread.start()
            assert healthy("tiny-1") == expected
            thread.join()


def test_the_disk_stays_bounded_and_the_last_good_releases_stay(shared, releases):
    for number in range(1, 6):
        releases.install(shared.bundle(number), shared.keys, keep=2)
        releases.activate(keep=2)
    assert sorted(path.name for path in (releases.root / "releases").iterdir()) == ["tiny-4", "tiny-5"]
    for number in (6, 7, 8):  # installed, never made current
        releases.install(shared.bundle(number), shared.keys, keep=2)
    assert sorted(path.name for path in (releases.root / "releases").iterdir()) == ["tiny-4", "tiny-5", "tiny-8"]
    assert releases.rollback() == "tiny-4"


def test_the_log_stays_bounded(shared, releases, monkeypatch):
    monkeypatch.setattr("rsd_edge.events.MOST_BYTES", 1000)
    for _ in range(30):
        with pytest.raises(EdgeError):
            releases.install(releases.root / "none", shared.keys)
    assert sum(path.stat().st_size for path in releases.root.glob("events*")) < 3000


def test_a_damaged_release_is_noticed_before_it_becomes_current_and_at_the_next_start(shared, releases):
    for bundle in (shared.first, shared.second):
        releases.install(bundle, shared.keys)
        releases.activate()
    path = releases.root / "releases" / "tiny-2" / "fp32" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    with pytest.raises(EdgeError, match="expected fp32/model.onnx of release tiny-2 as installed, found it changed"):
        releases.activate("tiny-2")
    assert releases.recover() == "tiny-1"
    assert releases.current().name == "tiny-1"
    assert releases.install(shared.second, shared.keys)[0] == "tiny-2"
    assert works(releases.root / "releases" / "tiny-2")


def test_after_its_keys_were_rotated_a_device_still_starts_and_goes_back(shared, releases, tmp_path):
    """Releases that were installed under a key of the past are held to their digests."""
    for bundle in (shared.first, shared.second):
        releases.install(bundle, shared.keys)
        releases.activate()
    assert releases.recover() == "tiny-2"
    assert releases.rollback() == "tiny-1"


def test_recover_on_an_empty_device_and_again_and_again_changes_nothing(shared, releases):
    assert releases.recover() is None
    assert releases.recover() is None
    releases.install(shared.first, shared.keys)
    releases.activate()
    before = contents(releases.root)
    assert releases.recover() == "tiny-1"
    assert contents(releases.root) == before


def lose_state(releases, content=None):
    path = releases.root / "state.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b"null", b'{"who": 1}'])
def test_a_lost_state_is_rebuilt_from_the_releases_that_are_whole(shared, releases, content):
    for bundle in (shared.first, shared.second):
        releases.install(bundle, shared.keys)
        releases.activate()
    lose_state(releases, content)
    for command in (lambda: releases.install(shared.first, shared.keys), releases.activate, releases.status):
        with pytest.raises(EdgeError, match="run `rsd-edge recover`"):
            command()
    assert releases.current().name == "tiny-2"
    assert releases.recover(keys=shared.keys) == "tiny-2"
    assert releases.status()["installed"] == ["tiny-1", "tiny-2"]
    assert releases.status()["highest"] == 2
    assert works(releases.current())


def test_the_newest_release_ever_is_known_after_it_was_removed_and_the_state_lost(shared, releases):
    releases.install(shared.first, shared.keys)
    releases.activate()
    for number in (2, 3):
        releases.install(shared.bundle(number), shared.keys, keep=1)
    shutil.rmtree(releases.folder / "tiny-3")
    lose_state(releases)
    assert releases.recover(keys=shared.keys) == "tiny-1"
    assert releases.status()["highest"] == 3
    with pytest.raises(EdgeError, match="newer than 3"):
        releases.install(shared.second, shared.keys)
    assert releases.install(shared.bundle(3), shared.keys) == ("tiny-3", True)


def test_a_lost_state_is_not_rebuilt_from_what_nobody_has_checked(shared, workshop, releases):
    releases.install(shared.first, shared.keys)
    releases.activate()
    for name in (".unpacked", ".tiny-99.arriving", "tiny-99", "tiny-98"):
        shutil.copytree(workshop.unsigned(99, precisions=("fp32",)), releases.folder / name)
        shutil.copy(shared.first / "model.sig", releases.folder / name)
    lose_state(releases)
    with pytest.raises(EdgeError, match="expected a public key in .*none.pub"):
        releases.recover(keys=[releases.root / "none.pub"])
    assert releases.recover(keys=shared.keys) == "tiny-1"
    assert (releases.status()["installed"], releases.status()["highest"]) == (["tiny-1"], 1)
    assert [path.name for path in releases.folder.iterdir()] == ["tiny-1"]


def test_what_was_on_trial_when_a_command_was_killed_is_taken_back_by_the_next_one(shared, releases):
    releases.install(shared.bundle(1), shared.keys)
    releases.activate()
    releases.install(shared.bundle(2), shared.keys)
    releases._try(releases._state(), "tiny-2", 0, None)
    releases.install(shared.bundle(3), shared.keys, keep=1)
    assert releases.current().name == "tiny-1"
    assert works(releases.current())
    assert releases.status()["pending"] is None


def test_recover_leaves_an_activation_that_is_under_way_alone(shared, releases):
    releases.install(shared.first, shared.keys)
    seen = []

    def healthy(release):
        seen.append(Releases(releases.root).recover())
        with pytest.raises(EdgeError, match="found another; wait for it"):
            Releases(releases.root).install(shared.second, shared.keys)
        return True

    assert releases.activate(window=0, healthy=healthy) == "tiny-1"
    assert seen == ["tiny-1"]


def test_a_server_is_given_the_trial_while_it_is_watched_and_else_the_last_good_release(shared, releases):
    assert releases.to_serve() is None
    releases.install(shared.bundle(1), shared.keys)
    watched = []

    def healthy(release):
        found = Releases(releases.root).to_serve()
        watched.append(found.name if found else None)
        return True

    releases._try(releases._state(), "tiny-1", 0, None)  # and the power is cut
    assert releases.current().name == "tiny-1"
    assert releases.to_serve() is None
    releases.activate(window=0, healthy=healthy)
    releases.install(shared.bundle(2), shared.keys)
    releases.activate(window=0, healthy=healthy)
    assert watched == ["tiny-1", "tiny-2"]
    assert releases.to_serve().name == "tiny-2"
    releases.install(shared.bundle(3), shared.keys)
    releases._try(releases._state(), "tiny-3", 0, None)
    before = contents(releases.root)
    assert (releases.current().name, releases.to_serve().name) == ("tiny-3", "tiny-2")
    with process(releases.root) as (address, _):
        assert json.loads(ask(address, "GET", "/v1/status")[2])["release"] == 2
    assert contents(releases.root) == before
    lose_state(releases)
    assert releases.to_serve().name == "tiny-3"  # better than nothing, until recover


def test_who_looks_at_a_folder_keeps_nobody_from_attending_to_it(tmp_path):
    assert not disk.is_attended(tmp_path)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with disk.attended(tmp_path):
        pass
    os.close(descriptor)
    with disk.attended(tmp_path), disk.attended(tmp_path):
        assert disk.is_attended(tmp_path)
    assert not disk.is_attended(tmp_path)


class TensorRT:
    """A runtime that says it has TensorRT, and builds by writing a file."""

    def __init__(self, monkeypatch):
        import rsd_edge.model as module

        self.real, self.module = module.ort.InferenceSession, module
        self.built: list[Path] = []
        self.settings: dict[str, dict[str, object]] = {}
        """Of the last session with TensorRT, by precision."""
        self.has_libraries, self.refuses = True, "nothing"
        available = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(module.ort, "InferenceSession", self.session)
        monkeypatch.setattr(module.ort, "get_available_providers", lambda: available)
        self.updated_to(monkeypatch, module.ort.__version__)

    def updated_to(self, monkeypatch, version):
        monkeypatch.setattr(self.module.ort, "__version__", version)
        self.module._runtime.cache_clear()

    def session(self, path, options, providers):
        return Session(self, path, providers)


class Session:
    def __init__(self, runtime, path, providers):
        self.inner = runtime.real(path, providers=["CPUExecutionProvider"])
        self.runtime, self.engines = runtime, None
        if isinstance(providers[0], tuple) and runtime.has_libraries:  # else it falls back, as the real one does
            if Path(path).parent.name == runtime.refuses:
                raise RuntimeError("TensorRT EP failed to create an engine from a network")
            settings = providers[0][1]
            self.engines = Path(settings["trt_engine_cache_path"])
            runtime.settings[Path(path).parent.name] = settings

    def get_providers(self):
        return ["TensorrtExecutionProvider" if self.engines else "CPUExecutionProvider"]

    def run(self, *arguments):
        assert not self.engines or len(arguments[1]["image"]) <= 8
        if self.engines and not (self.engines / "x.engine").exists():
            self.runtime.built.append(self.engines)
            (self.engines / "x.engine").write_bytes(b"built here")
        return self.inner.run(*arguments)


@pytest.fixture
def tensorrt(monkeypatch):
    runtime = TensorRT(monkeypatch)
    yield runtime
    runtime.module._runtime.cache_clear()


def test_where_tensorrt_is_its_engine_is_built_once_by_install_and_never_when_a_model_is_opened(
    shared, releases, tensorrt, capsys
):
    releases.install(shared.first, shared.keys)
    assert "tiny-1: TensorRT builds its fp32 engine, which can take minutes" in capsys.readouterr().err
    assert [path.name.split("-")[0] for path in tensorrt.built] == [".fp32", ".fp16"]
    releases.activate()
    releases.recover()
    model = Model.open(releases.current())
    assert model.provider == "TensorrtExecutionProvider"
    assert model.infer(np.zeros((20, 6, 5, 3), np.uint8)).shape == (20, 3)
    assert len(tensorrt.built) == 2
    shutil.rmtree(releases.root / "engines")  # without one it is not built while somebody waits
    assert Model.open(releases.current()).provider == "CPUExecutionProvider"
    assert len(tensorrt.built) == 2
    releases.activate()
    assert len(tensorrt.built) == 4


def test_tensorrt_is_told_to_compute_in_the_precision_of_the_graph_for_all_batches_that_it_will_get(
    workshop, releases, tensorrt
):
    releases.install(workshop.signed(1, precisions=("fp32", "fp16", "int8")), workshop.keys)
    chosen = {"trt_fp16_enable", "trt_int8_enable"}
    found = {precision: chosen & {*settings} for precision, settings in tensorrt.settings.items()}
    assert found == {"fp32": set(), "fp16": {"trt_fp16_enable"}, "int8": {"trt_int8_enable"}}
    assert all(settings["trt_profile_max_shapes"] == "image:8x6x5x3" for settings in tensorrt.settings.values())


def test_after_an_update_of_the_runtime_activate_builds_anew_and_the_server_does_not(
    shared, releases, tensorrt, monkeypatch
):
    releases.install(shared.bundle(1), shared.keys)
    releases.activate()
    tensorrt.updated_to(monkeypatch, "99.0")
    assert Model.open(releases.current()).provider == "CPUExecutionProvider"
    assert len(tensorrt.built) == 1
    releases.activate()
    assert Model.open(releases.current()).provider == "TensorrtExecutionProvider"
    assert len(tensorrt.built) == 2
    assert len([*(releases.root / "engines" / "tiny-1").iterdir()]) == 1  # what the old one built is gone


def test_where_tensorrt_is_compiled_in_and_its_libraries_are_missing_the_device_does_without(
    shared, releases, tensorrt
):
    tensorrt.has_libraries = False
    releases.install(shared.first, shared.keys)
    assert releases.activate() == "tiny-1"
    assert Model.open(releases.current()).provider == "CPUExecutionProvider"
    assert [*(releases.root / "engines" / "tiny-1").iterdir()] == []
    (first, _) = [e for e in releases.status()["events"] if e["event"] == "engine not built"]
    assert first["reason"] == "TensorRT is not usable here"


def test_an_engine_that_cannot_be_built_is_fatal_only_where_it_is_the_one_that_is_served(shared, releases, tensorrt):
    tensorrt.refuses = "fp16"
    releases.install(shared.first, shared.keys)
    assert releases.activate() == "tiny-1"
    missed = [event for event in releases.status()["events"] if event["event"] == "engine not built"]
    assert [event["precision"] for event in missed] == ["fp16", "fp16"]
    assert "failed to create an engine" in missed[0]["reason"]
    assert len(tensorrt.built) == 1
    tensorrt.refuses = "fp32"
    with pytest.raises(EdgeError, match="expected ONNX Runtime .* to take fp32/model.onnx, found: TensorRT EP failed"):
        releases.install(shared.second, shared.keys)
    assert releases.current().name == "tiny-1"


def test_every_file_of_an_engine_is_on_the_disk_before_it_has_its_name(shared, releases, tensorrt, monkeypatch):
    seen = []
    real_sync, real_replace = disk.sync, os.replace

    def sync(path):
        seen.append(("sync", path.name))
        real_sync(path)

    def replace(old, new):
        seen.append(("name", Path(old).name))
        real_replace(old, new)

    shared.bundle(1)
    monkeypatch.setattr(disk, "sync", sync)
    monkeypatch.setattr(os, "replace", replace)
    releases.install(shared.bundle(1), shared.keys)
    (named,) = [place for place, (what, name) in enumerate(seen) if what == "name" and name.endswith(".building")]
    before = [name for what, name in seen[:named] if what == "sync"]
    assert {"x.engine", seen[named][1]} <= {*before}


def test_who_waits_for_an_engine_sees_that_it_goes_on(shared, releases, tensorrt, monkeypatch, capsys):
    monkeypatch.setattr("rsd_edge.engines.PROGRESS", 0.01)
    real = Session.run

    def slow(session, *arguments):
        time.sleep(0.3)
        return real(session, *arguments)

    shared.bundle(1)
    monkeypatch.setattr(Session, "run", slow)
    releases.install(shared.bundle(1), shared.keys)
    assert "tiny-1: TensorRT builds its fp32 engine: 0 s\n" in capsys.readouterr().err


def test_a_write_that_does_not_fit_leaves_the_old_file(tmp_path, monkeypatch):
    disk.write_json(tmp_path / "x.json", 1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        disk.write_json(tmp_path / "x.json", 2)
    assert disk.read_json(tmp_path / "x.json") == 1


def test_status_waits_for_nothing(shared, releases):
    releases.install(shared.first, shared.keys)
    with disk.locked(releases.root / ".lock") as held:
        assert held
        started = time.monotonic()
        assert releases.status()["installed"] == ["tiny-1"]
        assert time.monotonic() - started < 1
