"""Checks a section against its type; each fault is a sentence with the key's path and the file."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rsd.machine.errors import UserError, near
from rsd.machine.faults import in_words
from rsd.machine.kinds import Kind


def checked(kind: Any, values: Any, prefix: str, file: Path, override: Any, errors: list[str]) -> Any:
    """The section with its defaults filled in; None if it is faulty, with its faults added to `errors`.

    Args:
        kind: the type that checks the section.
        prefix: the section's name with a dot at its end, for the keys in a sentence.
        file: where the section stands.
        override: what params.yaml sets above it, if anything.
    """
    try:
        section = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        for fault in error.errors():
            path = [str(part) for part in fault["loc"]]
            above = f" or override in {Path('params.yaml')}" if override else ""
            sentence = in_words(fault, getattr(kind_of(kind, values) or kind, "model_fields", ()))
            errors.append(f"{file}{above}: {(prefix + '.'.join(path)).rstrip('.')}: {sentence}")
        return None
    return section.model_dump(mode="json")


def kind_of(thing: Any, values: Any) -> type[Any] | None:
    """The kind of a thing that a section's `source` names; None if the section has no kinds, or names none of them."""
    if not (isinstance(thing, type) and issubclass(thing, Kind) and isinstance(values, dict)):
        return None
    try:
        return thing.named(values.get("source", thing.model_fields["source"].default))
    except UserError:
        return None


def unknown_keys(keys: Iterable[str], known: set[str], prefix: str, file: Path) -> list[str]:
    return [f"{file}: {prefix}{key}: unknown key{near(key, known)}" for key in keys if key not in known]


def mapping(values: Any, name: str, file: Path, errors: list[str]) -> dict[str, Any]:
    """`values` if they are keys and values, else an empty section and an error; an empty section may be null."""
    if values is not None and not isinstance(values, dict):
        errors.append(f"{file}: {name}: expected keys and values, found {values!r}")
    return values if isinstance(values, dict) else {}
