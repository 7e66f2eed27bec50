"""Seconds from the start of a command to the end of its first training step: ours against a script with the Trainer.

    python benchmarks/first_step.py --rounds 9

Both start a new Python, read the same table of 256 short rows, tokenise it (the table has another name each time, so
that ours does not take the tokens from its cache), load the demo's DeBERTa and do one step over 16 rows; files are in
the page cache. The peer is the usual script: csv, a tokenizer, `AutoModelForSequenceClassification`, `Trainer`.
Nothing is compared but the time.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from timing import HERE, peer, record, run_claim, take_turns

ROWS, BATCH, LONGEST_ROW = 256, 16, 256
POLL_S = 0.01


def until_first_step(command: list[str], told: Path) -> None:
    """Run a command until it has told of its first step, then end it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (told.is_file() and told.stat().st_size):
            assert process.poll() is None, f"ended before its first step: {' '.join(command)}"
            time.sleep(POLL_S)
    finally:
        process.kill()
        process.wait()


def run_peer(folder: Path, told: Path) -> None:
    """The usual script."""
    import csv

    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    class Tell(TrainerCallback):
        def on_step_end(self, *arguments, **keywords) -> None:
            told.write_text("done")

    with open(folder / "table.csv", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    tokenizer = AutoTokenizer.from_pretrained(folder / "peer")
    texts = ["\n".join(row[name] for name in ("prompt", "response_a", "response_b")) for row in rows]
    encoded = tokenizer(texts, truncation=True, max_length=LONGEST_ROW)["input_ids"]
    labels = [[row[f"winner_{name}"] for name in ("model_a", "model_b", "tie")].index("1") for row in rows]
    data = [{"input_ids": ids, "labels": label} for ids, label in zip(encoded, labels, strict=True)]
    model = AutoModelForSequenceClassification.from_pretrained(folder / "peer", num_labels=3)
    arguments = TrainingArguments(
        str(folder / "trainer"),
        per_device_train_batch_size=BATCH,
        max_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
    )
    collator = DataCollatorWithPadding(tokenizer)
    Trainer(model, arguments, train_dataset=data, data_collator=collator, callbacks=[Tell()]).train()


def prepare(folder: Path) -> None:
    """A table, and the demo's model for the peer."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from tiebreak.models.bases import resolve_base
    from tiebreak.sample.generator import write_sample

    write_sample(folder / "table.csv", ROWS, seed=11)
    base = resolve_base("demo-deberta")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    model.save_pretrained(folder / "peer")
    AutoTokenizer.from_pretrained(base).save_pretrained(folder / "peer")


def measure(options: argparse.Namespace, folder: Path) -> Iterator[dict]:
    """Both in turn."""
    prepare(folder)
    count = iter(range(10_000))
    words = ["train", "--recipe", "demo-deberta", "--valid", "none"]
    words += ["--set", f"train.batch_size={BATCH}", "--set", f"data.max_tokens={LONGEST_ROW}"]

    def ours() -> None:
        out = folder / f"run-{next(count)}"
        table = shutil.copy(folder / "table.csv", folder / f"{out.name}.csv")
        command = [sys.executable, "-m", "tiebreak", *words, "--data", table, "--out", str(out)]
        until_first_step(command, out / "log.jsonl")

    def theirs() -> None:
        told = folder / f"told-{next(count)}"
        command = [sys.executable, str(HERE / "first_step.py"), "--peer", str(folder), "--told", str(told)]
        until_first_step(command, told)

    turns = take_turns({"tiebreak": ours, "Trainer": theirs}, options.rounds)
    setting = f"deberta, {ROWS} rows, from the start of Python"
    yield record(setting, "s", turns.of("tiebreak"), [peer("Trainer's script", turns.of("Trainer"))], seconds=turns.raw)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        run_peer(Path(sys.argv[2]), Path(sys.argv[4]))
    else:
        run_claim(__doc__, measure)
