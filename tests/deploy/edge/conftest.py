from functools import cache, cached_property
from pathlib import Path

import pytest
from rsd_edge import openvino_session, timing
from rsd_edge.records import Pair
from rsd_edge.releases import Releases

from tests.bundles import Workshop
from tests.deploy.edge.pairs import add_openvino


class Shared(Workshop):
    @cache  # noqa: B019 - there is one of it
    def bundle(self, release: int) -> Path:
        """Small: one precision only."""
        return self.signed(release, precisions=("fp32",))

    @cached_property
    def first(self) -> Path:
        return self.signed(1)

    @cached_property
    def second(self) -> Path:
        return self.signed(2)


@pytest.fixture(autouse=True)
def _no_streams(monkeypatch):
    """Tests fork children from a process that has inferred; on a device such a process forks none."""
    monkeypatch.setattr(openvino_session, "_streams", lambda threads: 0)


@pytest.fixture
def workshop(tmp_path):
    return Workshop(tmp_path / "workshop")


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A workshop for tests that copy its bundles before they change them."""
    return Shared(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def releases(tmp_path):
    return Releases(tmp_path / "device")


@pytest.fixture
def short_choices(monkeypatch):
    """A choice tries each pair with one thread in one turn; else it forks a child for each count of threads."""
    monkeypatch.setattr(timing, "thread_counts", lambda: [1])
    monkeypatch.setattr(timing, "TURNS", 1)


@pytest.fixture
def times(monkeypatch):
    """Milliseconds of each way, in place of what this machine measures; 1 for those that are not in it."""
    given: dict[tuple[Pair, int], list[float]] = {}
    monkeypatch.setattr(
        timing, "in_turns", lambda ways, **_: {way: [ms / 1e3 for ms in given.get(way, [1.0])] for way in ways}
    )
    monkeypatch.setattr(timing, "physical_cores", lambda: 4)
    return given


@pytest.fixture
def device(workshop, releases, times):
    """With one release of two precisions, which ONNX Runtime and OpenVINO read."""
    bundle = workshop.unsigned(1)
    add_openvino(bundle)
    releases.install(workshop.forged(bundle), workshop.keys)
    return releases
