"""Kinds of a thing, one file each: the key `source` of a section names the file that defines the section's options."""

import importlib
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from rsd.machine.errors import UserError, near
from rsd.machine.modules import module_names
from rsd.machine.options import Options


class Kind(Options):
    """What all kinds of one thing have in common; a subclass that sets `package` is such a thing.

    Each file of `package` is a kind and defines one subclass. A file that starts with an underscore is none.
    `Thing.model_validate(values)` gives the subclass in the file that `values["source"]` names.
    """

    package: ClassVar[str]
    """Where the kinds lie, such as `rsd.sources.kinds`."""
    thing: ClassVar[str]
    """What a kind is called in an error."""
    source: str = ""
    """Name of the kind: its file's name."""

    @classmethod
    def names(cls) -> list[str]:
        """All kinds there are."""
        return module_names(Path(*importlib.import_module(cls.package).__path__))

    @classmethod
    def named(cls, name: object) -> type[Self]:
        """The class of a kind; UserError if no file has that name, or it does not define one kind."""
        names = cls.names()
        if not isinstance(name, str) or name not in names:
            raise UserError(f"expected {cls.thing} out of {', '.join(names)}, found {name!r}{near(name, names)}")
        module = importlib.import_module(f"{cls.package}.{name}")
        here = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
        kinds = [value for value in here if isinstance(value, type) and issubclass(value, cls)]
        if len(kinds) != 1:
            raise UserError(
                f"expected one subclass of {cls.__name__} in {module.__file__}, found {len(kinds)}; correct the file"
            )
        return kinds[0]

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_file(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(values, dict):
            return handler(values)
        if "package" not in cls.__dict__:
            return handler({"source": cls.__module__.rpartition(".")[2]} | values)
        name = values.get("source", cls.model_fields["source"].default)
        try:
            kind = cls.named(name)
        except UserError as error:
            sentence = PydanticCustomError("value_error", "{sentence}", {"sentence": str(error)})
            raise ValidationError.from_exception_data(
                cls.__name__, [{"type": sentence, "loc": ("source",), "input": name}]
            ) from error
        return kind.model_validate(values)
