"""What pydantic finds wrong with a value, in plain words: expected, found, what to do."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rsd.machine.errors import UserError, near

Model = TypeVar("Model", bound=BaseModel)

_EXPECTED = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "string": "text",
    "path": "a path, as text",
    "list": "a list",
    "tuple": "a list",
    "dict": "keys and values",
    "model": "keys and values",
    "none": "no value",
    "json": "JSON",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "{min_length} or more values",
    "too_long": "{max_length} or fewer values",
    "string_too_short": "text of {min_length} characters at least",
    "string_too_long": "text of {max_length} characters at most",
    "string_pattern_mismatch": "text like {pattern}",
    "literal_error": "{expected}",
}
"""By pydantic's type of a fault or, for `int_type`, `int_parsing` and their like, by its first word."""


def in_words(fault: ErrorDetails, known: Iterable[str] = ()) -> str:
    """A sentence of one of a `ValidationError`'s `errors()`, without its place; `known` keys help with others."""
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key{near(fault['loc'][-1], known)}"
    if kind == "missing":
        return "missing; give it a value"
    if kind == "value_error":  # our own sentence, which says what was found
        return str(fault["msg"]).removeprefix("Value error, ")
    if kind == "json_invalid":
        return f"expected JSON, found none ({context['error']})"
    words = _EXPECTED.get(kind) or _EXPECTED.get(kind.partition("_")[0]) or fault["msg"].partition("should be ")[2]
    whole = {key: int(bound) for key, bound in context.items() if isinstance(bound, float) and bound.is_integer()}
    value = repr(context.get("actual_length", fault["input"]))
    return f"expected {words.format(**context | whole)}, found {value if len(value) <= 100 else value[:97] + '...'}"


def first_fault(error: Exception) -> str:
    """`KEY: SENTENCE` of the first thing that pydantic finds wrong; any other error says that a file is no JSON."""
    if not isinstance(error, ValidationError):
        return f"no JSON ({type(error).__name__})"
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {in_words(first)}"


def read_checked(path: Path, kind: type[Model], *, what: str, then: str) -> Model:
    """The content of a JSON file, as a `kind`.

    Args:
        what: names the content in the error.
        then: ends the error: what to do.

    Raises:
        UserError: the file cannot be read, is no JSON, or holds something else; the sentence names the first fault.
    """
    try:
        return kind.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        raise UserError(f"expected {what} at {path}, found none ({error.strerror}); {then}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected {what} in {path}, found: {first_fault(error)}; {then}") from error
