"""Libraries that `pip install rsd` leaves out: each belongs to an extra of pyproject.toml."""

from importlib.util import find_spec

from rsd.machine.errors import UserError


class MissingExtraError(UserError, ImportError):
    """A library of an extra is not installed."""


def needs(extra: str, *modules: str) -> None:
    """Check that modules of an extra are installed, without an import; MissingExtraError says how to install it."""
    for module in modules:
        if find_spec(module) is None:
            raise MissingExtraError(f"expected the library {module}, found none; run `pip install 'rsd[{extra}]'`")
