"""Run the corpus of hostile inputs: `python tests/hostile/corpus.py [--only PART] [--jobs N]`.

Prints what became of each kind; exit code 1 unless every case is right or told.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import cases_adapters
import cases_logs
import cases_models
import cases_names
import cases_options
import cases_predictions
import cases_recipes
import cases_slow
import cases_tables
from harness import GOOD, VERDICTS, Case, Judgement, build_world, run_all

PARTS = [
    module.PART
    for module in (
        cases_tables,
        cases_predictions,
        cases_logs,
        cases_recipes,
        cases_options,
        cases_models,
        cases_adapters,
        cases_names,
        cases_slow,
    )
]


def all_cases(only: str | None = None) -> list[Case]:
    """Every case, or those of one part; `PART:WORD` takes those whose kind or name holds the word."""
    part, _, word = (only or "").partition(":")
    cases = [case for part_ in PARTS for case in part_.cases if part in ("", part_.name)]
    return [case for case in cases if word in f"{case.kind} {case.name}"]


def tally(judged: list[Judgement]) -> str:
    """A table: verdicts by part and kind."""
    kinds = dict.fromkeys((j.case.part, j.case.kind) for j in judged)
    shown = [v for v in VERDICTS if v in GOOD or any(j.verdict == v for j in judged)]
    lines = [f"{'part':12} {'kind':44} " + " ".join(f"{verdict:>12}" for verdict in shown)]
    for part, kind in kinds:
        counts = Counter(j.verdict for j in judged if (j.case.part, j.case.kind) == (part, kind))
        lines.append(f"{part:12} {kind[:44]:44} " + " ".join(f"{counts[verdict] or '':>12}" for verdict in shown))
    total = Counter(j.verdict for j in judged)
    lines.append(f"{'all':57} " + " ".join(f"{total[verdict]:>12}" for verdict in shown))
    return "\n".join(lines)


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="PART[:WORD]", help=f"one of {', '.join(part.name for part in PARTS)}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="cases side by side")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep good material and bad cases here")
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    parser.add_argument("--messages", action="store_true", help="print every message")
    options = parser.parse_args()
    cases = all_cases(options.only)
    if not cases:
        parser.error(f"no case of {options.only}")
    if options.list:
        print("\n".join(f"{case.part}: {case.kind}: {case.name}" for case in cases))
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    kept = options.keep or Path(tempfile.mkdtemp(prefix="hostile-"))
    started = time.monotonic()
    try:
        world = build_world(kept.resolve() / "world")
        shutil.rmtree(kept / "cases", ignore_errors=True)
        judged = run_all(cases, world, kept.resolve() / "cases", options.jobs)
    finally:
        if options.keep is None:
            shutil.rmtree(kept, ignore_errors=True)
    for number, j in enumerate(judged):
        if j.verdict not in GOOD:
            print(f"{j.verdict}: {number:04d} {j.case.part}: {j.case.name}\n    {j.why}")
        elif options.messages:
            print(f"{j.verdict}: {j.case.part}: {j.case.name}\n    {j.outcome.message or j.outcome.out[-200:]}")
    print(tally(judged))
    slowest = max(judged, key=lambda j: j.outcome.seconds)
    took = time.monotonic() - started
    print(f"{len(judged)} cases in {took:.0f} s; the slowest took {slowest.outcome.seconds:.0f} s: {slowest.case.name}")
    return 0 if all(j.verdict in GOOD for j in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
