"""Findings of the preflight: one table, and the reasons of a refusal."""

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tiebreak.errors import UserError

OK, NOTE, FAIL = "ok", "note", "FAIL"
LEFT, WIDTH = 13, 88
"""Of the first two columns."""


@dataclass(frozen=True)
class Finding:
    """One check. `verdict` is ok, note (worth knowing, stops nothing) or FAIL."""

    check: str
    text: str
    verdict: str = OK

    @property
    def failed(self) -> bool:
        """Whether this ends the command."""
        return self.verdict == FAIL


def finding_of(check: str, look: Callable[[], Finding]) -> Finding:
    """Run a check and return its finding; a UserError becomes a failure."""
    return findings_of(check, lambda: [look()])[0]


def findings_of(check: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """Run a check and return its findings, of which there may be none; a UserError becomes a failure."""
    try:
        return look()
    except UserError as error:
        return [Finding(check, str(error), FAIL)]
    except OSError as error:
        return [Finding(check, f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), FAIL)]


def render(findings: Iterable[Finding]) -> str:
    """Format the columns check, found and verdict; long sentences are wrapped."""
    rows = [Finding("check", "found", "verdict"), *findings]
    left = max(LEFT, *(len(row.check) + 2 for row in rows))
    lines = []
    for row in rows:
        parts = [part for line in row.text.splitlines() for part in textwrap.wrap(line, WIDTH) or [""]]
        lines += [f"{row.check:{left}}{parts[0]:{WIDTH + 2}}{row.verdict}".rstrip()]
        lines += [" " * left + part for part in parts[1:]]
    return "\n".join(lines)


def refuse(findings: Iterable[Finding]) -> None:
    """Raise with every failure, if there are any."""
    if failures := [f"{row.check}: {row.text}" for row in findings if row.failed]:
        raise UserError("\n  ".join(["the preflight failed (TIEBREAK_PREFLIGHT=0 skips it):", *failures]))


def as_rows(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Convert findings to rows for JSON."""
    return [asdict(row) for row in findings]


def from_rows(rows: Iterable[dict[str, Any]]) -> list[Finding]:
    """Convert rows of `as_rows` back to findings."""
    return [Finding(**row) for row in rows]
