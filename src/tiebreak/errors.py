"""The user's mistakes: one message, exit code 2, no traceback."""


class UserError(Exception):
    """A mistake the user can mend; the message says what is wrong, where, and what to do."""
