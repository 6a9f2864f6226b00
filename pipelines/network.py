"""Which failures of git and DVC another try may mend."""

from collections.abc import Iterable

HELPLESS = (
    # git
    "a git repository",
    "does not exist",
    "' not found",
    "Repository not found",
    "fast-forward",
    "diverging",
    "rejected]",
    "overwritten by merge",
    "Authentication failed",
    "could not read Username",
    "Permission denied",
    # DVC
    "Checkout failed",
    "no remote",
    "No remote",
    "config file error",
    "Forbidden",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    # either
    "No space left",
)
"""What a second try does not mend."""


def can_be_mended(said: Iterable[str]) -> bool:
    """Whether what was `said` leaves hope that the same command succeeds later: a network, a server that is away."""
    return not any(mark in line for line in said for mark in HELPLESS)
