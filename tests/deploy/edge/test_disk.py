"""Writes and locks."""

import fcntl
import os

import pytest
from rsd_edge import disk


def test_looking_at_a_folder_never_blocks_a_command(tmp_path):
    assert not disk.is_attended(tmp_path)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with disk.attended(tmp_path):
        pass
    os.close(descriptor)
    with disk.attended(tmp_path), disk.attended(tmp_path):
        assert disk.is_attended(tmp_path)
    assert not disk.is_attended(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    disk.write_json(tmp_path / "x.json", 1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        disk.write_json(tmp_path / "x.json", 2)
    assert (tmp_path / "x.json").read_text() == "1\n"
