"""The user's mistakes: one message, exit code 2, no traceback."""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can correct; the message says what is wrong, where, and what to do."""


def did_you_mean(word: str, known: Iterable[str], before: str = "") -> str:
    """A question with the known words that are spelt like this one, each after `before`; empty where none is."""
    import difflib

    near = [before + name for name in difflib.get_close_matches(word, sorted(known), n=3)]
    return f"did you mean {' or '.join(near)}?" if near else ""
