import sys
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import ValidationError

from rsd.machine.errors import UserError
from rsd.machine.kinds import Kind


class Fruit(Kind):
    package: ClassVar[str] = "fruits"
    thing: ClassVar[str] = "a fruit"
    source: str = "apple"
    weight: int = 1


APPLE = "from tests.rsd.machine.test_kinds import Fruit\nclass Apple(Fruit):\n    worms: int = 0\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The package `fruits`, with one kind."""
    package = tmp_path / "fruits"
    package.mkdir()
    for name, text in (("__init__", ""), ("apple", APPLE), ("_helper", ""), ("pear", "class Pear: ...")):
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "fruits"]:
        del sys.modules[name]


def test_kinds_are_the_files_of_a_folder(folder):
    assert Fruit.names() == ["apple", "pear"]
    Path(folder, "quince.py").write_text(APPLE.replace("Apple", "Quince"))
    assert Fruit.names() == ["apple", "pear", "quince"]
    assert Fruit.named("quince").__name__ == "Quince"


def test_a_section_gets_the_class_of_its_source():
    for values in ({"source": "apple", "worms": 2}, {"worms": 2}):  # the default is apple
        apple = Fruit.model_validate(values)
        assert type(apple).__name__ == "Apple"
        assert apple.model_dump() == {"source": "apple", "weight": 1, "worms": 2}


def test_a_kind_made_directly_knows_its_name():
    assert Fruit.named("apple")(weight=3).source == "apple"


@pytest.mark.parametrize("name", ["aple", 7, None])
def test_an_unknown_kind_lists_the_known_ones(name):
    with pytest.raises(ValidationError) as caught:
        Fruit.model_validate({"source": name})
    (fault,) = caught.value.errors()
    assert fault["loc"] == ("source",)
    hint = "; did you mean apple?" if name == "aple" else ""
    assert fault["msg"] == f"expected a fruit out of apple, pear, found {name!r}{hint}"


def test_faults_in_a_kinds_options_keep_their_keys():
    with pytest.raises(ValidationError) as caught:
        Fruit.model_validate({"source": "apple", "worms": "many", "colour": "red"})
    assert [fault["loc"] for fault in caught.value.errors()] == [("worms",), ("colour",)]


def test_a_file_without_a_kind_is_refused():
    with pytest.raises(UserError, match=r"expected one subclass of Fruit in .*pear\.py, found 0; correct the file"):
        Fruit.named("pear")
