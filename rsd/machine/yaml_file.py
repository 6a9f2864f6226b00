"""YAML as DVC reads it: version 1.2, so that 1e-5 is a number, 010 is ten, yes is a word, and a key stands once."""

from pathlib import Path
from typing import Any

from rsd.machine.errors import UserError
from rsd.machine.extras import needs


def read_yaml(path: Path) -> Any:
    """A YAML file's content, None if empty; UserError if it is missing, no YAML, no UTF-8, or has a key twice."""
    needs("pipeline", "ruamel")
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"expected the file {path}, found none; restore it from version control") from error
    except (YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"expected YAML in {path}, found: {problem}; correct the file") from error
