"""What names are like: a test's says its promise in a few words, a variable's is a noun."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORST = {"asked", "found", "said", "seen", "told"}
NO_NOUNS = {*WORST, "began", "chosen", "given", "ran", "stood", "wanted"}


def test_no_tests_name_has_over_eight_words():
    for file in (ROOT / "tests").rglob("test_*.py"):
        functions = [node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
        names = [name.removeprefix("test_") for name in functions if name.startswith("test_")]
        assert [name for name in names if len(name.split("_")) > 8] == [], file
        assert len(names) == len({*names}), f"{file}: two tests of one name"


def variables(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def test_variables_bear_nouns_not_participles():
    for room in ("rsd", "stages", "pipelines", "benchmarks", "deploy", "tests"):
        for file in (ROOT / room).rglob("*.py"):
            assert (WORST if room == "tests" else NO_NOUNS) & {*variables(ast.parse(file.read_text()))} == set(), file
