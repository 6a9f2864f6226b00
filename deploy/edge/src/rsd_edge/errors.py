"""The one exception that is meant for the user."""


class EdgeError(Exception):
    """One clear sentence: what was expected, what was found, and what to do. Commands print it and exit with 1."""
