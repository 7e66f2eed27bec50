"""How the parts of the corpus name their cases."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Case, Outcome, Words, World

Make = Callable[[Path, World], Words]


class Part:
    """The cases of one part, in order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cases: list[Case] = []

    def add(self, kind: str, name: str, make: Make, *says: str, check: Any = None, heavy: bool = False) -> None:
        """Add one case: told if the message holds `says`, right if `check` passes."""
        self.cases.append(Case(self.name, kind, name, make, says, check, heavy))


def texts(**columns: str) -> str:
    """A labelled table of two rows as CSV, cells in place of its own."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    rows = [
        {"id": str(n), "prompt": f"question {n}", "response_a": "yes", "response_b": "no", "winner": "model_a"}
        | columns
        for n in range(12)
    ]
    for number, row in enumerate(rows):
        row["id"] = row["id"].replace("#", str(number))
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return out.getvalue()


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file in place; `change` returns the new content, or None where it changed the old."""
    content = json.loads(path.read_text(encoding="utf-8"))
    changed = change(content)
    path.write_text(json.dumps(content if changed is None else changed), encoding="utf-8")


def flip(path: Path, at: float = 0.5) -> None:
    """Change one byte at a share of a file's length."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 0x5A
    path.write_bytes(content)


def cut(path: Path, share: float = 0.5) -> None:
    """Keep the beginning of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    csv.field_size_limit(2**31 - 1)
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rows(name: str, count: int, **cells: str) -> Callable[[Path, Outcome], None]:
    """A check: a CSV file has so many rows, and its first these cells."""

    def check(folder: Path, _: Outcome) -> None:
        found = read_rows(folder / name)
        assert len(found) == count, f"{len(found)} rows, not {count}"
        for column, cell in cells.items():
            assert found[0][column] == cell, f"{column}: {found[0][column][:80]!r}, not {cell[:80]!r}"

    return check


def prints(*words: str) -> Callable[[Path, Outcome], None]:
    """A check: the output holds these words, and nothing that a terminal would obey."""

    def check(_: Path, outcome: Outcome) -> None:
        absent = [word for word in words if word not in outcome.out + outcome.err]
        assert not absent, f"does not print {absent}: {outcome.out[-300:]!r}"
        odd = {c for c in outcome.out + outcome.err if not c.isprintable() and c not in "\n\t"}
        assert not odd, f"prints {odd}"

    return check


def predicted(name: str, like: Path | str, world_relative: bool = False) -> Callable[[Path, Outcome], None]:
    """A check: predictions of the same ids as a table, each row summing to one."""

    def check(folder: Path, _: Outcome) -> None:
        found = read_rows(folder / name)
        wanted = read_rows(folder / like)
        assert [row["id"] for row in found] == [row["id"] for row in wanted], "other ids"
        for row in found:
            values = [float(row[f"winner_{column}"]) for column in ("model_a", "model_b", "tie")]
            assert min(values) >= 0 and abs(sum(values) - 1) < 1e-6, row

    return check
