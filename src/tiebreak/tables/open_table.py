"""A table of a known layout -> its rows in Kaggle's columns, whatever their texts hold."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tiebreak.errors import UserError
from tiebreak.labels import CLASSES
from tiebreak.tables.cells import CellError
from tiebreak.tables.containers import NotUTF8, RawRows, open_rows, printable
from tiebreak.tables.layouts import KAGGLE, Layout, find_layout
from tiebreak.tables.rows import REQUIRED, TEXT_COLUMNS
from tiebreak.tables.winner import winner_column


@dataclass(frozen=True)
class OpenTable:
    """A table whose layout is known, and its rows in Kaggle's columns: numbered cells, or what is wrong with a row."""

    path: Path
    columns: Sequence[str]
    layout: Layout | None
    rows: RawRows

    @property
    def description(self) -> str:
        """In which layout the table is read; empty for Kaggle's own."""
        if self.layout is None or self.layout.read is None:
            column = winner_column(self.columns)
            return "" if column in (None, "winner") else f"labels are in the column {column}"
        ids = "; ids are the rows' numbers" if self.layout.numbers_rows else ""
        return f"read as {self.layout.name} ({self.layout.of}){ids}"


def open_table(path: Path, counts: Counter[str], renamed: Mapping[str, str] | None = None) -> OpenTable:
    """Open a table and recognise its layout; its texts are not looked at yet.

    Args:
        path: of the file or folder.
        counts: gets the numbers of what a layout leaves out.
        renamed: the file's own column for a known name ("prompt": "question"). Rows without an id are then numbered.

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
    if doubled and (layout or KAGGLE & set(columns)):
        raise UserError(
            f"{path}: column {printable(', '.join(map(repr, doubled)))} occurs more than once: leave one of them"
        )
    if layout is not None and layout.read is not None:
        rows = _in_kaggle_columns(layout, rows, counts)
    return OpenTable(path, columns, layout, rows)


def _rename(columns: list[str], rows: RawRows, renamed: Mapping[str, str]) -> tuple[list[str], RawRows]:
    """Columns and rows under known names; with an `id` where there are texts and no id."""
    names = {column: column for column in columns if column not in renamed} | {
        column: name for name, column in renamed.items()
    }
    numbered = "id" not in names.values() and set(TEXT_COLUMNS) <= set(names.values())

    def renamed_rows() -> RawRows:
        for number, cells in rows:
            if isinstance(cells, str):
                yield number, cells
            else:
                known = {names[name]: value for name, value in cells.items() if name in names}
                yield number, {"id": number, **known} if numbered else known

    return [*(["id"] if numbered else []), *names.values()], renamed_rows()


def _in_kaggle_columns(layout: Layout, rows: RawRows, counts: Counter[str]) -> RawRows:
    assert layout.read is not None
    for number, cells in rows:
        if isinstance(cells, str):
            yield number, cells
            continue
        if odd := next((name for name, cell in cells.items() if isinstance(cell, NotUTF8)), None):
            yield number, f"{printable(odd)}: bytes that are not UTF-8"
            continue
        try:
            read = layout.read(cells, counts)
        except CellError as error:
            yield number, str(error)
        except KeyError as error:
            yield number, f"no {error.args[0]}"
        else:
            yield number, {**read, "id": number} if read["id"] is None else read


def check_columns(table: OpenTable) -> None:
    """Check that the required columns are present, and the one-hot winner columns complete.

    Raises:
        UserError: they are not.
    """
    if table.layout is not None and table.layout.read is not None:
        return
    columns = table.columns
    missing = [name for name in REQUIRED if name not in columns]
    if any(name in columns for name in CLASSES) and "winner" not in columns:
        missing += [name for name in CLASSES if name not in columns]
    if missing:
        shown = printable(", ".join(columns)) or "none"
        hint = "" if KAGGLE & set(columns) else " (no header line?)"
        raise UserError(
            f"{table.path}: missing column {', '.join(missing)}; the file has {shown}{hint}. tiebreak convert "
            "--columns maps columns of other names; docs/tables.md lists the layouts that are known"
        )
    if odd := next((name for name in columns if any(c < " " or c == "\x7f" for c in name)), None):
        raise UserError(f"{table.path}: the column {printable(odd)!r} has control characters in its name; rename it")
