"""Folders of small images, what is read from them, and how a faulty one is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from rsd.machine.errors import UserError
from rsd.sources.kinds.folder import Folder, index_folder

SIDE = 8  # options.size of all tests; images of it are served as they are


def png(seed, side=SIDE):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def fill(root, counts, seed=0, side=SIDE):
    """`counts`: folder -> number of different images in it."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            seed += 1
            (root / folder / f"{i:03}.png").write_bytes(png(seed, side))
    return root


def index(root, *, workers=None, findings_file=None, **values):
    options = Folder(root=root, size=SIDE, **values)
    return index_folder(options, workers=workers, findings_file=findings_file)


def paths(result):
    return {split: part.paths for split, part in result.splits.items()}


def every(result):
    return [path for part in result.splits.values() for path in part.paths]


def equal(one, other):
    """Whether two indices are the same to the last bit."""
    for split, part in one.splits.items():
        same = other.splits[split]
        if part.paths != same.paths or not all(np.array_equal(a, b) for a, b in zip(part[1:], same[1:], strict=True)):
            return False
    return one[1:] == other[1:]


def refused(root, *sentences, **values):
    """That the folder is refused with exactly these findings, and that `skip` names the same; what `skip` gives."""
    with pytest.raises(UserError) as stopped:
        index(root, **values)
    lines = [line.split(". ", 1)[1] for line in str(stopped.value).splitlines()[1:]]
    assert f"found {len(sentences)} to correct, or to leave out by data.on_bad: skip" in str(stopped.value)
    for line, sentence in zip(lines, sorted(sentences, key=lambda s: s.split(": ")), strict=True):
        assert line.startswith(sentence)
    result = index(root, on_bad="skip", **values)
    assert result.findings == lines
    return result
