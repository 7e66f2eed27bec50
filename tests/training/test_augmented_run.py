"""Runs with features and augmentation: from the command line to a prediction, resumed, and what is recorded."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import SHORT, set_, steps_of

from tiebreak.cli import main
from tiebreak.data.encode import prompt_group
from tiebreak.data.folds import assign_folds
from tiebreak.data.predictions import read_predictions
from tiebreak.models.folder import read_prompts
from tiebreak.tables.table import read_table

pytestmark = pytest.mark.slow

FEATURES = "data.features=[length,style,readability,turns]"
CHANGED = ("data.drop_turns=0.5", "data.jitter=0.5")


@pytest.fixture(scope="module")
def paraphrases(sample, tmp_path_factory):
    """One of every row of the sample, longer than the row itself; that of a training row has a held-out prompt."""
    path, pairs = tmp_path_factory.mktemp("tables") / "paraphrases.csv", read_table([sample]).pairs
    labels, groups = np.array([pair.label for pair in pairs]), np.array([prompt_group(pair.prompt) for pair in pairs])
    folds = assign_folds(labels, groups, 10, 0)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "prompt", "response_a", "response_b"])
        for row, pair in enumerate(pairs):
            like = pairs[np.flatnonzero(folds == 0)[0]] if row == np.flatnonzero(folds != 0)[0] else pair
            answers = [[f"In other words: {turn}" for turn in part] for part in (like.response_a, like.response_b)]
            prompt = [f"{turn} In other words?" for turn in like.prompt] if like is pair else like.prompt
            writer.writerow([pair.id, *map(json.dumps, (prompt, *answers))])
    return path


def test_resumed_equals_uninterrupted_with_every_augmentation(sample, paraphrases, tmp_path, capsys):
    common = ["train", "--recipe", "demo-deberta", "--data", str(sample), *SHORT]
    common += set_("train.max_steps=6", FEATURES, *CHANGED, f"data.paraphrases=[{paraphrases}]")
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert main([*common, "--out", str(whole)]) == 0
    text = capsys.readouterr().out
    trained = json.loads((whole / "rows.json").read_text())["rows_trained"]
    assert f"paraphrases.csv: {trained - 1}, of {trained} training rows" in text
    assert "1 paraphrases have a held-out prompt and are not used" in text
    assert main([*common, "--out", str(parted), *set_("train.save_every=3", "train.keep=9")]) == 0
    for later in ("step-00000004", "step-00000006"):
        shutil.rmtree(parted / "checkpoints" / later)
    assert main([*common, "--out", str(parted), "--resume", "auto"]) == 0
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (whole, parted))
    assert one.keys() == two.keys() and {"classifier.mean", "classifier.linear.weight"} <= one.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=0, rtol=0)

    pairs = read_table([sample]).pairs
    originals = {prompt_group(pair.prompt) for pair in pairs}
    seen = set(read_prompts(whole / "model").tolist())
    assert len(seen) > len(seen & originals) > 0, "the paraphrases' prompts are recorded with those of their rows"

    out = tmp_path / "prediction"
    assert main(["predict", "--model", str(whole), "--data", str(sample), "--out", str(out), "--swap"]) == 0
    ids, probabilities = read_predictions(out / "predictions.csv")
    assert ids == [pair.id for pair in pairs] and np.isfinite(probabilities).all()


def test_augmentation_changes_the_steps_and_not_the_evaluation(sample, tmp_path):
    """At a learning rate near zero the weights stay, so the evaluations are equal and the losses are not."""
    common = ["train", "--recipe", "demo-deberta", "--data", str(sample), *SHORT]
    common += set_("train.max_steps=4", "train.lr=1e-12")
    records = {}
    for name, changes in {"plain": (), "changed": CHANGED}.items():
        out = tmp_path / name
        assert main([*common, "--out", str(out), *set_(*changes)]) == 0
        records[name] = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        assert [record["step"] for record in steps_of(out)] == [1, 2, 3, 4]
    plain, changed = (
        [[record[key] for record in found if key in record] for key in ("loss", "tokens", "validation_log_loss")]
        for found in records.values()
    )
    assert all(b < a for a, b in zip(plain[1], changed[1], strict=True)), "fewer tokens"
    assert plain[0] != changed[0] and plain[2] == pytest.approx(changed[2], abs=1e-6)
