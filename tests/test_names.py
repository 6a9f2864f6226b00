"""What names must be like: a test's says its promise in a few words."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_no_tests_name_has_over_eight_words():
    for file in (ROOT / "tests").rglob("test_*.py"):
        functions = [node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
        names = [name.removeprefix("test_") for name in functions if name.startswith("test_")]
        assert [name for name in names if len(name.split("_")) > 8] == [], file
        assert len(names) == len({*names}), f"{file}: two tests of one name"
