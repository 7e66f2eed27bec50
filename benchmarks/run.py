"""Run every claim of speed on this machine, print one table, and write it into docs/performance.md.

    python benchmarks/run.py                         # all that is not there yet, on one thread and on all
    python benchmarks/run.py --only train attention  # some
    python benchmarks/run.py --threads 2             # on two threads alone
    python benchmarks/run.py --anew                  # measure again what is there
    python benchmarks/run.py --write                 # measure nothing, write the page from what is kept
    python benchmarks/run.py --quick                 # small sizes against floors; nothing is written

Each claim is a script of this folder; ours and its peers take turns, with the same weights, rows and threads. Nothing
else may run beside them. What was measured is kept in runs/benchmarks, a file for each claim and number of threads, so
a run that was stopped goes on where it was. Peers that are not installed are named: see requirements.txt.

`--quick` measures what has a floor in floors.json, on this kind of processor, and fails where a ratio to a peer is more
than a fifth below the one there; `--quick --record` measures and writes that file.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import date
from typing import NamedTuple

from timing import HERE, floor_of, machine, ratio

ROOT = HERE.parent
KEPT, DOCS, FLOORS = ROOT / "runs" / "benchmarks", ROOT / "docs" / "performance.md", HERE / "floors.json"
TABLE, PROFILE = "measured", "profile"
"""Names of the two parts of the page that are written here, between comments."""
REGRESSION = 0.8
"""Of a recorded ratio: what is below it has lost a fifth."""


class Claim(NamedTuple):
    """A script, what it claims, whether it is measured by number of threads, and options below all cores."""

    script: str
    what: str
    by_threads: bool = True
    fewer: tuple[str, ...] = ()
    quick: bool = False


CLAIMS = {
    "attention": Claim("attention.py", "attention", quick=True),
    "single": Claim("single_row.py", "one row at a time", quick=True),
    "products": Claim("products.py", "matrix products"),
    "train": Claim("train_speed.py", "training", fewer=("--no-all",), quick=True),
    "predict": Claim("predict_speed.py", "prediction", fewer=("--no-all",), quick=True),
    "teachers": Claim("cached_teachers.py", "distillation from cached teachers", by_threads=False),
    "frozen": Claim("frozen_cache.py", "frozen layers kept", by_threads=False),
    "workers": Claim("workers.py", "two workers, one table", by_threads=False),
    "first": Claim("first_step.py", "first step after the start", by_threads=False),
    "tokenise": Claim("tokenise.py", "tokenisation", by_threads=False),
    "straggle": Claim("straggle.py", "waiting for the fullest rank", by_threads=False, quick=True),
    "planning": Claim("planning.py", "planning", by_threads=False),
}


def source_hash() -> str:
    """Of the code that is measured."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src" / "tiebreak").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def run_script(claim: Claim, threads: int, *options: str) -> list[dict]:
    """The records that a script prints."""
    command = [sys.executable, str(HERE / claim.script), "--threads", str(threads), *options]
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: list[dict] = json.loads(done.stdout)
    return found


def measure(name: str, threads: int, anew: bool) -> dict:
    """What is kept of a claim, measured now unless it is there, of this code and this machine."""
    path, claim = KEPT / f"{name}-{threads}.json", CLAIMS[name]
    now = {"machine": machine(), "source": source_hash()}
    if path.is_file() and not anew:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if {key: kept[key] for key in now} == now:
            return kept
    began = time.monotonic()
    fewer = claim.fewer if threads < (os.cpu_count() or 1) else ()
    records = run_script(claim, threads, *fewer)
    kept = now | {"claim": name, "threads": threads, "day": str(date.today()), "records": records}
    kept["minutes"] = round((time.monotonic() - began) / 60, 2)
    KEPT.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return kept


def shown(figure: float | None, unit: str) -> str:
    """A figure in four digits."""
    if figure is None:
        return ""
    digits = 0 if figure >= 1_000 else 1 if figure >= 100 else 2 if figure >= 10 else 3
    return f"{figure:,.{digits}f} {'times' if unit == 'x' else unit}"


def count_threads(found: dict) -> str:
    """Of a record."""
    return f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}"


HEAD = ("setting", "tiebreak", "peer", "as it comes, **ratio**", "at its best, **ratio**", "parity")


def rows_of(kept: dict) -> Iterable[list[str]]:
    """Lines of a claim's table: one for each peer of a record."""
    for found in kept["records"]:
        unit = found["unit"]
        by_threads = CLAIMS[kept["claim"]].by_threads
        setting = found["setting"] + (f"; {count_threads(found)}" if by_threads else "")
        for one in found["peers"] or [None]:
            cells = [setting, shown(found["ours"], unit)]
            if one is None:
                yield [*cells, "", "", "", found["parity"]]
                continue
            how = f" ({one['how']})" if one["how"] else ""
            figures = [
                "" if one[key] is None else f"{shown(one[key], unit)}{more}, **{ratio(found, one[key]):.2f}**"
                for key, more in (("comes", ""), ("best", how))
            ]
            yield [*cells, f"{one['library']}{' (not installed)' if one['absent'] else ''}", *figures, found["parity"]]


def as_table(kept: Iterable[dict]) -> str:
    """In Markdown, a table for each claim below the machine that it was measured on."""
    by_machine: dict[str, list[dict]] = {}
    for one in kept:
        by_machine.setdefault(one["machine"], []).append(one)
    parts = []
    for name, some in by_machine.items():
        days = sorted({one["day"] for one in some})
        parts.append(f"{days[0] if len(days) == 1 else f'{days[0]} to {days[-1]}'}, {name}:\n")
        for claim in dict.fromkeys(one["claim"] for one in some):
            lines = [row for one in some if one["claim"] == claim for row in rows_of(one)]
            parts.append(f"**{CLAIMS[claim].what.capitalize()}**\n\n{as_columns(lines)}")
    return "\n".join(parts)


def as_columns(lines: list[list[str]]) -> str:
    """A table in Markdown without the columns that are empty."""
    full = [k for k in range(len(HEAD)) if any(line[k] for line in lines)]
    rows = [HEAD, ["---"] * len(HEAD), *lines]
    return "".join(f"| {' | '.join(row[k] for k in full)} |\n" for row in rows)


def as_profile(kept: Iterable[dict]) -> str:
    """Where a training step's time goes, in Markdown."""
    found = {
        f"{one['setting'].partition(',')[0]}, {one['threads']} thread{'s' if one['threads'] > 1 else ''}": one[
            "profile"
        ]
        for part in kept
        for one in part["records"]
        if "profile" in one
    }
    if not found:
        return "Not measured yet.\n"
    kinds = sorted(
        {kind for each in found.values() for kind in each}, key=lambda k: -max(e.get(k, 0) for e in found.values())
    )
    lines = [["share of a training step", *found], ["---"] * (len(found) + 1)]
    lines += [[kind, *(f"{each.get(kind, 0):.0%}" for each in found.values())] for kind in kinds]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def put(page: str, name: str, text: str) -> str:
    """A page with another text between the comments of this name."""
    before, after = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    head, _, rest = page.partition(before)
    _, _, tail = rest.partition(after)
    return f"{head}{before}{text}{after}{tail}"


def write_page(kept: list[dict]) -> None:
    """The tables into docs/performance.md."""
    page = DOCS.read_text(encoding="utf-8")
    page = put(put(page, TABLE, as_table(kept)), PROFILE, as_profile(kept))
    DOCS.write_text(page, encoding="utf-8")


def all_kept() -> list[dict]:
    """What is kept, in the order of the claims."""
    files = sorted(KEPT.glob("*.json"))
    found = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    return sorted(found, key=lambda one: (list(CLAIMS).index(one["claim"]), one["threads"]))


def quick(only: list[str], record: bool) -> int:
    """Ratios at small sizes against the floors of this kind of processor; returns the exit code."""
    processor = machine().partition(";")[0]
    floors: dict[str, dict[str, float]] = json.loads(FLOORS.read_text()) if FLOORS.is_file() else {}
    known, measured, failed = floors.get(processor, {}), {}, []
    for name in only:
        if CLAIMS[name].quick:
            for found in run_script(CLAIMS[name], os.cpu_count() or 1, "--quick"):
                if (now := floor_of(found)) is not None:
                    measured[f"{name}: {found['setting']}"] = round(now, 3)
    for setting, now in measured.items():
        least = known[setting] * REGRESSION if setting in known else None
        bad = least is not None and now < least
        failed += [setting] if bad else []
        against = (
            "no floor for this processor" if least is None else f"at least {least:.2f}{': TOO SLOW' if bad else ''}"
        )
        print(f"{setting}: {now:.2f} times the peer; {against}")
    if record:
        FLOORS.write_text(json.dumps(floors | {processor: known | measured}, indent=2, sort_keys=True) + "\n")
    return 1 if failed and not record else 0


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(CLAIMS), default=list(CLAIMS), metavar="CLAIM")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--anew", action="store_true", help="measure again what is kept")
    parser.add_argument("--write", action="store_true", help="measure nothing, write the page")
    parser.add_argument("--quick", action="store_true", help="small sizes, against floors")
    parser.add_argument("--record", action="store_true", help="with --quick: write the floors")
    return parser.parse_args(words)


def run_all(options: argparse.Namespace, run: Callable[[str, int, bool], dict] = measure) -> None:
    """Measure what is asked for; write the page once every claim is kept, or where `--write` says so."""
    for name in () if options.write else options.only:
        for threads in options.threads if CLAIMS[name].by_threads else [max(options.threads)]:
            kept = run(name, threads, options.anew)
            print(as_table([kept]), flush=True)
    kept = all_kept()
    absent = [name for name in CLAIMS if name not in {one["claim"] for one in kept}]
    if absent and not options.write:
        print(f"{DOCS.name} is not written yet: {', '.join(absent)} to be measured (--write takes what is there)")
        return
    write_page(kept)


if __name__ == "__main__":
    chosen = parse()
    sys.exit(quick(chosen.only, chosen.record) if chosen.quick else run_all(chosen))
