import json

import pytest

from rsd.machine.errors import UserError
from tests.rsd.teacher.small import data, options, same, saved, timm_model


def test_a_record_beside_a_file_overrides_the_data(tmp_path):
    path = saved(tmp_path / "model.safetensors", net := timm_model())
    start = options("file", path).start(data())
    assert same(start.model, net)
    assert start.preprocessing == ([0.4], [0.2], None)
    stated = {"classes": data().classes, "mean": [0.5], "std": [0.3], "input_size": 24, "versions": {"timm": "1"}}
    (tmp_path / "model.json").write_text(json.dumps(stated))
    start = options("file", tmp_path).start(data())
    assert start.preprocessing == ([0.5], [0.3], 24)
    assert options("file", path, input_size=32).start(data()).preprocessing.input_size == 32


@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        ({"classes": ["class 1", "class 0", "class 2"]}, "another order .class 0 is 'class 1' instead of 'class 0'"),
        ({"classes": ["class 0", "class 1"]}, "expected the data's 3 classes in .*, found 2 classes; "),
        ({"classes": ["class 0", "class 1", "cat"]}, "found 3 classes, such as 'cat', unknown to it"),
        ({"mean": [0.5]}, "as many values in mean as in std"),
        ({"mean": [0.5], "std": [0]}, r"std\.0: Input should be greater than 0"),
        ([], "found: Input should be an object"),
    ],
)
def test_a_contradictory_record_is_one_sentence(tmp_path, stated, sentence):
    path = saved(tmp_path / "model.safetensors", timm_model())
    (tmp_path / "model.json").write_text(json.dumps(stated))
    with pytest.raises(UserError, match=sentence):
        options("file", path).start(data())
