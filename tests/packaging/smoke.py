"""Run every command of an installed tiebreak once, on tiny tables, in an empty folder outside any clone.

    cd $(mktemp -d) && PYTHONPATH=CLONE/tests:CLONE/tests/hostile python CLONE/tests/packaging/smoke.py

All run in processes that are forked from this one, after its imports. It prints a line for each command, and ends
with 1 if any of them failed. With `--quick` only those run that look for files of the package, and the help of all.
"""

import json
import sys
import tempfile
from pathlib import Path

from fault_commands import CHAIN, COMMANDS, LADDER, MADE
from yaml import safe_dump

import tiebreak
from tiebreak.overview import COMMANDS as ALL
from tiebreak.pipeline.warm import ForkedCommand, warm_up

HERE = Path(tiebreak.__file__).parent
BARS = [{"input": f"is it {k}?", "output_1": f"it is {k}.", "output_2": "no.", "label": 1 + k % 2} for k in range(8)]
BEST = '{"prompt": "is it?", "response": "yes"}\n{"prompt": "is it?", "response": "no"}\n'
SPACE = {"sampler": "grid", "rungs": 1, "space": {"train.lr": [1e-3, 1e-4]}, "set": ["train.max_steps=1"]}
DEMO = ["--recipe", "demo-deberta", "--data", "t.csv"]
MORE = {
    "compare": ["compare", "yes", "no", "--prompt", "is it?", "--model", "judge"],
    "best-of": ["best-of", "best.jsonl", "--model", "judge", "--out", "best.csv"],
    "preflight": ["preflight", *DEMO, "--ds", "ds_configs/zero2.json"],
    "recipes": ["recipes", "gemma2-9b"],
    "weights": ["weights"],
    "env": ["env"],
    "launch-files": ["launch-files", "launched"],
    "sweep": ["sweep", "space.yaml", *DEMO, "--out", "sweep"],
}
"""Commands that leave nothing to compare, beside those of `fault_commands`."""
QUICK = ("check", "report", "preflight", "recipes", "weights", "env", "launch-files")


def succeeds(words: list[str]) -> bool:
    """Whether a command ends with 0; what it said is shown if not."""
    with tempfile.TemporaryFile() as output:
        code = ForkedCommand(words, output.fileno()).wait()
        output.seek(0)
        said = output.read().decode(errors="replace")
    print(f"{'ok' if code == 0 else f'exit code {code}':12} tiebreak {' '.join(words)}", flush=True)
    if code != 0 or not said.strip():
        print(said)
    return code == 0


def main() -> int:
    assert not (Path.cwd() / "src").exists(), "a folder outside the repository, please"
    print(f"tiebreak {tiebreak.__version__} in {HERE}, Python {sys.version.split()[0]}", flush=True)
    warm_up()
    Path("bar.json").write_text(json.dumps(BARS))
    Path("best.jsonl").write_text(BEST)
    Path("chain.yaml").write_text(safe_dump(CHAIN))
    Path("space.yaml").write_text(safe_dump(SPACE))
    Path("ladder.yaml").write_text(safe_dump(LADDER))
    real = {name: words for name, (words, _) in COMMANDS.items()} | MORE
    assert set(real) == set(ALL), set(real) ^ set(ALL)
    quick = "--quick" in sys.argv[1:]
    made = [MADE[name] for name in (("t.csv", "e.csv", "judge", "given") if quick else MADE)]
    steps = [*made, *(words for name, words in real.items() if not quick or name in QUICK)]
    steps += [*([name, "--help"] for name in ALL), ["--help"], ["--version"]]
    failed = [words for words in steps if not succeeds(words)]
    print(f"{len(steps) - len(failed)} of {len(steps)} commands passed")
    return len(failed) > 0


if __name__ == "__main__":
    sys.exit(main())
