"""Counts in messages."""


def plural(count: int, noun: str) -> str:
    """The count and its noun: `1 row`, `1,200 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def plain_number(number: float) -> str:
    """A number as a sentence shows it: whole ones with commas."""
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"
