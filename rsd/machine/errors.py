"""The one exception that is meant for the person at the terminal."""


class UserError(Exception):
    """One clear sentence: what was expected, what was found, and what to do.

    Stages print it without a traceback and exit with status 1.
    """
