"""Run every claim of speed on this machine, and write them into docs/performance.md.

    python benchmarks/run.py                    # all; a quarter of an hour on an idle machine
    python benchmarks/run.py --only attention   # one, printed and not written
    python benchmarks/run.py --quick            # all at small sizes, to see that they run; nothing is written

Each claim is a script of this folder that prints one JSON object for each setting: ours and the peers in turns, in one
process, with the same weights, rows and threads. Nothing else may run beside it.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs" / "performance.md"
MARKS = ("<!-- measured -->\n", "<!-- /measured -->\n")
RECIPES = ("demo-gemma2", "demo-deberta")
CLAIMS = ("train", "predict", "attention")
WHOLE = {
    "train": ("training", 16, "real_tokens_per_second", "tokens/s", "losses", "largest_loss_difference"),
    "predict": ("prediction", 32, "rows_per_second", "rows/s", "logits", "largest_logit_difference"),
}
"""What is measured, rows, the figure and its unit, what is compared, and its difference."""
Row = tuple[str, str, str, str, str]
"""What, setting, ours, the ratio to each peer, parity."""


def run_script(script: str, *options: object) -> list[dict]:
    """The JSON that a script prints."""
    command = [sys.executable, str(HERE / script), *map(str, options)]
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    decoder, text, found = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        thing, end = decoder.raw_decode(text)
        found.append(thing)
        text = text[end:].strip()
    return found


def ratios(found: dict[str, float]) -> str:
    """Each peer with its ratio."""
    return ", ".join(f"{peer} **{ratio:.1f}**" for peer, ratio in found.items())


def whole(claim: str, threads: int, quick: bool, rounds: int) -> list[Row]:
    """Training or prediction of whole models, a row for each of the `RECIPES`."""
    what, rows, rate, unit, compared, difference = WHOLE[claim]
    sizes = ("--rows", 16, "--rounds", 1, "--max-tokens", 256) if quick else ("--rows", rows, "--rounds", rounds)
    told = []
    for recipe in RECIPES:
        (found,) = run_script(f"{claim}_speed.py", "--recipe", recipe, "--threads", threads, *sizes)
        setting = f"{recipe.removeprefix('demo-')}, {found['mean_tokens']:.0f} tokens a row, {threads} thread(s)"
        parity = f"{compared} to {found[difference]:.0e}"
        told.append((what, setting, f"{found[rate]['tiebreak']:,} {unit}", ratios(found["ratio"]), parity))
    return told


def attention(threads: int, quick: bool) -> list[Row]:
    """Attention alone, a row for each length."""
    sizes = ("--lengths", 256, "--rounds", 1) if quick else ("--lengths", 512, 1024, 2048, "--rounds", 5)
    rows = []
    for found in run_script("attention.py", "--threads", threads, *sizes):
        took = found["milliseconds"]
        ours = f"{took['forward']['tiebreak']} ms, with backward {took['both']['tiebreak']} ms"
        peak = found["peak_mib"]
        memory = f"; {peak['tiebreak']:.0f} MiB against {peak['transformers']:.0f}"
        both = {"eager forward": found["ratio"]["forward"], "with backward": found["ratio"]["both"]}
        parity = f"outputs to {found['largest_difference']['outputs']:.0e}"
        parity += f", gradients to {found['largest_difference']['gradients']:.0e}"
        setting = f"Gemma-2's, {found['length']} tokens, {threads} thread(s)"
        rows.append(("attention", setting, ours, ratios(both) + memory, parity))
    return rows


def measure(claim: str, threads: int, quick: bool, rounds: int) -> list[Row]:
    """The rows of a claim; attention takes five rounds, as they are short."""
    return attention(threads, quick) if claim == "attention" else whole(claim, threads, quick, rounds)


def machine() -> str:
    """The processor and the versions that count."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{date.today()}, {name}; torch {version('torch')}, transformers {version('transformers')}"


def table(rows: list[Row]) -> str:
    """In Markdown."""
    lines = ["| what | setting | tiebreak | times as fast as | parity |", "|---|---|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows]) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=CLAIMS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, nargs="+", default=[os.cpu_count()])
    parser.add_argument("--rounds", type=int, default=3, help="of training and prediction")
    options = parser.parse_args()
    claims = [options.only] if options.only else CLAIMS
    threads = options.threads[:1] if options.quick else options.threads
    rounds = 1 if options.quick else options.rounds
    measured = [row for claim in claims for count in threads for row in measure(claim, count, options.quick, rounds)]
    text = f"{machine()}:\n\n{table(measured)}"
    print(text)
    if not options.only and not options.quick:
        before, after = MARKS
        page = DOCS.read_text(encoding="utf-8")
        DOCS.write_text(page.split(before)[0] + before + text + after + page.split(after)[1], encoding="utf-8")
