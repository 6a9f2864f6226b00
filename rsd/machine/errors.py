"""The exception whose text is for the person at the terminal."""


class UserError(Exception):
    """One clear sentence: what was expected, what was found, and what to do.

    Stages and commands print it without a traceback and exit with status 1.
    """
