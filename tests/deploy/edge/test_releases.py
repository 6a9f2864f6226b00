"""What is installed, made current and taken back, and what is refused with which sentence."""

import hashlib
import json
import shutil
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from rsd_edge import disk, signature
from rsd_edge.errors import EdgeError
from rsd_edge.model import Model
from rsd_edge.releases import Releases

from rsd.release import sign
from tests.bundles import Workshop, edit
from tests.deploy.edge.device import contents, events, lose_state, works
from tests.deploy.edge.serving import ask, process

pytestmark = pytest.mark.usefixtures("short_choices")


def test_a_release_is_installed_then_current_then_good(shared, releases):
    assert releases.install(shared.first, shared.keys) == ("tiny-1", True)
    assert releases.current() is None
    assert releases.activate(shared.keys) == "tiny-1"
    assert releases.current().name == "tiny-1"
    assert contents(releases.current()) == contents(shared.first)
    assert works(releases.current())
    assert releases.status()["good"] == ["tiny-1"]
    assert events(releases) == ["installed", "chosen", "on trial", "good"]


def schema2(manifest: dict) -> None:
    """A manifest as releases had it whose files were for ONNX Runtime alone."""
    manifest["schema_version"] = 2
    del manifest["requires"]["openvino"]
    for model in manifest["models"].values():
        model |= {"onnx": model["onnx"]["onnxruntime"], "parity": model["parity"]["onnxruntime"]}
    logits = manifest["golden"]["logits"]
    logits |= {precision: paths["onnxruntime"] for precision, paths in logits.items()}


def test_a_release_of_schema_2_is_served_on(workshop, releases):
    bundle = workshop.unsigned()
    edit(bundle / "manifest.json", schema2)
    name, _ = releases.install(workshop.forged(bundle), workshop.keys)
    assert releases.activate(workshop.keys) == name
    assert works(releases.current())
    releases.recover(workshop.keys)
    assert releases.status()["good"] == [name]


@pytest.mark.parametrize("key", ["models", "golden", "requires", "files"])
def test_a_malformed_schema_2_gets_a_sentence(workshop, releases, key):
    def broken(manifest: dict) -> None:
        schema2(manifest)
        manifest[key] = 7

    bundle = workshop.unsigned()
    edit(bundle / "manifest.json", broken)
    with pytest.raises(EdgeError, match=f"as rsd writes it: expected an object as {key}, found 7; make the bundle"):
        releases.install(workshop.forged(bundle), workshop.keys)


def test_installing_twice_changes_nothing_that_is_served(shared, releases):
    releases.install(shared.first, shared.keys)
    releases.activate(shared.keys)
    assert releases.install(shared.second, shared.keys) == ("tiny-2", True)
    assert releases.current().name == "tiny-1"
    assert releases.install(shared.second, shared.keys) == ("tiny-2", False)
    releases.activate(shared.keys)
    assert releases.rollback(shared.keys) == "tiny-1"
    assert releases.current().name == "tiny-1"
    assert works(releases.current())
    assert releases.activate(shared.keys, "tiny-2") == "tiny-2"


def test_rollback_needs_an_earlier_good_release(shared, releases):
    releases.install(shared.first, shared.keys)
    releases.activate(shared.keys)
    with pytest.raises(EdgeError, match="expected an earlier good release to go back to, found none"):
        releases.rollback(shared.keys)
    assert releases.current().name == "tiny-1"


def test_a_downgrade_must_be_allowed_and_is_logged(shared, releases):
    releases.install(shared.second, shared.keys)
    with pytest.raises(EdgeError, match="expected a release newer than 2, the newest ever installed here, found 1"):
        releases.install(shared.first, shared.keys)
    releases.install(shared.first, shared.keys, allow_downgrade=True)
    assert "downgrade" in events(releases)
    assert [*releases.status()["highest"].values()] == [2]


def test_a_removed_release_cannot_be_replayed(shared, releases, workshop):
    for bundle in (shared.first, shared.second):
        releases.install(bundle, shared.keys, keep=1)
        releases.activate(shared.keys, keep=1)
    assert releases.status()["installed"] == ["tiny-2"]
    with pytest.raises(EdgeError, match="newer than 2"):
        releases.install(shared.first, shared.keys)


def test_a_reused_number_or_another_name_is_refused(workshop, releases):
    releases.install(workshop.signed(1), workshop.keys)
    with pytest.raises(EdgeError, match="found that of another tiny-1; raise the number"):
        releases.install(workshop.signed(1, options={"p99_ms": 5.0}), workshop.keys)
    with pytest.raises(EdgeError, match="expected a bundle named tiny, found other"):
        releases.install(workshop.signed(2, name="other"), workshop.keys)


def other_golden_logits(bundle, add, precision="fp16"):
    path = bundle / "golden" / f"logits.{precision}.onnxruntime.npy"
    np.save(path, np.load(path) + np.float32(add))
    facts = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    edit(bundle / "manifest.json", lambda m: m["files"].update({f"golden/{path.name}": facts}))


def test_a_release_without_a_right_pair_is_refused(workshop, releases):
    releases.install(workshop.signed(1), workshop.keys)
    releases.activate(workshop.keys)
    bundle = workshop.unsigned(2)
    for precision in ("fp32", "fp16"):
        other_golden_logits(bundle, 1, precision)
    releases.install(workshop.forged(bundle), workshop.keys)
    sentence = (
        "expected one pair .* found none; fp32 in ONNX Runtime: expected the fp32 logits .* within .*, found 1 in"
    )
    with pytest.raises(EdgeError, match=sentence):
        releases.activate(workshop.keys)
    assert releases.current().name == "tiny-1"
    assert events(releases)[-1] == "failed"


def test_infinite_logits_fail_the_self_test(workshop, releases, monkeypatch):
    releases.install(workshop.signed(1, precisions=("fp32",)), workshop.keys)
    real = Model.infer
    monkeypatch.setattr(Model, "infer", lambda self, images: real(self, images) + np.float32("inf"))
    with pytest.raises(
        EdgeError, match="expected finite fp32 logits of golden images, found NaN or infinity in ONNX Runtime on CPU"
    ):
        releases.activate(workshop.keys)
    assert releases.current() is None


def test_a_release_too_slow_here_never_becomes_current(workshop, releases):
    releases.install(workshop.signed(1, options={"p99_ms": 1e-6}), workshop.keys)
    with pytest.raises(EdgeError, match="expected a 99th percentile of at most 1e-06 ms, found"):
        releases.activate(workshop.keys)
    assert releases.current() is None


def test_a_newer_ir_version_is_named(shared, tmp_path):
    folder = Path(shutil.copytree(shared.bundle(1), tmp_path / "release"))
    graph = onnx.load(folder / "fp32" / "model.onnx")
    graph.ir_version = 99
    (folder / "fp32" / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(EdgeError, match=r"Unsupported model IR version: 99.*a lower export.opset or export.ir_version"):
        Model.open(folder)


def test_rollback_on_a_busy_device_only_logs_p99(workshop, releases, monkeypatch):
    import rsd_edge.selftest as module

    for number in (1, 2):
        releases.install(workshop.signed(number, precisions=("fp32",), options={"p99_ms": 50.0}), workshop.keys)
        releases.activate(workshop.keys)
    monkeypatch.setattr(module, "latency", lambda *arguments, **options: module.Latency(1000, 1.0, 1.0, 60.0))
    assert releases.rollback(workshop.keys) == "tiny-1"
    (chosen,) = [event for event in releases.status()["events"][-3:] if event["event"] == "chosen"]
    assert (chosen["release"], chosen["p99_ms"]) == ("tiny-1", 60.0)
    with pytest.raises(EdgeError, match="expected a 99th percentile of at most 50.0 ms, found 60.000 ms"):
        releases.activate(workshop.keys, "tiny-2")


def test_an_unhealthy_release_is_taken_back(shared, releases):
    releases.install(shared.first, shared.keys)
    releases.activate(shared.keys)
    releases.install(shared.second, shared.keys)
    with pytest.raises(EdgeError, match="found it never was"):
        releases.activate(shared.keys, window=0.05, healthy=lambda release: False)
    assert releases.current().name == "tiny-1"
    answers = iter([False, True, False])
    with pytest.raises(EdgeError, match="expected tiny-2 to stay healthy"):
        releases.activate(shared.keys, window=5, healthy=lambda release: next(answers))
    assert releases.current().name == "tiny-1"
    with pytest.raises(KeyboardInterrupt):
        releases.activate(shared.keys, window=5, healthy=lambda release: (_ for _ in ()).throw(KeyboardInterrupt))
    assert releases.current().name == "tiny-1"
    assert releases.status()["pending"] is None
    answers = iter([False, True])
    assert releases.activate(shared.keys, window=0.3, healthy=lambda release: next(answers)) == "tiny-2"


def test_only_the_last_good_releases_stay_on_disk(shared, releases):
    for number in range(1, 6):
        releases.install(shared.bundle(number), shared.keys, keep=2)
        releases.activate(shared.keys, keep=2)
    assert sorted(path.name for path in (releases.root / "releases").iterdir()) == ["tiny-4", "tiny-5"]
    for number in (6, 7, 8):  # installed, never made current
        releases.install(shared.bundle(number), shared.keys, keep=2)
    assert sorted(path.name for path in (releases.root / "releases").iterdir()) == ["tiny-4", "tiny-5", "tiny-8"]
    assert releases.rollback(shared.keys) == "tiny-4"


def test_a_damaged_release_is_noticed(shared, releases):
    for bundle in (shared.first, shared.second):
        releases.install(bundle, shared.keys)
        releases.activate(shared.keys)
    path = releases.root / "releases" / "tiny-2" / "fp32" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    with pytest.raises(EdgeError, match="expected fp32/model.onnx of release tiny-2 as installed, found it changed"):
        releases.activate(shared.keys, "tiny-2")
    assert releases.recover(shared.keys) == "tiny-1"
    assert releases.current().name == "tiny-1"
    assert releases.install(shared.second, shared.keys)[0] == "tiny-2"
    assert works(releases.root / "releases" / "tiny-2")


@pytest.fixture
def other(tmp_path):
    """A workshop with another key."""
    return Workshop(tmp_path / "other")


@pytest.fixture
def two(shared, releases):
    """A device with two good releases."""
    for number in (1, 2):
        releases.install(shared.bundle(number), shared.keys)
        releases.activate(shared.keys)
    return releases


def test_a_dropped_key_s_releases_are_refused(two, other, shared):
    for command in (two.activate, two.rollback):
        with pytest.raises(EdgeError, match="expected a signature of one of the 1 pinned keys, found that of another"):
            command(other.keys)
        with pytest.raises(EdgeError, match="expected one or two pinned public keys, found 0"):
            command([])
    assert two.recover(other.keys) == "tiny-2"  # what is current serves on
    (two.current() / "labels.json").write_text("damaged")
    assert two.recover(other.keys) is None  # and is not replaced by another release of the dropped key
    assert two.activate([*other.keys, *shared.keys], "tiny-1") == "tiny-1"  # which is still there


def test_a_rebuilt_state_keeps_what_the_copy_names(two, other):
    lose_state(two)
    assert two.recover(other.keys) == "tiny-2"
    assert two.status()["good"] == ["tiny-1", "tiny-2"]
    assert works(two.folder / "tiny-1")


def test_without_copy_only_signed_and_current_stay(two, other):
    lose_state(two)
    (two.root / "state.copy.json").unlink()
    assert two.recover(other.keys) == "tiny-2"
    assert works(two.current())
    assert [path.name for path in two.folder.iterdir()] == ["tiny-2"]


def test_dropped_keys_do_not_count_for_downgrades(shared, other, releases):
    releases.install(shared.signed(2**53 - 1, precisions=("fp32",)), shared.keys)
    releases.activate(shared.keys)
    with pytest.raises(EdgeError, match="newer than 9007199254740991"):
        releases.install(other.signed(7, precisions=("fp32",)), [*shared.keys, *other.keys])
    assert releases.install(other.signed(8, precisions=("fp32",)), other.keys) == ("tiny-8", True)
    assert releases.activate(other.keys) == "tiny-8"
    with pytest.raises(EdgeError, match="newer than 8"):
        releases.install(other.signed(7, precisions=("fp32",)), other.keys)


def test_a_release_signed_again_survives_its_old_key(shared, other, two, tmp_path):
    for number in (1, 2):
        again = tmp_path / f"again-{number}"
        sign.sign(shared.bundle(number).with_name("bundle"), again, other.key)
        assert two.install(again, other.keys) == (f"tiny-{number}", False)
    assert two.rollback(other.keys) == "tiny-1"
    assert two.activate(other.keys, "tiny-2") == "tiny-2"
    assert two.status()["highest"].keys() > {*signature.pinned_keys(other.keys)}


def test_repeated_recover_on_an_empty_device_changes_nothing(shared, releases):
    assert releases.recover(shared.keys) is None
    assert releases.recover(shared.keys) is None
    releases.install(shared.first, shared.keys)
    releases.activate(shared.keys)
    before = contents(releases.root)
    assert releases.recover(shared.keys) == "tiny-1"
    assert contents(releases.root) == before


def test_a_killed_command_s_trial_is_taken_back(shared, releases):
    releases.install(shared.bundle(1), shared.keys)
    releases.activate(shared.keys)
    releases.install(shared.bundle(2), shared.keys)
    releases._try(releases._state(), shared.keys, "tiny-2", 0, None)
    releases.install(shared.bundle(3), shared.keys, keep=1)
    assert releases.current().name == "tiny-1"
    assert works(releases.current())
    assert releases.status()["pending"] is None


def test_recover_leaves_a_running_activation_alone(shared, releases):
    releases.install(shared.first, shared.keys)
    recovered = []

    def healthy(release):
        recovered.append(Releases(releases.root).recover(shared.keys))
        with pytest.raises(EdgeError, match="found one; wait for it"):
            Releases(releases.root).install(shared.second, shared.keys)
        return True

    assert releases.activate(shared.keys, window=0, healthy=healthy) == "tiny-1"
    assert recovered == ["tiny-1"]


def test_an_unwatched_trial_is_not_served(shared, releases):
    assert releases.to_serve() is None
    releases.install(shared.bundle(1), shared.keys)
    watched = []

    def healthy(release):
        folder = Releases(releases.root).to_serve()
        watched.append(folder.name if folder else None)
        return True

    releases._try(releases._state(), shared.keys, "tiny-1", 0, None)  # and the power is cut
    assert releases.current().name == "tiny-1"
    assert releases.to_serve() is None
    releases.activate(shared.keys, window=0, healthy=healthy)
    releases.install(shared.bundle(2), shared.keys)
    releases.activate(shared.keys, window=0, healthy=healthy)
    assert watched == ["tiny-1", "tiny-2"]
    assert releases.to_serve().name == "tiny-2"
    releases.install(shared.bundle(3), shared.keys)
    releases._try(releases._state(), shared.keys, "tiny-3", 0, None)
    before = contents(releases.root)
    assert (releases.current().name, releases.to_serve().name) == ("tiny-3", "tiny-2")
    with process(releases.root) as (address, _):
        assert json.loads(ask(address, "GET", "/v1/status")[2])["release"] == 2
    assert contents(releases.root) == before
    lose_state(releases)
    assert releases.to_serve().name == "tiny-3"  # better than nothing, until recover


def test_status_waits_for_nothing(shared, releases):
    releases.install(shared.first, shared.keys)
    with disk.locked(releases.root / ".lock") as held:
        assert held
        started = time.monotonic()
        assert releases.status()["installed"] == ["tiny-1"]
        assert time.monotonic() - started < 1
