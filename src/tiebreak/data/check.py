"""`tiebreak check`: what is in a table, and what is wrong with it, row by row."""

import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tiebreak.data.cells import normalise_prompt
from tiebreak.data.table import Pair, Problem, read_rows
from tiebreak.files import write_atomically
from tiebreak.labels import CLASS_NAMES, TIE

PERCENTILES = (50, 90, 95, 99, 100)


@dataclass
class Findings:
    """Counts over the rows of one or more tables; texts are not kept, so memory stays small."""

    rows: int = 0
    classes: Counter = field(default_factory=Counter)
    turns: Counter = field(default_factory=Counter)
    oddities: Counter = field(default_factory=Counter)
    chars: list[tuple[int, int, int]] = field(default_factory=list)
    longer_wins: int = 0
    decided: int = 0
    ids: dict[str, str] = field(default_factory=dict)
    id_rows: Counter = field(default_factory=Counter)
    contents: Counter = field(default_factory=Counter)
    prompts: dict[bytes, set[str]] = field(default_factory=dict)
    prompt_rows: Counter = field(default_factory=Counter)
    identical_with_winner: list[str] = field(default_factory=list)
    both_empty: int = 0
    problems: list[Problem] = field(default_factory=list)

    def add(self, pair: Pair, path: str) -> None:
        where = f"{pair.file}, row {pair.row} (id {pair.id})"
        first = self.ids.setdefault(pair.id, path)
        if self.id_rows[path, pair.id]:
            reason = f"the id occurs already in this file, row {self.id_rows[path, pair.id]}"
            self.problems.append(Problem(pair.file, pair.row, pair.id, reason))
            return
        self.id_rows[path, pair.id] = pair.row
        self.oddities["ids of an earlier file (renamed in training)"] += first != path
        self.rows += 1
        self.classes[pair.label] += 1
        self.turns[len(pair.prompt)] += 1
        prompt, a, b = (sum(map(len, part)) for part in (pair.prompt, pair.response_a, pair.response_b))
        self.chars.append((prompt, a, b))
        if pair.label in (0, 1) and a != b:
            self.decided += 1
            self.longer_wins += (a > b) == (pair.label == 0)
        identical = pair.response_a == pair.response_b
        self.both_empty += a == b == 0
        if identical and pair.label in (0, 1) and a:
            self.identical_with_winner.append(where)
        self.contents[_digest(repr((pair.prompt, pair.response_a, pair.response_b)))] += 1
        folded = _digest(normalise_prompt(pair.prompt))
        self.prompts.setdefault(folded, set()).add(path)
        self.prompt_rows[folded] += 1


def check(files: Sequence[str], test: Sequence[str] = (), out: Path | None = None, skip_bad_rows: bool = False) -> int:
    """Tell what the tables hold and every problem; 0 if all rows are usable or bad ones may be skipped, else 2.

    Args:
        out: a file that gets the same text, last of all, and only where the answer is 0.
    """
    found = scan(files)
    lines = [describe(found, files)]
    problems = found.problems
    if test:
        other = scan(test)
        lines.append("\n" + describe(other, test))
        problems = problems + other.problems
        shared = found.prompts.keys() & other.prompts.keys()
        rows = sum(other.prompt_rows[prompt] for prompt in shared)
        lines.append(
            f"\nprompts in both {_names(files)} and {_names(test)}: {len(shared):,}, in {rows:,} rows of the second"
        )
    lines += [f"bad row: {problem}" for problem in problems]
    print("\n".join(lines))
    if problems and not skip_bad_rows:
        advice = f"{len(problems):,} bad rows; mend them, or train with --on-bad-row=skip"
        print(f"tiebreak: error: {advice}", file=sys.stderr)
        return 2
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, "\n".join(lines) + "\n")
    return 0


def scan(files: Sequence[str]) -> Findings:
    """Read tables row by row. Raises UserError where a file as a whole is unusable."""
    found = Findings()
    for name in files:
        for item in read_rows(Path(name), found.oddities):
            if isinstance(item, Problem):
                item.cells = {}
                found.problems.append(item)
            else:
                found.add(item, name)
    return found


def describe(found: Findings, files: Sequence[str]) -> str:
    """The findings as text."""
    labelled = found.rows - found.classes[None]
    lines = [f"{_names(files)}: {found.rows:,} rows, {len(found.problems):,} bad rows"]
    if labelled:
        shares = ", ".join(
            f"{name} {found.classes[k]:,} ({found.classes[k] / labelled:.1%})" for k, name in enumerate(CLASS_NAMES)
        )
        lines.append(f"classes: {shares}" + (f"; unlabelled {found.classes[None]:,}" if found.classes[None] else ""))
        if not found.classes[TIE]:
            lines.append("no ties: a judge trained on this table alone will hardly predict any")
    else:
        lines.append("no labels")
    if found.rows:
        multi = found.rows - found.turns[1]
        lines.append(f"turns: {multi:,} rows with several ({multi / found.rows:.1%}), at most {max(found.turns)}")
        heads = ["mean", *(f"p{p}" if p < 100 else "max" for p in PERCENTILES)]
        lines.append(f"{'characters':12}" + "".join(f"{head:>10}" for head in heads))
        sizes = np.array(found.chars, dtype=np.int64)
        for name, column in (
            ("prompt", sizes[:, 0]),
            ("answers", sizes[:, 1:].ravel()),
            ("row", sizes.sum(1)),
        ):
            values = "".join(f"{value:>10,.0f}" for value in np.percentile(column, PERCENTILES))
            lines.append(f"{name:12}{column.mean():>10,.0f}{values}")
    if found.decided:
        lines.append(f"the longer answer wins {found.longer_wins / found.decided:.1%} of decided rows")
    odd = ", ".join(f"{name} {count:,}" for name, count in sorted(found.oddities.items()) if count)
    lines.append(f"oddities read as they are meant: {odd or 'none'}")
    copies = sum(count - 1 for count in found.contents.values())
    lines.append(f"exact duplicates: {copies:,} rows; both answers empty: {found.both_empty:,} rows")
    lines.append(f"identical answers with a winner: {len(found.identical_with_winner):,} rows")
    lines += [f"  {where}" for where in found.identical_with_winner]
    repeated = [count for count in found.prompt_rows.values() if count > 1]
    lines.append(
        f"prompts that occur more than once (case and spacing folded): {len(repeated):,}, in {sum(repeated):,} rows; "
        "folds keep them together, a random split would leak them"
    )
    if len(files) > 1:
        across = sum(1 for where in found.prompts.values() if len(where) > 1)
        lines.append(f"prompts in more than one of these files: {across:,}")
    return "\n".join(lines)


def _names(files: Sequence[str]) -> str:
    return ", ".join(Path(name).name for name in files)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=12).digest()
