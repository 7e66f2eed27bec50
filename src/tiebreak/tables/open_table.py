"""A table of a known layout -> its rows in Kaggle's columns, whatever their texts hold."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tiebreak.errors import UserError
from tiebreak.labels import CLASSES
from tiebreak.tables.cells import CellError
from tiebreak.tables.containers import NotUTF8, RawRows, open_rows, printable
from tiebreak.tables.layouts import KAGGLE, Layout, find_layout
from tiebreak.tables.rows import TEXT_COLUMNS
from tiebreak.tables.winner import WINNER_COLUMNS, has_winner, winner_column

KNOWN = KAGGLE | {"id"}
READ = KNOWN | {"model_a", "model_b", "language", *WINNER_COLUMNS}
"""Columns that mean something in a table of one's own."""


@dataclass(frozen=True)
class OpenTable:
    """A table whose layout is known, and its rows in Kaggle's columns: numbered cells, or what is wrong with a row."""

    path: Path
    columns: Sequence[str]
    layout: Layout | None
    rows: RawRows

    @property
    def numbered(self) -> bool:
        """Whether the rows' numbers, from 1, are their ids, as the table has no column of ids."""
        return self.layout is not None and self.layout.id_column(self.columns) is None

    @property
    def labelled(self) -> bool:
        """Whether its columns can hold labels."""
        return has_winner(self.columns) or (self.layout is not None and self.layout.labelled)

    @property
    def unused(self) -> list[str]:
        """Columns that are not read."""
        needed = frozenset() if self.layout is None else self.layout.needs.union(self.layout.ids)
        return [name for name in self.columns if name not in READ | needed]

    @property
    def description(self) -> str:
        """In which layout the table is read, and whence its ids are; empty for Kaggle's own with its columns."""
        said = []
        if self.layout is not None and self.layout.read is not None:
            said = [f"read as {self.layout.name} ({self.layout.of})"]
        elif (column := winner_column(self.columns)) not in (None, "winner"):
            said = [f"labels are in the column {column}"]
        if self.numbered:
            said.append("without ids: the rows' numbers, from 1, are the ids")
        return "; ".join(said)


def open_table(path: Path, counts: Counter[str], renamed: Mapping[str, str] | None = None) -> OpenTable:
    """Open a table and recognise its layout; its texts are not looked at yet.

    Args:
        path: of the file or folder.
        counts: gets the numbers of what a layout leaves out.
        renamed: the file's own column for a known name ("prompt": "question").

    Raises:
        UserError: the table as a whole cannot be used.
    """
    columns, rows = open_rows(path)
    if renamed:
        if absent := [name for name in renamed.values() if name not in columns]:
            raise UserError(f"{path}: no column {', '.join(absent)}; the file has {printable(', '.join(columns))}")
        columns, rows = _rename(columns, rows, renamed)
    layout = find_layout(columns)
    doubled = [name for name, count in Counter(columns).items() if count > 1]
    if doubled and (layout or KNOWN & set(columns)):
        raise UserError(
            f"{path}: column {printable(', '.join(map(repr, doubled)))} occurs more than once: leave one of them"
        )
    if layout is not None:
        own = layout.id_column(columns)
        if own is None and (other := next((name for name in columns if name.casefold() == "id"), None)):
            raise UserError(f"{path}: ids are read from the column id, and here it is {printable(other)}: rename it")
        if layout.read is not None:
            rows = _in_kaggle_columns(layout, own, rows, counts)
        if own is None:
            rows = _number(rows)
    return OpenTable(path, columns, layout, rows)


def _rename(columns: list[str], rows: RawRows, renamed: Mapping[str, str]) -> tuple[list[str], RawRows]:
    """Columns and rows under known names."""
    names = {column: column for column in columns if column not in renamed} | {
        column: name for name, column in renamed.items()
    }

    def renamed_rows() -> RawRows:
        for number, cells in rows:
            if isinstance(cells, str):
                yield number, cells
            else:
                yield number, {names[name]: value for name, value in cells.items() if name in names}

    return list(names.values()), renamed_rows()


def _number(rows: RawRows) -> RawRows:
    """Rows with their numbers as ids."""
    for number, cells in rows:
        if isinstance(cells, str):
            yield number, cells
        elif cells.get("id") is not None:
            yield number, "has an id, and the rows at the beginning have none: give every row one, or none"
        else:
            yield number, {**cells, "id": number}


def _in_kaggle_columns(layout: Layout, own: str | None, rows: RawRows, counts: Counter[str]) -> RawRows:
    """Rows as the layout reads them; `own` is the column with their ids."""
    assert layout.read is not None
    for number, cells in rows:
        if isinstance(cells, str):
            yield number, cells
            continue
        if odd := next((name for name, cell in cells.items() if isinstance(cell, NotUTF8)), None):
            yield number, f"{printable(odd)}: bytes that are not UTF-8"
            continue
        try:
            given = cells.get("id") if own is None else cells[own]
            read = {"id": given, **layout.read(cells, counts)}
        except CellError as error:
            yield number, str(error)
        except KeyError as error:
            yield number, f"no {error.args[0]}"
        else:
            yield number, read


def check_columns(table: OpenTable) -> None:
    """Check that the required columns are present, and the one-hot winner columns complete.

    Raises:
        UserError: they are not.
    """
    if table.layout is not None and table.layout.read is not None:
        return
    columns = table.columns
    missing = [name for name in TEXT_COLUMNS if name not in columns]
    if any(name in columns for name in CLASSES) and "winner" not in columns:
        missing += [name for name in CLASSES if name not in columns]
    if missing:
        shown = printable(", ".join(columns)) or "none"
        hint = "" if KNOWN & set(columns) else " (no header line?)"
        raise UserError(
            f"{table.path}: missing column{'s' * (len(missing) > 1)} {', '.join(missing)}; the file has {shown}{hint}. "
            "tiebreak convert --columns maps columns of other names; docs/tables.md lists the layouts that are known"
        )
    if odd := next((name for name in columns if any(c < " " or c == "\x7f" for c in name)), None):
        raise UserError(f"{table.path}: the column {printable(odd)!r} has control characters in its name; rename it")


def refuse_without_labels(table: OpenTable) -> None:
    """Refuse a table none of whose columns is one that holds labels.

    Raises:
        UserError: with the command that says which column it is.
    """
    column = printable(table.unused[0]) if len(table.unused) == 1 else "COLUMN"
    raise UserError(
        f"{table.path}: no label column (read are {', '.join(WINNER_COLUMNS)}); the file has "
        f"{printable(', '.join(table.columns))}. If one of them says who wins: tiebreak convert "
        f"{shlex.quote(str(table.path))} --columns {shlex.quote(f'winner={column}')} --out labelled.csv"
    )
