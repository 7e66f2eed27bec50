"""Summaries of tables: what they hold, and what is wrong with them, row by row."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tiebreak.labels import CLASS_NAMES, describe_absent
from tiebreak.plurals import plural
from tiebreak.tables.cells import normalise_prompt, replace_lone_surrogates
from tiebreak.tables.containers import SNIFFED_ROWS, printable
from tiebreak.tables.open_table import OpenTable, open_table
from tiebreak.tables.rows import UNREADABLE_LABELS, Pair, Problem
from tiebreak.tables.table import read_rows
from tiebreak.tables.winner import WINNER_COLUMNS, winner_column
from tiebreak.terminal import one_line

PERCENTILES = (50, 90, 95, 99, 100)
ALIKE = 3
"""More bad rows than these, of one file and one reason, share a line."""
REFUSED = "(training refuses these; --on-bad-row skip leaves them out)"


@dataclass
class TableSummary:
    """Counts over the rows of one or more tables; texts are not kept, so memory stays small."""

    files: Sequence[Path]
    rows: int = 0
    classes: Counter[int | None] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    encodings: Counter[str] = field(default_factory=Counter)
    chars: list[tuple[int, int, int]] = field(default_factory=list)
    longer_wins: int = 0
    decided: int = 0
    first_files: dict[str, Path] = field(default_factory=dict)
    id_rows: dict[tuple[Path, str], int] = field(default_factory=dict)
    contents: Counter[bytes] = field(default_factory=Counter)
    prompts: dict[bytes, set[Path]] = field(default_factory=dict)
    prompt_rows: Counter[bytes] = field(default_factory=Counter)
    identical_with_winner: list[str] = field(default_factory=list)
    both_empty: int = 0
    problems: list[Problem] = field(default_factory=list)
    label_columns: bool = False
    numeric_labels: bool = False
    unused_columns: list[str] = field(default_factory=list)

    @property
    def names(self) -> str:
        """The files' names, for messages."""
        return ", ".join(path.name for path in self.files)

    def add(self, pair: Pair, path: Path) -> None:
        """Count a row of a file."""
        first_file = self.first_files.setdefault(pair.id, path)
        if earlier := self.id_rows.get((path, pair.id)):
            reason = f"the id occurs already in this file, row {earlier}"
            self.problems.append(Problem(pair.file, pair.row, pair.id, reason))
            return
        self.id_rows[path, pair.id] = pair.row
        self.encodings["ids of an earlier file (renamed in training)"] += first_file != path
        self.rows += 1
        self.classes[pair.label] += 1
        self.turns[len(pair.prompt)] += 1
        prompt, a, b = (sum(map(len, part)) for part in (pair.prompt, pair.response_a, pair.response_b))
        self.chars.append((prompt, a, b))
        if pair.label in (0, 1) and a != b:
            self.decided += 1
            self.longer_wins += (a > b) == (pair.label == 0)
        self.both_empty += a == b == 0
        if pair.response_a == pair.response_b and pair.label in (0, 1) and a:
            self.identical_with_winner.append(f"{pair.file}, row {pair.row} (id {pair.id})")
        self.contents[_digest(repr((pair.prompt, pair.response_a, pair.response_b)))] += 1
        folded = _digest(normalise_prompt(pair.prompt))
        self.prompts.setdefault(folded, set()).add(path)
        self.prompt_rows[folded] += 1

    def __str__(self) -> str:
        """The summary as a command prints it."""
        lines = [
            f"{self.names}: {plural(self.rows, 'row')}, {plural(len(self.problems), 'bad row')}",
            *self._label_faults(),
            *self._class_lines(),
        ]
        if self.rows:
            lines += self._size_lines()
        if self.decided:
            lines.append(f"the longer answer wins {self.longer_wins / self.decided:.1%} of decided rows")
        handled = ", ".join(
            f"{kind} {count:,}" for kind, count in sorted(self.encodings.items()) if count and kind != UNREADABLE_LABELS
        )
        lines.append(f"unusual encodings that were handled: {handled or 'none'}")
        copies = sum(count - 1 for count in self.contents.values())
        lines.append(f"exact duplicates: {plural(copies, 'row')}; both answers empty: {plural(self.both_empty, 'row')}")
        lines.append(f"identical answers with a winner: {plural(len(self.identical_with_winner), 'row')}")
        lines += [f"  {where}" for where in self.identical_with_winner]
        repeated = [count for count in self.prompt_rows.values() if count > 1]
        lines.append(
            f"prompts that occur more than once (case and spacing folded): {len(repeated):,}, in {sum(repeated):,} "
            "rows; folds keep them together, a random split would leak them"
        )
        if len(self.files) > 1:
            across = sum(len(files) > 1 for files in self.prompts.values())
            lines.append(f"prompts in more than one of these files: {across:,}")
        return "\n".join(lines)

    def _label_faults(self) -> list[str]:
        """How many of the bad rows have texts that can be read: a prediction takes them as they are."""
        rows = self.encodings[UNREADABLE_LABELS]
        return (
            [f"{plural(rows, 'bad row')} with nothing wrong but the label: no use to training, and predict takes them"]
            if rows
            else []
        )

    def _class_lines(self) -> list[str]:
        labelled = self.rows - self.classes[None]
        if not labelled:
            return [self._why_unlabelled()]
        shares = ", ".join(
            f"{name} {self.classes[label]:,} ({self.classes[label] / labelled:.1%})"
            for label, name in enumerate(CLASS_NAMES)
        )
        lines = [
            f"classes: {shares}" + (f"; unlabelled {self.classes[None]:,} {REFUSED}" if self.classes[None] else "")
        ]
        if self.numeric_labels:
            lines.append("the labels are numbers, read as 0 = A, 1 = B, 2 = tie")
        if absent := describe_absent(label for label, count in self.classes.items() if count):
            lines.append(absent)
        return lines

    def _why_unlabelled(self) -> str:
        if self.label_columns:
            return f"no labels: the winner columns are empty {REFUSED}" if self.rows else "no labels"
        others = printable(", ".join(self.unused_columns)) or "none"
        return f"no labels: none of the columns {', '.join(WINNER_COLUMNS)}; other columns: {others}"

    def _size_lines(self) -> list[str]:
        multi = self.rows - self.turns[1]
        lines = [f"turns: {plural(multi, 'row')} with several ({multi / self.rows:.1%}), at most {max(self.turns)}"]
        heads = ["mean", *(f"p{p}" if p < 100 else "max" for p in PERCENTILES)]
        lines.append(f"{'characters':12}" + "".join(f"{head:>10}" for head in heads))
        sizes = np.array(self.chars, dtype=np.int64)
        for name, column in (("prompt", sizes[:, 0]), ("answers", sizes[:, 1:].ravel()), ("row", sizes.sum(1))):
            values = "".join(f"{value:>10,.0f}" for value in np.percentile(column, PERCENTILES))
            lines.append(f"{name:12}{column.mean():>10,.0f}{values}")
        return lines


@dataclass
class TableCheck:
    """Summaries of training tables and, where given, of test tables that must share no prompt with them."""

    train: TableSummary
    test: TableSummary | None = None

    @property
    def problems(self) -> list[Problem]:
        """All rows that cannot be used."""
        return self.train.problems + (self.test.problems if self.test else [])

    def __str__(self) -> str:
        """Both summaries, the prompts that they share, and the bad rows: a line each, or one for many of one reason."""
        lines = [str(self.train)]
        if self.test:
            shared = self.train.prompts.keys() & self.test.prompts.keys()
            rows = sum(self.test.prompt_rows[prompt] for prompt in shared)
            lines += [f"\n{self.test}", f"\nprompts in both {self.train.names} and {self.test.names}: {len(shared):,}"]
            lines[-1] += f", in {rows:,} rows of the second"
        return "\n".join([*lines, *_list_problems(self.problems)])


def check(files: Sequence[Path], test: Sequence[Path] = ()) -> TableCheck:
    """Summarise tables and list every bad row.

    Args:
        files: training tables, or the tables to look at.
        test: tables that must share no prompt with them.

    Raises:
        UserError: a file as a whole is unusable.
    """
    return TableCheck(summarise(files), summarise(test) if test else None)


def summarise(files: Sequence[Path]) -> TableSummary:
    """Read tables row by row into one summary.

    Raises:
        UserError: a file as a whole is unusable.
    """
    summary = TableSummary(files)
    for path in files:
        for row in read_rows(path, summary.encodings):
            if isinstance(row, Problem):
                row.cells = {}
                summary.problems.append(row)
            else:
                summary.add(row, path)
        table = open_table(path, Counter())
        summary.label_columns |= table.labelled
        summary.numeric_labels |= _has_numeric_labels(table)
        summary.unused_columns += [name for name in table.unused if name not in summary.unused_columns]
    return summary


def _has_numeric_labels(table: OpenTable) -> bool:
    """Whether the first rows of a table in Kaggle's columns name the winner by numbers alone."""
    column = winner_column(table.columns)
    if column is None or (table.layout is not None and table.layout.read is not None):
        return False
    head = itertools.islice(table.rows, SNIFFED_ROWS)
    values = [cells.get(column) for _, cells in head if not isinstance(cells, str)]
    words = {str(value).strip().removesuffix(".0") for value in values if value is not None} - {""}
    return bool(words) and words <= {"0", "1", "2"}


def _list_problems(problems: Sequence[Problem]) -> list[str]:
    """A line for each bad row; more than `ALIKE` of one file and one reason share a line."""
    alike: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        alike.setdefault((problem.file, problem.reason), []).append(problem)
    lines = []
    for problem in problems:
        group = alike[problem.file, problem.reason]
        if len(group) <= ALIKE:
            lines.append(f"bad row: {problem}")
        elif problem is group[0]:
            rows = f"rows {_spans([one.row for one in group])}"
            told = f"{len(group):,} bad rows: {problem.file}, {rows}: {problem.reason}"
            lines.append(one_line(replace_lone_surrogates(told)))
    return lines


def _spans(numbers: Sequence[int]) -> str:
    """Rising numbers in a few words: `1, 3-5`."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1][1:] = [number]
        else:
            spans.append([number])
    return ", ".join("-".join(map(str, span)) for span in spans)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=12).digest()
