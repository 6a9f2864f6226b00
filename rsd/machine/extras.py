"""Libraries that `pip install rsd` leaves out: each belongs to an extra of pyproject.toml."""

from importlib.util import find_spec

from rsd.machine.errors import UserError


class MissingExtraError(UserError, ImportError):
    """A library of an extra is not installed."""


def needs(extra: str, *modules: str) -> None:
    """Check that the libraries of an extra are installed, without importing them.

    Args:
        extra: as in `pip install 'rsd[EXTRA]'`.
        modules: what the caller is about to import.

    Raises:
        MissingExtraError: a module cannot be found; the sentence gives the command that installs it.
    """
    for module in modules:
        if find_spec(module) is None:
            raise MissingExtraError(f"expected the library {module}, found none; run `pip install 'rsd[{extra}]'`")
