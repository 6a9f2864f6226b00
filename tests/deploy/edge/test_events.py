"""The log of a device."""

import pytest
from rsd_edge.errors import EdgeError


def test_the_log_stays_bounded(shared, releases, monkeypatch):
    monkeypatch.setattr("rsd_edge.events.MAX_BYTES", 1000)
    for _ in range(30):
        with pytest.raises(EdgeError):
            releases.install(releases.root / "none", shared.keys)
    assert sum(path.stat().st_size for path in releases.root.glob("events*")) < 3000
