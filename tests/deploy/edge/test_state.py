"""A lost `state.json` costs no release."""

import shutil

import pytest
from rsd_edge.errors import EdgeError

from tests.deploy.edge.device import lose_state, works

pytestmark = pytest.mark.usefixtures("short_choices")


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b"null", b'{"who": 1}'])
def test_a_lost_state_is_rebuilt_from_undamaged_releases(shared, releases, content):
    for bundle in (shared.first, shared.second):
        releases.install(bundle, shared.keys)
        releases.activate(shared.keys)
    lose_state(releases, content)
    for command in (
        lambda: releases.install(shared.first, shared.keys),
        lambda: releases.activate(shared.keys),
        releases.status,
    ):
        with pytest.raises(EdgeError, match="run `rsd-edge recover`"):
            command()
    assert releases.current().name == "tiny-2"
    assert releases.recover(shared.keys) == "tiny-2"
    assert releases.status()["installed"] == ["tiny-1", "tiny-2"]
    assert [*releases.status()["highest"].values()] == [2]
    assert works(releases.current())


def test_the_newest_release_ever_outlives_the_state(shared, releases):
    releases.install(shared.first, shared.keys)
    releases.activate(shared.keys)
    for number in (2, 3):
        releases.install(shared.bundle(number), shared.keys, keep=1)
    shutil.rmtree(releases.folder / "tiny-3")
    lose_state(releases)
    assert releases.recover(shared.keys) == "tiny-1"
    assert [*releases.status()["highest"].values()] == [3]
    with pytest.raises(EdgeError, match="newer than 3"):
        releases.install(shared.second, shared.keys)
    assert releases.install(shared.bundle(3), shared.keys) == ("tiny-3", True)


def test_a_lost_state_ignores_unsigned_releases(shared, workshop, releases):
    releases.install(shared.first, shared.keys)
    releases.activate(shared.keys)
    for name in (".unpacked", ".tiny-99.arriving", "tiny-99", "tiny-98"):
        shutil.copytree(workshop.unsigned(99, precisions=("fp32",)), releases.folder / name)
        shutil.copy(shared.first / "model.sig", releases.folder / name)
    lose_state(releases)
    with pytest.raises(EdgeError, match="expected a public key in .*none.pub"):
        releases.recover([releases.root / "none.pub"])
    assert releases.recover(shared.keys) == "tiny-1"
    assert (releases.status()["installed"], [*releases.status()["highest"].values()]) == (["tiny-1"], [1])
    assert [path.name for path in releases.folder.iterdir()] == ["tiny-1"]


def test_many_refusals_do_not_reopen_older_releases(shared, releases, monkeypatch):
    monkeypatch.setattr("rsd_edge.events.MAX_BYTES", 1000)
    for number in (2, 3):
        releases.install(shared.bundle(number), shared.keys, keep=1)
    releases.install(shared.bundle(1), shared.keys, keep=1, allow_downgrade=True)
    for _ in range(30):
        with pytest.raises(EdgeError):
            releases.install(releases.root / "none", shared.keys)
    lose_state(releases)
    releases.recover(shared.keys)
    with pytest.raises(EdgeError, match="newer than 3"):
        releases.install(shared.second, shared.keys)


def test_losing_state_and_copy_costs_no_release(shared, releases):
    for number in (1, 2, 3):
        releases.install(shared.bundle(number), shared.keys)
        if number < 3:
            releases.activate(shared.keys)
    before = releases.status()
    lose_state(releases)
    (releases.root / "state.copy.json").write_bytes(b"{")
    assert releases.recover(shared.keys) == "tiny-2"
    after = releases.status()
    for name in ("current", "good", "installed", "highest", "pending"):
        assert after[name] == before[name], name
    assert releases.rollback(shared.keys) == "tiny-1"


def test_a_stale_copy_is_mended_by_recover(shared, releases):
    releases.install(shared.bundle(1), shared.keys)
    stale = (releases.root / "state.json").read_bytes()
    releases.activate(shared.keys)
    (releases.root / "state.copy.json").write_bytes(stale)
    releases.recover(shared.keys)
    assert (releases.root / "state.copy.json").read_bytes() == (releases.root / "state.json").read_bytes() != stale
