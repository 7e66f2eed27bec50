"""Distillation from the command line: folds, out-of-fold predictions, a student; and the real mistakes."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import set_, steps_of

from tiebreak.cli import main
from tiebreak.data.predictions import read_predictions

pytestmark = pytest.mark.slow

SMALL = set_("data.max_tokens=96", "train.batch_size=16", "train.max_steps=4", "train.eval_every=2")
TEACHER = ["--recipe", "demo-llama2", *SMALL, *set_("model.method=full")]
TEACHER_RUN = ["train", *TEACHER]
FEW = ["--resamples", "100"]

PLAIN = """
import json, sys
import numpy as np, torch
from transformers import AutoModelForSequenceClassification, pipeline
folder, rows_file = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
rows = [torch.tensor(row) for row in json.load(open(rows_file))]
with torch.no_grad():
    logits = torch.cat([model(input_ids=row[None], attention_mask=torch.ones_like(row)[None]).logits for row in rows])
classify = pipeline("text-classification", model=folder, top_k=None)
(found,) = classify(["[PROMPT]Hello[SEP][ANSWER_A]Yes[SEP][ANSWER_B]No"])
assert sorted(entry["label"] for entry in found) == ["winner_model_a", "winner_model_b", "winner_tie"], found
assert not any(name.startswith("tiebreak") for name in sys.modules)
np.save(rows_file + ".npy", logits.numpy())
"""


@pytest.fixture(scope="module")
def table(sample, tmp_path_factory):
    """200 rows of the sample."""
    path = tmp_path_factory.mktemp("table") / "table.csv"
    path.write_text("".join(sample.read_text().splitlines(keepends=True)[:201]))
    return path


@pytest.fixture(scope="module")
def folds(table, tmp_path_factory):
    """The run folders of a teacher's two folds, and their out-of-fold predictions."""
    home = tmp_path_factory.mktemp("teacher")
    for k in range(2):
        common = ["--data", str(table)]
        assert main([*TEACHER_RUN, *common, "--fold", f"{k}/2", "--out", str(home / f"fold{k}")]) == 0
        predict = ["predict", "--model", str(home / f"fold{k}"), "--fold", f"{k}/2", "--out", str(home / f"oof{k}")]
        assert main([*predict, *common, "--swap"]) == 0
    return home


def student(table, out, *teachers, options=()):
    return ["distill", "--data", str(table), "--out", str(out), *SMALL, "--teachers", *map(str, teachers), *options]


def ids_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [row["id"] for row in csv.DictReader(file)]


def test_out_of_fold_predictions_cover_every_row_once_and_are_the_folds_held_out_in_training(table, folds):
    parts = [read_predictions(folds / f"oof{k}" / "predictions.csv")[0] for k in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(ids_of(table)) and not set(parts[0]) & set(parts[1])
    for k in range(2):
        trained = json.loads((folds / f"fold{k}" / "environment.json").read_text())["rows_trained"]
        assert len(parts[k]) == 200 - trained
        plan = json.loads((folds / f"oof{k}" / "prediction.json").read_text())
        assert plan["fold"] == f"{k}/2" and plan["recipe"] == "demo-llama2" and plan["truncation"]["max_tokens"] == 96
        assert len(plan["fingerprint"]) == 64


def test_a_folds_rows_are_predicted_as_in_the_whole_table(table, folds, tmp_path, capsys):
    whole = ["predict", "--model", str(folds / "fold0"), "--data", str(table), "--swap", "--out", str(tmp_path / "p")]
    assert main(whole) == 0
    ids, probabilities = read_predictions(tmp_path / "p" / "predictions.csv")
    part, some = read_predictions(folds / "oof0" / "predictions.csv")
    of_id = dict(zip(ids, probabilities, strict=True))
    # Other rows share the batches: fp32 rounding.
    np.testing.assert_allclose(some, [of_id[name] for name in part], atol=1e-5, rtol=0)
    assert np.unique(some.round(6), axis=0).shape[0] > 50  # else a mix-up of rows would not be seen

    lines = table.read_text().splitlines()
    lines[3] = lines[3].rsplit(",", 3)[0] + ",1,1,0"
    bad = tmp_path / "bad.csv"
    bad.write_text("\n".join(lines) + "\n")
    fold = [
        "predict",
        "--model",
        str(folds / "fold0"),
        "--data",
        str(bad),
        "--fold",
        "0/2",
        "--out",
        str(tmp_path / "b"),
    ]
    assert main(fold) == 2
    assert "bad.csv, row 3" in capsys.readouterr().err
    assert main([*fold, "--on-bad-row", "skip"]) == 0
    assert "1 bad row left out, in no fold" in capsys.readouterr().out


def test_a_student_learns_and_says_from_whom(table, folds, tmp_path, capsys):
    assert main(student(table, tmp_path / "s", f"t={folds / 'oof0'},{folds / 'oof1'}", "bayes")) == 0
    text = capsys.readouterr().out
    assert "teacher t: 180 rows, both orders" in text and "teacher bayes: 180 rows" in text and "WARNING" not in text
    metrics = json.loads((tmp_path / "s" / "metrics.json").read_text())
    assert [entry["name"] for entry in metrics["teachers"]] == ["t", "bayes"]
    assert metrics["in_sample"] == [] and metrics["in_sample_allowed"] is False
    assert metrics["held_out_rows_seen_by_teachers"] == 20 and "20 of the 20 held-out rows" in text
    environment = json.loads((tmp_path / "s" / "environment.json").read_text())
    assert environment["teachers"] == metrics["teachers"]
    card = (tmp_path / "s" / "model" / "README.md").read_text()
    assert "Distilled from t, bayes." in card and "In-sample" not in card
    assert "trained on the prompts of 20 of the held-out rows" in card
    assert [entry["fold"] for entry in environment["teachers"][0]["predictions"]] == ["0/2", "1/2"]
    assert len(steps_of(tmp_path / "s")) == 4


def test_a_distilled_student_loads_in_plain_transformers_with_equal_logits(table, run, tmp_path):
    from tiebreak.config import load_recipe
    from tiebreak.data.prepare import prepare
    from tiebreak.data.templates import TEMPLATES
    from tiebreak.models.loading import load_model, load_tokenizer

    assert main(student(table, tmp_path / "s", "bayes")) == 0
    recipe = load_recipe("distill-demo", ["data.max_tokens=96"])
    tokenizer = load_tokenizer("demo-deberta", "deberta")
    tokens = prepare([table], tokenizer, TEMPLATES["deberta"], recipe.data, need_labels=True)
    rows = [tokens.input_ids(k)[0].tolist() for k in range(6)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    judge = load_model(tmp_path / "s" / "model", recipe, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        ours = judge(torch.tensor([t for row in rows for t in row]), [len(row) for row in rows])
    run(sys.executable, "-c", PLAIN, tmp_path / "s" / "model", tmp_path / "rows.json", PYTHONPATH="")
    # Packed against one row at a time: fp32 rounding.
    np.testing.assert_allclose(ours.numpy(), np.load(tmp_path / "rows.json.npy"), atol=1e-5, rtol=0)


def test_the_teachers_reach_the_weights(table, tmp_path):
    """The same student from labels, from the law, and from the law alone: three different models."""
    changes = {"labels": [], "law": [], "law alone": set_("distill.ce=0"), "soft first": set_("distill.soft_only=0.5")}
    weights, losses = {}, {}
    for name, change in changes.items():
        out = tmp_path / name
        command = student(table, out, "bayes", options=change)
        if name == "labels":
            command = ["train", "--recipe", "distill-demo", "--data", str(table), "--out", str(out), *SMALL]
        assert main(command) == 0
        weights[name] = load_file(out / "model" / "model.safetensors")["classifier.weight"]
        losses[name] = [record["loss"] for record in steps_of(out)]
    names = list(changes)
    for k, one in enumerate(names):
        for other in names[k + 1 :]:
            assert not torch.equal(weights[one], weights[other]), (one, other)
    assert losses["soft first"][0] < losses["law"][0] - 0.2  # a third of the cross-entropy of about 1.1 is absent
    assert losses["soft first"][1] < losses["law"][1] - 0.2
    assert abs(losses["soft first"][2] - losses["law"][2]) < 0.1


def test_resumed_equals_uninterrupted_and_other_teachers_are_refused(table, folds, tmp_path, capsys):
    import shutil

    teacher = f"t={folds / 'oof0'},{folds / 'oof1'}"
    change = set_("train.save_every=1", "train.keep=9", "data.swap=both", "distill.soft_only=0.5")
    assert main(student(table, tmp_path / "whole", teacher, options=change)) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "parted")
    for later in (2, 3, 4):
        shutil.rmtree(tmp_path / "parted" / "checkpoints" / f"step-{later:08d}")
    shutil.rmtree(tmp_path / "parted" / "model")
    assert main(student(table, tmp_path / "parted", teacher, options=[*change, "--resume", "auto"])) == 0
    assert "resumed from step-00000001" in capsys.readouterr().out
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parted"))
    for key in one:
        assert torch.equal(one[key], two[key]), key
    assert main(student(table, tmp_path / "parted", "bayes", options=[*change, "--resume", "auto"])) == 2
    assert "begun with other settings:\n  teachers:" in capsys.readouterr().err


def test_invariant_6_a_fold_overwritten_by_another_folds_model_is_refused(table, folds, tmp_path, capsys):
    """Both models write into one folder; and a folder's name says one fold, its content another."""
    import shutil

    shutil.copytree(folds / "oof0", tmp_path / "oof0")
    again = ["predict", "--model", str(folds / "fold1"), "--data", str(table), "--fold", "0/2", "--swap"]
    assert main([*again, "--out", str(tmp_path / "oof0")]) == 2
    assert "another model" in capsys.readouterr().err
    (tmp_path / "oof0" / "predictions.csv").unlink()
    assert main([*again, "--out", str(tmp_path / "oof0")]) == 0
    rows = len(read_predictions(folds / "oof0" / "predictions.csv")[0])
    assert f"the model was trained on the prompts of {rows} of these {rows} rows" in capsys.readouterr().out
    assert main(student(table, tmp_path / "s", f"t={tmp_path / 'oof0'},{folds / 'oof1'}")) == 2
    message = capsys.readouterr().err
    assert f"the model of {tmp_path / 'oof0'} was trained on their prompts" in message and "Traceback" not in message
    assert not (tmp_path / "s").exists()


def test_invariant_6_a_teacher_trained_on_all_rows_is_refused_unless_allowed(table, tmp_path, capsys):
    assert main([*TEACHER_RUN, "--data", str(table), "--valid", "none", "--out", str(tmp_path / "all")]) == 0
    predict = ["predict", "--model", str(tmp_path / "all"), "--data", str(table), "--out", str(tmp_path / "p")]
    assert main(predict) == 0
    assert main(student(table, tmp_path / "s", tmp_path / "p")) == 2
    assert "was trained on their prompts: 180 of its 180 rows" in capsys.readouterr().err
    assert main(student(table, tmp_path / "s", tmp_path / "p", options=["--allow-in-sample"])) == 0
    assert "WARNING, allowed by --allow-in-sample: teacher p:" in capsys.readouterr().out
    for name in ("metrics.json", "environment.json"):
        record = json.loads((tmp_path / "s" / name).read_text())
        assert record["in_sample_allowed"] and len(record["in_sample"]) == 1
        assert record["teachers"][0]["in_sample_rows"] == 180
    assert "**In-sample (`--allow-in-sample`):** teacher p:" in (tmp_path / "s" / "model" / "README.md").read_text()
    predict = ["predict", "--model", str(tmp_path / "s"), "--data", str(table), "--out", str(tmp_path / "q")]
    assert main(predict) == 0
    assert main(["report", str(tmp_path / "q"), "--labels", str(table), "--out", str(tmp_path / "r"), *FEW]) == 0
    assert "q is in-sample, by --allow-in-sample: teacher p:" in (tmp_path / "r" / "index.html").read_text()


def test_a_judge_taught_further_keeps_the_record_of_what_it_saw_before(table, folds, tmp_path):
    from tiebreak.models.folder import read_prompts

    first = folds / "fold0" / "model"
    further = [*TEACHER_RUN, "--data", str(table), "--fold", "1/2", "--model", str(first), "--out", str(tmp_path / "f")]
    assert main(further) == 0
    before, after = read_prompts(first), read_prompts(tmp_path / "f" / "model")
    assert 0 < len(before) < len(after) and np.isin(before, after).all()
    (first / "trained_prompts.npy").rename(tmp_path / "kept.npy")
    predict = ["predict", "--model", str(first), "--data", str(table), "--out", str(tmp_path / "p")]
    assert main(predict) == 2
    (tmp_path / "kept.npy").rename(first / "trained_prompts.npy")


def test_unlabelled_tables_join_the_training_rows(table, tmp_path, capsys):
    extra = tmp_path / "extra.csv"
    assert main(["sample", "--rows", "40", "--seed", "77", "--profile", "short", "--out", str(extra)]) == 0
    assert main(student(table, tmp_path / "s", "bayes", options=["--extra", str(extra)])) == 0
    assert "40 rows, trained on without labels" in capsys.readouterr().out
    environment = json.loads((tmp_path / "s" / "environment.json").read_text())
    assert (environment["rows_trained"], environment["rows_extra"], environment["rows_held_out"]) == (180, 40, 20)
    fitted = json.loads((tmp_path / "s" / "model" / "tiebreak.json").read_text())
    assert sum(fitted["baselines"]["prior"]) == pytest.approx(1)
    assert fitted["trained"]["prompts"] > 200


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--teachers", "nowhere"], "nowhere: no prediction.json"),
        (
            ["--teachers", "bayes", "--set", "distill.kl=0", "--set", "distill.cosine=0"],
            "kl and cosine are both 0",
        ),
        (["--teachers", "bayes", "--set", "distill.teacher_weights=[1,2]"], "2 weights for 1 teachers"),
        (["--teachers", "bayes", "--extra", "no-such.csv"], "no-such.csv: no such file"),
    ],
)
def test_the_users_mistakes_end_with_one_message_and_exit_code_2(options, sentence, table, capsys):
    assert main(["distill", "--data", str(table), *options]) == 2
    message = capsys.readouterr().err
    assert sentence in message
    assert message.startswith("tiebreak: error:") and "Traceback" not in message


@pytest.mark.processes
def test_two_ranks_give_the_losses_and_weights_of_one(run, table, tmp_path):
    change = set_("train.eps=1e-6", "data.swap=both", "train.tokens_per_micro_batch=600")
    options = student(table, "OUT", "bayes", options=change)[1:]
    torchrun = "torchrun --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint localhost:0 src/distill.py".split()
    for name, command in {"one": [sys.executable, "src/distill.py"], "two": torchrun}.items():
        run(*command, *(str(tmp_path / name) if word == "OUT" else word for word in options))
    one, two = ([record["loss"] for record in steps_of(tmp_path / name)] for name in ("one", "two"))
    assert len(one) == 4 and one == pytest.approx(two, abs=1e-5)
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, atol=1e-5, rtol=0, msg=key)
