"""Tables of labels as people have them."""

import pytest

from rsd.cli.start.label_table import read_label_table
from rsd.machine.errors import UserError
from rsd.sources.label_file import Row

IMAGES = ["a/001.jpg", "a/002.jpg", "b/001.jpg", "b/003.jpg"]


@pytest.fixture
def read(tmp_path):
    def read(text, column=None, *, encoding="utf-8"):
        table = tmp_path / "labels.csv"
        table.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return read_label_table(table, tmp_path / "images", IMAGES, column)

    return read


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize(
    ("separator", "words"), [(",", "commas"), (";", "semicolons"), ("\t", "tabs"), (" ", "spaces")]
)
def test_separators_line_ends_and_encodings_are_understood(read, separator, words, encoding):
    lines = ["path;species", "a/001.jpg;Möwe", "b\\003.jpg;Star"]
    table = read("\r\n".join(lines).replace(";", separator), encoding=encoding)
    assert table.rows == [Row(2, "a/001.jpg", "Möwe"), Row(3, "b/003.jpg", "Star")]
    assert (table.separator, table.columns, table.is_ours) == (words, ("path", "species"), False)


def test_our_own_form_needs_no_copy(read):
    assert read("path,class\n./a/001.jpg,cat\n").is_ours
    assert not read("path,class\nimages/a/001.jpg,cat\n").is_ours  # relative to the table


@pytest.mark.parametrize("path", ["a/002.jpg", "images/a/002.jpg", "002.jpg", "002"])
def test_paths_may_have_any_usual_form(read, path, tmp_path):
    assert read(f"{path},cat\n").rows == [Row(1, "a/002.jpg", "cat")]
    assert read(f"{tmp_path}/images/a/002.jpg,cat\n").rows == [Row(1, "a/002.jpg", "cat")]


def test_a_column_is_chosen_by_name_or_number(read):
    text = "file,probability,kind\na/001.jpg,0.5,mono\nb/003.jpg,1.0,poly\n"
    assert (
        [row.name for row in read(text, "kind").rows] == [row.name for row in read(text, "3").rows] == ["mono", "poly"]
    )
    assert [row.name for row in read(text.replace("kind", "class")).rows] == ["mono", "poly"]
    with pytest.raises(
        UserError, match="found 2; choose one of probability .2 values., kind .2 values.: --label-column"
    ):
        read(text)
    for column in ("kidn", "1", "4"):
        with pytest.raises(UserError, match=f"found no column '{column}'"):
            read(text, column)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "found an empty file"),
        ("a/001.jpg\nb/003.jpg\n", "found one cell in the first line"),
        ("a/001.jpg,cat\nb/003.jpg,dog,sure\n", "2 cells in the first line and another number in line 2"),
        ("x.jpg,cat\ny.jpg,dog\n", "expected a column of images' paths in .* found none: its last line is 'y.jpg dog'"),
        (b"PK\0\0", "found a binary file; save it as CSV"),
    ],
)
def test_what_is_no_table_is_one_sentence(read, text, sentence):
    with pytest.raises(UserError, match=sentence):
        read(text)
