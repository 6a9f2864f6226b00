"""The benchmark installs what a device would install."""

from pathlib import Path

import pytest
from rsd_edge.releases import Releases

from benchmarks.edge_install import filled, table
from tests.bundles import Workshop


def test_a_filled_bundle_of_that_size_is_installed(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path / "workshop")
    signed = filled(workshop.unsigned(precisions=("fp32",)), tmp_path, 2.0, workshop.key)
    size = sum(path.stat().st_size for path in signed.rglob("*") if path.is_file())
    assert 2.0e6 < size < 2.1e6
    assert Releases(tmp_path / "device").install(signed, workshop.keys) == ("tiny-1", True)


@pytest.mark.slow
def test_every_way_is_timed_beside_the_copy_alone(tmp_path: Path) -> None:
    lines = table(Workshop(tmp_path / "workshop").unsigned(precisions=("fp32",)), 1.0, rounds=1).splitlines()
    assert len(lines) == 5
    assert lines[2].split("|")[3].startswith(" 1.00 ")
