"""Training from the command line: the run folder, resuming, stopping, launchers, and users' mistakes."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import SHORT, set_, steps_of

from tiebreak.cli import main
from tiebreak.cluster.ranks import find_ranks
from tiebreak.config import load_recipe
from tiebreak.data.split import RowsManifest
from tiebreak.errors import UserError
from tiebreak.models.preference import PreferenceModel
from tiebreak.training import losses
from tiebreak.training.run_folder import open_folder

pytestmark = pytest.mark.slow

WEIGHTS = "weights-00000-of-00001.safetensors"
WEIGHT = "network.base_model.model.score.modules_to_save.default.weight"


def told_of(folder):
    """The steps' records without what the clock and the process give."""
    given = ("seconds", "tokens_per_second", "memory_gib")
    return [{key: value for key, value in record.items() if key not in given} for record in steps_of(folder)]


def test_run_folder_holds_all_that_the_contract_names(sample, drawn_curves, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "--data", str(sample), "--out", str(out), *SHORT, *set_("train.max_steps=6")]) == 0
    text = capsys.readouterr().out
    for name in ("recipe.yaml", "environment.json", "log.jsonl", "checkpoints", "model", "metrics.json", "curves.png"):
        assert (out / name).exists(), name
    steps = steps_of(out)
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    assert {"step", "loss", "lr", "grad_norm", "tokens", "seconds"} <= steps[0].keys()
    rows = json.loads((out / "metrics.json").read_text())["validation"]
    assert set(rows) == {"prior", "length", "model", "bayes"}
    assert rows["prior"]["gap_closed"] == 0 and rows["bayes"]["gap_closed"] == 1
    assert rows["bayes"]["log_loss"] < min(rows[name]["log_loss"] for name in ("prior", "length", "model"))
    assert "bayes" in text and "gap closed" in text
    environment = json.loads((out / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["rows_trained"] + environment["rows_held_out"] == 400
    assert environment["gradient_checkpointing"] is False and environment["micro_batches_cut_in"] == 1


def test_rows_are_compared_with_those_the_run_was_begun_with(tmp_path):
    """Also with a rows.json of the version before, which had no version and a null for no fold."""
    recipe, ranks = load_recipe("demo-llama2"), find_ranks()
    split = {"data": ["t.csv"], "tokens": "k1", "valid": "k2", "fold": None, "rows_trained": 90, "rows_held_out": 10}
    rows = RowsManifest(**split)
    open_folder(tmp_path, recipe, rows, True, ranks)
    assert json.loads((tmp_path / "rows.json").read_text())["version"] == 1
    (tmp_path / "rows.json").write_text(json.dumps(split | {"teachers": [["t", "parts-1"]]}))
    open_folder(tmp_path, recipe, rows.model_copy(update={"teachers": [["t", "parts-1"]]}), True, ranks)
    for other, changed in (
        (rows, "teachers: [['t', 'parts-1']] then, None now"),
        (rows.model_copy(update={"teachers": [["t", "parts-1"]], "tokens": "k3"}), "tokens: 'k1' then, 'k3' now"),
    ):
        with pytest.raises(UserError) as refused:
            open_folder(tmp_path, recipe, other, True, ranks)
        assert changed in str(refused.value) and str(tmp_path) in str(refused.value)


def test_a_few_rows_are_learnt_by_heart(tmp_path, sample):
    table, out = tmp_path / "few.csv", tmp_path / "run"
    table.write_text("".join(sample.read_text().splitlines(keepends=True)[:17]))
    changes = set_("train.epochs=40", "train.lr=3e-3", "train.eval_every=1000", "data.swap=never")
    assert main(["train", "--data", str(table), "--valid", "none", "--out", str(out), *SHORT, *changes]) == 0
    losses = [record["loss"] for record in steps_of(out)]
    assert sum(losses[:5]) / 5 > 1.0
    assert sum(losses[-5:]) / 5 < 0.3


@pytest.mark.parametrize("optimizer", ["adamw", "adamw-fused", "paged-adamw-8bit"])
def test_resumed_equals_uninterrupted(optimizer, sample, tmp_path):
    common = ["train", "--recipe", "demo-llama2", "--data", str(sample), *SHORT]
    common += set_("train.max_steps=6", "model.method=lora", f"train.optimizer={optimizer}")
    assert main([*common, "--out", str(tmp_path / "whole")]) == 0
    assert main([*common, "--out", str(tmp_path / "parted"), *set_("train.save_every=3", "train.keep=9")]) == 0
    for later in ("step-00000004", "step-00000006"):
        for file in (tmp_path / "parted" / "checkpoints" / later).iterdir():
            file.unlink()
        (tmp_path / "parted" / "checkpoints" / later).rmdir()
    assert main([*common, "--out", str(tmp_path / "parted"), "--resume", "auto"]) == 0
    one, two = (load_file(tmp_path / name / "model" / "adapter_model.safetensors") for name in ("whole", "parted"))
    assert one.keys() == two.keys()
    for key in one:
        assert torch.equal(one[key], two[key]), key
    assert told_of(tmp_path / "parted") == told_of(tmp_path / "whole")


TORCHRUN = "torchrun --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint localhost:0 src/train.py".split()
LAUNCHERS = {
    "python": [sys.executable, "src/train.py"],
    "ddp": TORCHRUN,
    "fsdp": [*TORCHRUN, "--engine", "fsdp"],
    "zero2": [*TORCHRUN, "--ds", "ds_configs/zero2.json"],
}


@pytest.mark.processes
def test_launchers_give_the_losses_of_one_process(run, tmp_path):
    """The README's commands as they stand, but for fewer rows and steps."""
    few = set_(
        "data.sample_rows=400", "train.max_steps=4", "train.batch_size=16", "train.eps=1e-6", "data.max_tokens=128"
    )
    commands = {
        "python": [sys.executable, "src/train.py"],
        "deepspeed": "deepspeed src/train.py --ds ds_configs/zero2.json".split(),
    }
    losses = {}
    for name, command in commands.items():
        done = run(*command, *few, "--out", tmp_path / name, cold=True)
        assert "data: the embedded sample" in done.stdout
        losses[name] = [record["loss"] for record in steps_of(tmp_path / name)]
        assert len(losses[name]) == 4
        assert losses[name] == pytest.approx(losses["python"], abs=1e-5)
        saved, whole = (load_file(tmp_path / n / "model" / "adapter_model.safetensors") for n in (name, "python"))
        assert saved.keys() == whole.keys()
        for key, tensor in whole.items():
            torch.testing.assert_close(saved[key], tensor, atol=1e-5, rtol=0, msg=f"{name}: {key}")


def test_a_share_of_the_rows(sample, tmp_path):
    """The held-out rows stay the same; what is left out is drawn anew with another seed."""
    rows = []
    for share in ("1.0", "0.25"):
        out = tmp_path / share
        changes = set_("train.max_steps=1", f"data.share={share}", "train.label_smoothing=0.1")
        assert main(["train", "--data", str(sample), "--out", str(out), *SHORT, *changes]) == 0
        rows.append(json.loads((out / "environment.json").read_text()))
    assert rows[1]["rows_held_out"] == rows[0]["rows_held_out"] == 40
    assert (rows[0]["rows_trained"], rows[1]["rows_trained"]) == (360, 90)


def test_early_stopping(sample, tmp_path, capsys):
    out = tmp_path / "run"
    changes = set_(
        "train.lr=1e-9", "train.epochs=50", "train.eval_every=1", "train.early_stopping=2", "train.warmup=0.9"
    )
    assert main(["train", "--data", str(sample), "--out", str(out), *SHORT, *changes]) == 0
    assert "stopped early" in capsys.readouterr().out
    assert len(steps_of(out)) < 400


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--recipe", "nonsense"], "no recipe 'nonsense'; shipped are deberta-cross"),
        (["--set", "train.lr=-1", "--set", "data.foo=1"], "2 problems in the recipe"),
        (["--set", "train.lr"], "key.path=value"),
        (["--data", "no-such.csv"], "no-such.csv: no such file"),
        (["--fold", "7/5"], "--fold 7/5"),
        (["--fold", "0/5", "--valid", "x.csv"], "--valid and --fold"),
        (["--engine", "deepspeed"], "--ds"),
        (["--resume", "auto"], "--resume auto needs --out"),
        (["--model", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--set", "train.tokens_per_micro_batch=64"], "the longest row would not fit"),
    ],
)
def test_the_users_mistakes_end_with_one_message_and_exit_code_2(arguments, sentence, sample, capsys):
    given = arguments if "--data" in arguments else ["--data", str(sample), *arguments]
    assert main(["train", *given]) == 2
    message = capsys.readouterr().err
    assert sentence in message
    assert message.startswith("tiebreak: error:") and "Traceback" not in message


def test_a_folder_with_a_run_is_not_overwritten(sample, tmp_path, capsys):
    common = ["train", "--data", str(sample), "--out", str(tmp_path / "run"), *SHORT]
    assert main([*common, *set_("train.max_steps=1")]) == 0
    assert main([*common, *set_("train.max_steps=1")]) == 2
    assert "--resume auto" in capsys.readouterr().err
    assert main([*common, "--resume", "auto", *set_("train.max_steps=2")]) == 2
    assert "train.max_steps: 1 then, 2 now" in capsys.readouterr().err
    assert main([*common, "--resume", "auto", "--fold", "1/4", *set_("train.max_steps=1")]) == 2
    assert "fold: '0/10' then, '1/4' now" in capsys.readouterr().err


def test_bad_rows_are_reported_or_skipped_and_kept_in_a_file(sample, tmp_path, capsys):
    table = tmp_path / "bad.csv"
    lines = sample.read_text().splitlines()
    lines[5] = lines[5].rsplit(",", 3)[0] + ",1,1,0"
    table.write_text("\n".join(lines) + "\n")
    common = ["train", "--data", str(table), "--out", str(tmp_path / "run"), *SHORT, *set_("train.max_steps=1")]
    assert main(common) == 2
    message = capsys.readouterr().err
    assert "bad.csv, row 5" in message and "exactly one must be 1" in message
    assert main([*common, "--on-bad-row", "skip"]) == 0
    skipped = [json.loads(line) for line in (tmp_path / "run" / "skipped_rows.jsonl").read_text().splitlines()]
    assert [(problem["row"], problem["cells"]["winner_model_b"]) for problem in skipped] == [(5, "1")]


def test_wandb_offline_goes_on_in_the_same_run(run, sample, tmp_path):
    """In processes of their own: wandb starts a service."""
    out = tmp_path / "run"
    command = [sys.executable, "src/train.py", "--data", sample, "--out", out, "--resume", "auto", *SHORT]
    command += set_("log.wandb=offline", "train.max_steps=2", "train.eval_every=2")
    run(*command)
    name = (out / "wandb_id").read_text()
    run(*command)
    assert (out / "wandb_id").read_text() == name
    assert len(list((out / "wandb").glob(f"offline-run-*-{name}"))) == 2


def test_wandb_that_is_not_installed_is_reported(sample, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    changes = set_("log.wandb=offline", "train.max_steps=1")
    assert main(["train", "--data", str(sample), "--out", str(tmp_path / "run"), *SHORT, *changes]) == 2
    assert "wandb is not installed" in capsys.readouterr().err


def test_a_gpu_without_memory_gets_smaller_micro_batches_and_the_same_result(sample, tmp_path, capsys, monkeypatch):
    """A forward pass of more than 700 tokens fails, in the backward pass of the rows before it being done."""
    honest, sizes = PreferenceModel.forward, []

    def forward(self, tokens, lengths, *more):
        if self.training and len(tokens) > 700:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        sizes.append(len(tokens))
        return honest(self, tokens, lengths, *more)

    changes = set_("train.max_steps=3", "train.tokens_per_micro_batch=1200", "model.dropout=0")
    command = ["train", "--data", str(sample), "--valid", "none", *SHORT, *changes]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    monkeypatch.setattr(PreferenceModel, "forward", forward)
    capsys.readouterr()
    assert main([*command, "--out", str(tmp_path / "cut")]) == 0
    told = capsys.readouterr()
    assert (told.out + told.err).count("memory ran out: micro-batches are cut in 2") == 1
    whole, cut = (steps_of(tmp_path / name) for name in ("whole", "cut"))
    assert [record["tokens"] for record in cut] == [record["tokens"] for record in whole]
    assert len(sizes) >= 6 and max(sizes) <= 700
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose([r[name] for r in cut], [r[name] for r in whole], rtol=1e-5)  # the order of sums


def test_a_row_that_no_memory_holds_ends_with_advice(sample, tmp_path, capsys, monkeypatch):
    def forward(self, tokens, lengths, *more):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(PreferenceModel, "forward", forward)
    command = ["train", "--data", str(sample), "--valid", "none", *SHORT, "--out", str(tmp_path / "run")]
    assert main(command) == 2
    assert "train.gradient_checkpointing=true" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_ends_the_run_with_the_rows_at_fault(
    broken, sample, tmp_path, capsys, monkeypatch
):
    """The third step is broken; the weights and the checkpoint are those of the second."""
    calls = []
    honest = losses.cross_entropy

    def faulty(logits, batch, **settings):
        calls.append(batch)
        loss = honest(logits, batch, **settings)
        if len(calls) < 3:
            return loss
        return loss * float("nan") if broken == "loss" else loss + (logits * 0).sqrt().sum()

    monkeypatch.setattr(losses, "cross_entropy", faulty)
    changes = set_("train.max_steps=6", "train.save_every=1", "train.tokens_per_micro_batch=8192")
    out = tmp_path / "run"
    assert main(["train", "--data", str(sample), "--out", str(out), *SHORT, *changes]) == 2
    message = capsys.readouterr().err
    assert "step 3: the loss is" in message and "nan" in message
    assert "step-00000002" in message
    assert ("Rows of the micro-batches at fault" in message) == (broken == "loss")
    assert [record["step"] for record in steps_of(out)] == [1, 2]
    assert torch.isfinite(load_file(out / "checkpoints" / "step-00000002" / WEIGHTS)[WEIGHT]).all()
