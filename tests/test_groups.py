"""Tests of one group share what is slow to make, so they run in one process."""

import os

import pytest


@pytest.mark.xdist_group("one")
@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process runs all tests")
def test_a_test_keeps_its_group(request: pytest.FixtureRequest) -> None:
    """pytest 9.2 lets pytest-xdist 3.8 lose it silently (pytest-dev/pytest-xdist#1386)."""
    assert request.node.nodeid.endswith("@one")
