"""Lines of params.yaml change, and nothing else."""

from pathlib import Path

import pytest

from rsd.cli.start.files import changed_params, write_files
from rsd.machine.errors import UserError

TEXT = """# on top
pair: one # of two
seeds: [0, 1, 2]

views:
  # within
  count: 30
  seed: null # drawn
"""


def test_other_lines_and_comments_stay():
    text, changes = changed_params(TEXT, {"pair": "two", "seeds": [0], "views.count": 30})
    assert text == TEXT.replace("pair: one", "pair: two").replace("[0, 1, 2]", "[0]")
    assert changes == ['pair: "one" -> "two"', "seeds: [0, 1, 2] -> [0]"]


def test_invalid_params_leave_the_clone_alone(clone):
    before = (clone / "params.yaml").read_bytes()
    file = Path("conf") / "data" / "mine.yaml"
    with pytest.raises(UserError, match=r"params\.yaml: pair: expected a name out of conf/pair"):
        write_files({file: "source: folder\n"}, {"pair": "nowhere"})
    assert (clone / "params.yaml").read_bytes() == before
    assert not file.exists()
