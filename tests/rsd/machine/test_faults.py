"""Every fault that pydantic finds is said in plain words."""

import re

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from rsd.config.resolve import SECTIONS
from rsd.machine.errors import UserError
from rsd.machine.faults import first_fault, in_words, read_checked
from rsd.methods import distiller, methods
from rsd.sources.base import Source
from rsd.teacher.base import TeacherOptions

WRONG = [None, -1, 1.5, "x", "", [], {}, {"a": 1}, True, [None], 10**30, float("nan"), [1, 2, 3, 4, 5], object()]
KINDS = SECTIONS | {name: distiller(name).Options for name in methods()}


def test_no_section_answers_in_pydantics_words():
    sentences = set()
    for kind in KINDS.values():
        for field in kind.model_fields:
            for value in WRONG:
                with pytest.raises(ValidationError) as caught:
                    TypeAdapter(kind).validate_python({"surely": "unknown", field: value})
                sentences |= {in_words(fault, kind.model_fields) for fault in caught.value.errors()}
    assert len(sentences) > 100
    for sentence in sentences:
        assert re.match(r"expected .+, found .+|unknown key|missing; give it a value", sentence), sentence
        assert not re.search(r"[Ii]nput should|permitted|valid (integer|number|string|list|dict)", sentence), sentence
        assert "\n" not in sentence


def unbounded(schema: object, path: str = "") -> list[str]:
    """Where a JSON schema has whole numbers without a least or without a largest."""
    if isinstance(schema, list):
        return [place for part in schema for place in unbounded(part, path)]
    if not isinstance(schema, dict):
        return []
    least, largest = ({bound, f"exclusive{bound.capitalize()}"} & schema.keys() for bound in ("minimum", "maximum"))
    here = [path] if schema.get("type") == "integer" and not (least and largest) else []
    return here + [place for key, part in schema.items() for place in unbounded(part, f"{path}/{key}")]


def test_every_whole_number_of_the_params_is_bounded():
    subkinds = [kind.named(name) for kind in (Source, TeacherOptions) for name in kind.names()]
    for kind in (*KINDS.values(), *subkinds):
        assert unbounded(TypeAdapter(kind).json_schema(), kind.__name__) == []


def test_a_long_value_is_cut():
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(int).validate_python("x" * 1000)
    assert len(in_words(caught.value.errors()[0])) < 150


class Sides(BaseModel):
    sides: list[int] = Field(min_length=2)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "found none (No such file or directory); copy it"),
        (b'{"sides": [1]}', "found: sides: expected 2 or more values, found 1; copy it"),
        (b'{"sides": [1, "x"]}', "found: sides.1: expected a whole number, found 'x'; copy it"),
        (b"[]", "found: the whole: expected keys and values, found []; copy it"),
        (b"\xff", "found: no JSON (UnicodeDecodeError); copy it"),
        (b"[" * 100_000, "found: no JSON (RecursionError); copy it"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, content, sentence):
    file = tmp_path / "sides.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_checked(file, Sides, what="sides", then="copy it")
    assert str(caught.value).startswith("expected sides ")
    assert str(caught.value).endswith(sentence)


def test_a_whole_file_is_read(tmp_path):
    (tmp_path / "sides.json").write_text('{"sides": [1, 2]}')
    assert read_checked(tmp_path / "sides.json", Sides, what="sides", then="").sides == [1, 2]
    assert first_fault(ValueError("x")) == "no JSON (ValueError)"
