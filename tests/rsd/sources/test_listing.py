import errno
import os
import subprocess
import sys

import pytest

from rsd.machine.errors import UserError
from rsd.sources.listing import listing, weights_content, weights_file


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "images"
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def replaced(tree):
    times = os.stat(tree / "cat/1.png")
    (tree / "cat/1.png").write_text("CAT/1.png")  # the same size
    os.utime(tree / "cat/1.png", ns=(times.st_atime_ns, times.st_mtime_ns + 1))


@pytest.mark.parametrize(
    "change",
    [
        replaced,
        lambda tree: (tree / "dog/2.png").write_text("new"),
        lambda tree: (tree / "cat/2.png").unlink(),
        lambda tree: (tree / "cat/2.png").rename(tree / "dog/2.png"),
        lambda tree: (tree / "cat").rename(tree / "lion"),
    ],
)
def test_changed_images_change_the_listing(tree, change):
    before = listing(tree)
    assert listing(tree) == before
    change(tree)
    assert listing(tree) != before


def test_a_moved_folder_keeps_its_listing(tree):
    before = listing(tree)
    assert listing(tree.rename(tree.with_name("elsewhere"))) == before


def test_links_are_followed_unless_they_lead_back(tree, tmp_path):
    (tmp_path / "more").mkdir()
    (tree / "bird").symlink_to(tmp_path / "more")
    (tree / "back").symlink_to(tree)
    (tree / "gone.png").symlink_to(tmp_path / "nowhere")
    before = listing(tree)
    (tmp_path / "more" / "1.png").write_text("a bird")
    assert listing(tree) != before


def test_an_unreadable_file_counts_but_stops_nothing(tree, monkeypatch):
    (tree / "self.png").symlink_to("self.png")
    before = listing(tree)
    (tree / "self.png").unlink()
    (tree / "self.png").write_text("a cat")
    assert listing(tree) != before

    real = os.scandir

    def refused(folder):  # rights do not hold back whoever runs tests as root
        if os.path.basename(os.path.normpath(folder)) == "dog":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(folder)

    before = listing(tree)
    monkeypatch.setattr(os, "scandir", refused)
    assert listing(tree) != before
    assert listing(tree) == listing(tree)


def test_a_root_may_be_an_archive_or_missing(tmp_path):
    missing = listing(tmp_path / "cifar.tar.gz")
    (tmp_path / "cifar.tar.gz").write_text("archive")
    first = listing(tmp_path / "cifar.tar.gz")
    (tmp_path / "cifar.tar.gz").write_text("another archive")
    assert len({missing, first, listing(tmp_path / "cifar.tar.gz")}) == 3


@pytest.mark.parametrize("whole_folder", [True, False])
def test_weights_change_with_content_and_record_only(tmp_path, whole_folder):
    weights, stated = tmp_path / "model.safetensors", tmp_path / "config.json"
    path = tmp_path if whole_folder else weights
    assert weights_content(path) == {}
    weights.write_text("weights")
    first = weights_content(path)
    os.utime(weights, ns=(0, 0))
    (tmp_path / "notes.txt").write_text("of no concern")
    assert weights_content(path) == first
    stated.write_text("{}")
    second = weights_content(path)
    weights.write_text("WEIGHTS")
    third = weights_content(path)
    assert len({str(content) for content in (first, second, third)}) == 3


def test_a_path_without_weights_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"found no such file; give the path"):
        weights_file(tmp_path / "none.pth")
    with pytest.raises(UserError, match=r"found a folder without one; give the path .*model\.safetensors"):
        weights_file(tmp_path)


def test_the_stage_sources_imports_nothing_heavy():
    heavy = "import sys, stages.sources; sys.exit(bool({'torch', 'timm', 'numpy', 'pandas'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", heavy], check=False).returncode == 0
