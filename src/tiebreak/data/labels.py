"""Labels alone, from any table with `id` and the winner columns."""

from pathlib import Path

from tiebreak.data.cells import CellError
from tiebreak.data.table import open_rows, read_label
from tiebreak.errors import UserError
from tiebreak.labels import CLASSES


def has_labels(path: Path) -> bool:
    """Whether the table has columns for winners."""
    columns, _ = open_rows(path)
    return "winner" in columns or set(CLASSES) <= set(columns)


def read_labels(path: Path) -> dict[str, int]:
    """The class 0, 1 or 2 of each labelled id.

    Raises:
        UserError: no id or winner columns, or a row whose winner cannot be read.
    """
    columns, rows = open_rows(path)
    if len(set(columns)) < len(columns):
        raise UserError(f"{path}: a column occurs more than once ({', '.join(columns)})")
    if "id" not in columns or not has_labels(path):
        raise UserError(f"{path}: labels need the columns id and {', '.join(CLASSES)} (or winner)")
    labels: dict[str, int] = {}
    for number, cells in rows:
        try:
            if isinstance(cells, str):
                raise CellError(cells)
            label = read_label(cells)
        except CellError as error:
            raise UserError(f"{path}, row {number}: {error}") from None
        name = str(cells.get("id") or "").strip()
        if not name or name in labels:
            raise UserError(f"{path}, row {number}: " + (f"the id {name} occurs twice" if name else "no id"))
        if label is not None:
            labels[name] = label
    return labels
