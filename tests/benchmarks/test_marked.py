import pytest

from benchmarks.marked import parts, put
from rsd.machine.errors import UserError

PAGE = "# Title\n\n<!-- one -->\nold\n<!-- /one -->\nwords | <!-- two -->\nx\n<!-- /two -->\nend\n"


def test_parts_are_read_back_and_the_page_stays(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    put(page, {"one": "| a \\1 |\n| b |", "two": "new\n"})
    assert parts(page.read_text()) == {"one": "| a \\1 |\n| b |", "two": "new"}
    assert page.read_text().replace("| a \\1 |\n| b |\n", "old\n").replace("new\n", "x\n") == PAGE


def test_the_same_parts_again_change_nothing(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    put(page, parts(PAGE))
    assert page.read_text() == PAGE


@pytest.mark.parametrize("page", ["none", PAGE + PAGE, "<!-- /one -->\n<!-- one -->\n", "<!-- one -->\n"])
def test_a_page_without_the_marks_is_left_alone(tmp_path, page):
    (tmp_path / "page.md").write_text(page)
    with pytest.raises(UserError, match="once each"):
        put(tmp_path / "page.md", {"one": "new"})
    assert (tmp_path / "page.md").read_text() == page
