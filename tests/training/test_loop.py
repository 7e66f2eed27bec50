"""What a training step waits for, and what it logs."""

import sys

import pytest
import torch
from training_runs import SHORT, set_, steps_of

from tiebreak.cli import main
from tiebreak.config import load_recipe
from tiebreak.training import loop, losses
from tiebreak.training.run import train


@pytest.mark.slow
def test_micro_batches_do_not_wait_for_the_device(sample, tmp_path, monkeypatch):
    """A step of many micro-batches gives Python as many values of tensors as one of a few: each makes a GPU idle."""
    honest = loop.train_step
    waits: list[int] = []
    micro_batches: list[int] = []

    def counted(job, step, index):
        with monkeypatch.context() as patch:
            calls: list[str] = []
            for name in ("__bool__", "__float__", "item", "tolist"):
                read = getattr(torch.Tensor, name)
                patch.setattr(torch.Tensor, name, lambda tensor, read=read: calls.append(read.__name__) or read(tensor))
            stop = honest(job, step, index)
        waits.append(len(calls))
        micro_batches.append(len(step.micro_batches[0]))
        return stop

    monkeypatch.setattr(loop, "train_step", counted)
    for budget in ("8192", "512"):
        changes = set_("train.max_steps=1", f"train.tokens_per_micro_batch={budget}")
        assert main(["train", "--data", str(sample), "--out", str(tmp_path / budget), *SHORT, *changes]) == 0
    assert micro_batches[1] > micro_batches[0] + 1
    assert waits[1] == waits[0] > 0


@pytest.mark.parametrize("broken", [(2,), (1, 3)])
def test_the_rows_of_every_faulty_micro_batch_are_named_and_no_others(broken, sample, tmp_path, capsys, monkeypatch):
    seen: list[list[str]] = []
    honest_batch, honest_loss = loop.make_batch, losses.cross_entropy

    def listening(tokens, rows, *arguments, **settings):
        seen.append([tokens.ids[row] for row in rows])
        return honest_batch(tokens, rows, *arguments, **settings)

    def faulty(logits, batch, **settings):
        loss = honest_loss(logits, batch, **settings)
        return loss * float("inf") if len(seen) in broken else loss

    monkeypatch.setattr(loop, "make_batch", listening)
    monkeypatch.setattr(losses, "cross_entropy", faulty)
    changes = set_("train.max_steps=1", "train.tokens_per_micro_batch=512")
    assert main(["train", "--data", str(sample), "--out", str(tmp_path / "run"), *SHORT, *changes]) == 2
    message = capsys.readouterr().err
    assert len(seen) > max(broken)
    named = message.partition("fault: ")[2].partition(". ")[0].split(", ")
    assert named == [row for number in broken for row in seen[number - 1]]


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        (["train.head_lr=5e-3"], {"lr": 1e-3, "head_lr": 5e-3}),
        (["train.head_lr=5e-3", "model.freeze=backbone"], {"lr": 5e-3}),
        (["train.layer_decay=0.5", "model.freeze=embeddings"], {"lr": 1e-3}),
    ],
    ids=["head", "frozen", "layers"],
)
def test_logged_rates_are_those_of_real_groups(changes, rates, sample, tmp_path):
    out = tmp_path / "run"
    fixed = set_("train.max_steps=2", "train.warmup=0", "train.schedule=constant", "train.lr=1e-3", *changes)
    command = ["train", "--recipe", "demo-deberta", "--data", str(sample), "--out", str(out), *SHORT, *fixed]
    assert main(command) == 0
    for record in steps_of(out):
        assert {name: record[name] for name in ("lr", "head_lr") if name in record} == rates


def test_a_program_gets_every_record_and_the_finished_run(sample, tmp_path):
    recipe = load_recipe("demo-deberta", ["train.max_steps=3", "data.max_tokens=64"])
    records: list[dict] = []
    finished = []
    run = train(recipe, data=[sample], out=tmp_path / "run", on_step=records.append, on_done=finished.append)
    assert records == steps_of(tmp_path / "run")
    assert [record["step"] for record in records] == [1, 2, 3]
    assert finished == [run]
    assert (run.steps, run.metrics["best_step"]) == (3, run.best_step)
    assert (run.model / "model.safetensors").is_file()
    assert not (run.model / "README.md").exists(), "the card is added by what calls training"


@pytest.mark.slow
def test_messages_are_written_above_the_progress_bar(sample, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    changes = set_("train.max_steps=2", "train.eval_every=1")
    assert main(["train", "--data", str(sample), "--out", str(tmp_path / "run"), *SHORT[:2], *changes]) == 0
    out, err = capsys.readouterr()
    assert "step 2/2  validation log loss" in out and "validation log loss" not in err
    assert "2/2" in err and "step/s" in err.replace("s/step", "step/s")
    assert out.count("validation log loss") == 2
