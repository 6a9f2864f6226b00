"""A lost `state.json` costs no release."""

import shutil

import pytest
from rsd_edge.errors import EdgeError

from tests.deploy.edge.device import lose_state, works


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b"null", b'{"who": 1}'])
def test_a_lost_state_is_rebuilt_from_undamaged_releases(shared, releases, content):
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


def test_the_newest_release_ever_outlives_the_state(shared, releases):
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


def test_a_lost_state_ignores_unsigned_releases(shared, workshop, releases):
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
