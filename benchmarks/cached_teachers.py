"""A distillation step from cached teachers against the same step with the teacher run beside it, eight times as large.

    python benchmarks/cached_teachers.py --threads 2

The student is a DeBERTa of 3 layers, 192 wide; the teacher one of 6 layers, 384 wide: eight times the products of a
token. `tiebreak distill` reads the teacher's predictions once, before the first step; the peer is the same loop with a
forward pass of the teacher over the rows of each step, by our own fastest path. Each trains in a process of its own and
does one step when it is its turn. Both see the same rows, so their losses must be equal. What the cache costs once, a
prediction of the table, is left out: that is one forward pass of the teacher, whatever the number of epochs.
"""

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from subjects import LONGEST, SIZES, enlarged, run_tiebreak, train_judge, write_rows
from timing import Gate, peer, record, run_claim, stepping, take_turns
from train_speed import MOST_STEPS, train_ours

STUDENT = SIZES | {"num_hidden_layers": 3}
TEACHER = SIZES | {"hidden_size": 384, "pooler_hidden_size": 384, "intermediate_size": 1_536, "num_hidden_layers": 6}


def train_online(gate: Gate, words: list[str], teacher: Path) -> None:
    """The same command, but for the teacher's logits, which are computed with each batch."""
    import torch

    from tiebreak.api import Judge
    from tiebreak.training import loop

    judge, make_batch = Judge.load(teacher, "cpu", "fp32").model, loop.make_batch

    def make_with_teacher(*arguments, **keywords):
        batch = make_batch(*arguments, **keywords)
        with torch.no_grad():
            return replace(batch, teachers=judge(*batch.inputs)[None])

    loop.make_batch = make_with_teacher
    train_ours(gate, words)


def measure(options: argparse.Namespace, folder: Path) -> Iterator[dict]:
    """One table, one teacher, one student."""
    from tiebreak.config import load_recipe

    longest = 512 if options.quick else LONGEST
    table = write_rows(folder / "table.csv", options.rows)
    teacher = train_judge("demo-deberta", folder, longest, TEACHER)
    run_tiebreak("predict", "--model", teacher, "--data", table, "--out", folder / "teacher")
    base = enlarged(load_recipe("distill-demo").model.base, folder / "student", STUDENT)
    changes = [f"data.max_tokens={longest}", "data.swap=never", f"train.batch_size={options.rows}"]
    changes += [f"train.max_steps={MOST_STEPS}", f"train.epochs={MOST_STEPS}", f"train.eval_every={MOST_STEPS}"]
    changes += ["train.precision=fp32"]
    words = ["distill", "--recipe", "distill-demo", "--model", base, "--data", table, "--valid", "none"]
    words += ["--teachers", folder / "teacher", "--allow-in-sample"]
    words = [str(word) for word in (*words, *(word for change in changes for word in ("--set", change)))]
    targets = {
        "cached": (train_ours, [*words, "--out", str(folder / "cached")]),
        "online": (train_online, [*words, "--out", str(folder / "online")], teacher),
    }
    with contextlib.ExitStack() as started:
        ways = {
            name: started.enter_context(stepping(*target, threads=options.threads)) for name, target in targets.items()
        }
        turns = take_turns(ways, options.rounds, warm=0)
    losses = [dict(told) for told in turns.results.values()]
    apart = max(abs(loss - losses[1][step]) for step, loss in losses[0].items())
    rates = turns.rates(options.rows)
    setting = f"deberta 3 x 192 from a teacher of 6 x 384, {options.rows} rows a step"
    shown = [peer("teacher beside the student", rates["online"])]
    yield record(setting, "rows/s", rates["cached"], shown, f"losses to {apart:.0e}", seconds=turns.raw)


if __name__ == "__main__":
    run_claim(__doc__, measure, rows={"type": int, "default": 16})
