"""The one exception class for refusals that a user can mend; the commands print it as a plain message, no traceback."""


class UserError(Exception):
    """Something about the input, not about the code: says what was got, what was expected, and what to do.

    A subclass may also inherit from ValueError, FileNotFoundError or RuntimeError, so that callers of the Python API
    can catch the usual type.
    """
