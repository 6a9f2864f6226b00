import numpy as np
import pytest

from rsd.machine.errors import UserError
from rsd.sources.kinds.folder import Folder, index_folder
from tests.rsd.sources.image_folders import SIDE, fill


@pytest.fixture
def root(tmp_path):
    return fill(tmp_path / "images", {"monday": 12, "tuesday/late": 12})


def rows(count=8):
    return [
        f"{folder}/{i:03}.png,{'cat' if i % 2 else 'dog'}"
        for folder in ("monday", "tuesday/late")
        for i in range(count)
    ]


def table(root, lines, *, header="path,class", encoding="utf-8"):
    path = root.parent / "labels.csv"
    path.write_bytes("\n".join([header, *lines]).encode(encoding))
    return Folder(root=root, size=SIDE, labels=path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_images_that_are_not_named_have_no_label(root, encoding):
    options = table(root, [*rows(), "monday/010.png,"], encoding=encoding)
    result = index_folder(options)
    assert result.classes == ["cat", "dog"]
    train = result.splits["train"]
    without = {path for path, label in zip(train.paths, train.labels, strict=True) if label < 0}
    assert without == {f"{folder}/{i:03}.png" for folder in ("monday", "tuesday/late") for i in range(8, 12)}
    for part in result.splits.values():
        known = [(path, label) for path, label in zip(part.paths, part.labels, strict=True) if label >= 0]
        assert known
        assert all(label == (int(path[-7:-4]) % 2 == 0) for path, label in known)
    assert np.all(result.splits["test"].labels >= 0)
    assert options.watched == [root, root.parent / "labels.csv"]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["monday/099.png,cat"], "line 18: no image monday/099.png below"),
        (["../secret.png,cat"], "line 18: no image ../secret.png below"),
        (["monday/001.png,cat"], "line 18: monday/001.png again"),
        (["monday/001.png,dog"], "line 18: monday/001.png as cat and as dog"),
        (["monday/009.png,cat,sure"], "expected two cells in each line of"),
        (['"monday/009.png,cat'], "expected a CSV table in"),
        (["monday/008.png,emu"], "emu: too few images: 1 different ones"),
    ],
)
def test_a_faulty_row_is_one_sentence(root, lines, sentence):
    with pytest.raises(UserError) as refused:
        index_folder(table(root, [*rows(), *lines]))
    assert sentence in str(refused.value)


def test_another_separator_or_encoding_is_one_sentence(root):
    with pytest.raises(UserError, match="expected path,class as the first line of .*, found path;class; name the two"):
        index_folder(table(root, [], header="path;class"))
    with pytest.raises(UserError, match="in UTF-8, found another encoding; save it as UTF-8"):
        index_folder(table(root, ["monday/009.png,b\u00e4r"], encoding="latin-1"))
    with pytest.raises(UserError, match="expected a class in at least one row of"):
        index_folder(table(root, ["monday/009.png,"]))
    with pytest.raises(UserError, match="No such file or directory; correct data.labels"):
        index_folder(Folder(root=root, size=SIDE, labels=root / "nothing.csv"))
