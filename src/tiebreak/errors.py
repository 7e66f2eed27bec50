"""The user's mistakes: one message, exit code 2, no traceback."""


class UserError(Exception):
    """A mistake that the user can correct; the message says what is wrong, where, and what to do."""
