"""Invariant 6: teachers' predictions joined to rows, refused where they are in-sample, missing, or of other rows."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tiebreak.config import DistillSettings, load_recipe
from tiebreak.data.folds import assign_folds, parse_fold
from tiebreak.data.prediction_manifest import (
    PREDICTION_FILE,
    AverageManifest,
    PredictionManifest,
    Provenance,
    write_prediction_manifest,
)
from tiebreak.data.split import read_split
from tiebreak.data.tokens import Tokens
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import log_loss, softmax
from tiebreak.labels import NO_LABEL, SWAPPED_CLASS
from tiebreak.models.loading import load_tokenizer
from tiebreak.prediction.parts import Part, RowKeys, write_part, write_row_keys
from tiebreak.preflight.early import refuse_training
from tiebreak.process import configure_logging
from tiebreak.sample.generator import write_sample
from tiebreak.training import baseline_teacher
from tiebreak.training.baseline_teacher import FOLDS, FOLDS_SEED, view_of_baseline
from tiebreak.training.batches import make_batch
from tiebreak.training.targets import TeacherLogits, best_temperature, centred_log, make_targets
from tiebreak.training.teachers import find_teachers, read_teachers

RECIPE = load_recipe("demo-deberta", ["data.max_tokens=64"])


def rows_of(*files: Path, fold: str | None = None, valid: str | None = "none", extra: tuple[Path, ...] = ()):
    return read_split(
        RECIPE,
        load_tokenizer(RECIPE.model.base, "deberta"),
        data=files,
        valid_from=None if fold else valid,
        fold=parse_fold(fold) if fold else None,
        extra_from=extra,
    )


def predicted(
    folder: Path, tokens: Tokens, rows=None, trained=(), swap=True, recipe="r", seed=0, unreadable=()
) -> Path:
    """A finished prediction of these rows of a table with drawn logits, by a model trained on these prompt groups."""
    part = tokens if rows is None else tokens.select(np.asarray(rows))
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, len(part), 3)).astype(np.float32)
    name = f"parts-{hashlib.sha256(repr((part.ids, recipe, seed, swap)).encode()).hexdigest()[:12]}"
    (folder / name).mkdir(parents=True)
    (folder / name / "ids.jsonl").write_text("".join(json.dumps(name) + "\n" for name in part.ids))
    write_row_keys(folder / name, RowKeys(part.groups, part.chars, None if trained is None else np.unique(trained)))
    provenance = Provenance(model=recipe, table="t", settings=name)
    for index, members in enumerate(np.array_split(np.arange(len(part))[::-1], 2)):
        swapped = logits[1, members if swap else members[:0]]
        codes, spent = np.zeros(len(members), np.int8), np.zeros(2, np.int64)
        write_part(
            folder / name, index, Part(members, logits[0, members], swapped, codes, spent, np.ones(1)), provenance
        )
    manifest = PredictionManifest(
        parts=name,
        part_count=2,
        rows=len(part),
        swap=swap,
        provenance=provenance,
        fingerprint="f",
        unreadable=list(unreadable),
        truncation={},
        model="m",
        class_shares=[0.4, 0.3, 0.3],
        recipe=recipe,
        recipe_hash=recipe,
    )
    write_prediction_manifest(folder, manifest)
    return folder


def logits_of(folder: Path) -> dict[str, np.ndarray]:
    """The logits (orders, 3) by id, read as plain files."""
    plan = json.loads((folder / PREDICTION_FILE).read_text())
    ids = [json.loads(line) for line in (folder / plan["parts"] / "ids.jsonl").read_text().splitlines()]
    found = {}
    for path in sorted((folder / plan["parts"]).glob("part-*.npz")):
        with np.load(path) as stored:
            for k, row in enumerate(stored["rows"]):
                found[ids[row]] = np.stack([stored["logits"][k], *stored["swapped_logits"][k : k + 1]])
    return found


def find(words, rows, settings=None, allow=False):
    return find_teachers([str(word) for word in words], allow, rows, settings or DistillSettings())


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "table.csv"
    write_sample(path, 60, seed=4, profile="short")
    return path


def with_prompt(line: str, other: str, name: str, change=lambda text: text) -> str:
    """A row of a sample table under another id, with the prompt of another row, changed."""
    cells, theirs = line.split(",", 3), other.split(",", 3)
    prompt = theirs[3][: theirs[3].index(']"') + 2]
    rest = cells[3][cells[3].index(']"') + 2 :]
    return ",".join([name, *cells[1:3], change(prompt) + rest])


def test_rows_are_joined_by_id_in_any_order_and_over_several_folders(table, tmp_path):
    rows = rows_of(table)
    shuffled = np.random.default_rng(0).permutation(60)
    one = predicted(tmp_path / "one", rows.tokens, shuffled[:25])
    two = predicted(tmp_path / "two", rows.tokens, shuffled[25:], seed=1)
    other = predicted(tmp_path / "other", rows.tokens, seed=2, swap=False)
    found = find([f"first={one},{two}", other], rows)
    assert found.targets.shape == (2, 2, 60, 3) and found.targets.dtype == np.float32
    first, second = logits_of(one) | logits_of(two), logits_of(other)
    for k, name in enumerate(rows.tokens.ids):
        np.testing.assert_array_equal(found.targets[0, :, k], first[name])
        np.testing.assert_array_equal(found.targets[1, 0, k], second[name][0])
        np.testing.assert_array_equal(found.targets[1, 1, k], second[name][0][SWAPPED_CLASS])
    assert [entry["name"] for entry in found.record["teachers"]] == ["first", "other"]
    assert [entry["both_orders"] for entry in found.record["teachers"]] == [True, False]


def test_an_average_teaches_the_mean_probabilities_of_the_models_that_did_not_see_the_prompt(table, tmp_path):
    rows, folder = rows_of(table), tmp_path / "average"
    groups = rows.tokens.groups
    other = int(np.flatnonzero(groups != groups[0])[0])
    for name, seen in {"one": groups[:1], "two": groups[other : other + 1]}.items():
        predicted(folder / name, rows.tokens, seed=len(folder.name) + len(seen) + ord(name[0]), trained=seen)
    models = {name: f"m/{name}" for name in ("one", "two")}
    write_prediction_manifest(folder, AverageManifest(models=models, table="t", rows=60, swap=True))
    one, two = (logits_of(folder / name) for name in models)
    found = find([f"both={folder}"], rows)
    for k, name in enumerate(rows.tokens.ids):
        shares = (0, 1) if groups[k] == groups[0] else (1, 0) if groups[k] == groups[other] else (0.5, 0.5)
        mean = shares[0] * softmax(one[name]) + shares[1] * softmax(two[name])
        np.testing.assert_allclose(softmax(found.targets[0, :, k]), mean, rtol=1e-5)  # logits are stored in fp32
    assert found.record["teachers"][0]["both_orders"]


def test_invariant_6_an_average_of_models_that_all_saw_a_prompt_is_refused(table, tmp_path):
    rows, folder = rows_of(table), tmp_path / "average"
    models = {f"fold-{k}": f"m/fold-{k}" for k in range(2)}
    for k, name in enumerate(models):
        predicted(folder / name, rows.tokens, seed=k, trained=rows.tokens.groups[: k + 1])
    write_prediction_manifest(folder, AverageManifest(models=models, table="t", rows=60, swap=True))
    with pytest.raises(UserError, match="was trained on their prompts: 1 of its 60 rows"):
        find([f"both={folder}"], rows)


def test_a_row_seen_swapped_gets_the_teachers_swapped_prediction(table, tmp_path):
    rows = rows_of(table)
    both, one = predicted(tmp_path / "both", rows.tokens), predicted(tmp_path / "one", rows.tokens, seed=1, swap=False)
    targets = find([both, one], rows).targets
    chosen, swapped = np.array([3, 17, 40, 3]), np.array([False, True, True, True])
    batch = make_batch(rows.tokens, chosen, swapped, torch.device("cpu"), targets)
    told = {name: value for name, value in logits_of(both).items()}
    alone = logits_of(one)
    assert batch.teachers.shape == (2, 4, 3)
    for k, (row, swap) in enumerate(zip(chosen, swapped, strict=True)):
        name = rows.tokens.ids[row]
        np.testing.assert_array_equal(batch.teachers[0, k], told[name][int(swap)])
        np.testing.assert_array_equal(batch.teachers[1, k], alone[name][0][SWAPPED_CLASS] if swap else alone[name][0])
    unlabelled = make_batch(rows.tokens, chosen, swapped, torch.device("cpu"), targets, labelled=False)
    assert (unlabelled.labels == NO_LABEL).all() and (batch.labels != NO_LABEL).all()
    empty = make_batch(rows.tokens, chosen[:0], swapped[:0], torch.device("cpu"), targets)
    assert torch.isfinite(empty.teachers).all() and empty.weights.tolist() == [0]


def test_loose_folders_of_one_recipe_become_one_teacher_where_their_rows_differ(table, tmp_path):
    rows = rows_of(table)
    halves = [predicted(tmp_path / f"t/{k}/oof", rows.tokens, range(30 * k, 30 * k + 30), seed=k) for k in range(2)]
    whole = predicted(tmp_path / "other/oof", rows.tokens, recipe="another", seed=5)
    same = predicted(tmp_path / "third/oof", rows.tokens, recipe="another", seed=6)
    found = find([halves[0], whole, same, halves[1]], rows)
    assert [len(entry["predictions"]) for entry in found.record["teachers"]] == [2, 1, 1]
    assert [entry["name"] for entry in found.record["teachers"]] == ["oof", "other/oof", "third/oof"]
    assert found.weights.tolist() == [1, 1, 1]


def test_names_and_folders_of_teachers_may_hold_equals_signs_and_commas(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = rows_of(table)
    for folder, part in (("lr=1,2/a,b", range(30)), ("lr=1,2/c", range(30, 60)), ("x=y", range(60))):
        predicted(tmp_path / folder, rows.tokens, part, seed=len(part))
    names = ("lr=1,2/a,b,lr=1,2/c", "x=y", "own=x=y", "p=q=x=y", "g,h=x=y", "t=lr=1,2/c,lr=1,2/a,b")
    read = [(name, [str(p.folder) for p in of]) for word in names for name, of in read_teachers([word]).items()]
    assert read == [
        ("a,b", ["lr=1,2/a,b", "lr=1,2/c"]),
        *((name, ["x=y"]) for name in ("x=y", "own", "p=q", "g,h")),
        ("t", ["lr=1,2/c", "lr=1,2/a,b"]),
    ]
    with pytest.raises(UserError, match="--teachers lr=8/oof: 8/oof: no prediction"):
        refuse_training(load_recipe("distill-demo"), teachers=["lr=8/oof"])


def test_invariant_6_a_prediction_by_a_model_that_saw_the_prompt_is_refused(table, tmp_path, capsys):
    rows = rows_of(table)
    groups = rows.tokens.groups
    honest = predicted(tmp_path / "honest", rows.tokens, range(30), trained=groups[30:])
    leaky = predicted(tmp_path / "leaky", rows.tokens, range(30, 60), trained=groups[:42], seed=1)
    with pytest.raises(UserError) as caught:
        find([f"t={honest},{leaky}"], rows)
    message = str(caught.value)
    expected = [
        name for name, group in zip(rows.tokens.ids[30:], groups[30:], strict=True) if group in set(groups[:42])
    ]
    assert f"{len(expected)} of its 30 rows" in message and str(leaky) in message and str(honest) not in message
    assert ", ".join(expected[:10]) in message and "--allow-in-sample" in message
    configure_logging()
    found = find([f"t={honest},{leaky}"], rows, allow=True)
    assert any("WARNING" in line and "allow-in-sample" in line for line in capsys.readouterr().out.splitlines())
    assert found.record["teachers"][0]["in_sample_rows"] == len(expected)
    assert found.record["in_sample"] and found.record["in_sample_allowed"]
    assert find([predicted(tmp_path / "clean", rows.tokens)], rows).record["in_sample"] == []


def test_invariant_6_the_same_prompt_with_other_spacing_and_case_counts_as_seen(table, tmp_path):
    lines = table.read_text().splitlines()
    again = with_prompt(lines[40], lines[1], "77", lambda text: text.replace(" ", "  ").upper())
    later = tmp_path / "later.csv"
    later.write_text("\n".join([lines[0], again, *lines[41:]]) + "\n")
    earlier = tmp_path / "earlier.csv"
    earlier.write_text("\n".join(lines[:30]) + "\n")
    seen, rows = rows_of(earlier).tokens, rows_of(later)
    assert lines[1].split(",")[3] not in again
    teacher = predicted(tmp_path / "p", rows.tokens, trained=seen.groups)
    with pytest.raises(UserError, match=r"1 of its 21 rows \(ids 77\)"):
        find([teacher], rows)


def test_a_model_without_a_record_is_refused(table, tmp_path):
    rows = rows_of(table)
    with pytest.raises(UserError, match=r"no record of what it was trained on .*60 of its 60 rows"):
        find([predicted(tmp_path / "p", rows.tokens, trained=None)], rows)


def test_missing_doubled_and_changed_rows_are_refused_with_their_number(table, tmp_path):
    rows = rows_of(table)
    part = predicted(tmp_path / "part", rows.tokens, range(50))
    with pytest.raises(UserError, match=r"no prediction for 10 of 60 rows \(ids "):
        find([part], rows)
    overlap = predicted(tmp_path / "overlap", rows.tokens, range(45, 60), seed=1)
    with pytest.raises(UserError, match="5 rows are predicted more than once"):
        find([f"t={part},{overlap}"], rows)
    lost = predicted(tmp_path / "lost", rows.tokens, seed=2, unreadable=[7])
    with pytest.raises(UserError, match=rf"no prediction for 1 of 60 rows \(ids {rows.tokens.ids[7]}\)"):
        find([lost], rows)
    lines = table.read_text().splitlines()
    changed = tmp_path / "changed.csv"
    lines[1] = with_prompt(lines[2], lines[2], lines[1].split(",")[0])
    changed.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"no prediction for 1 of 60 rows .* 1 of them are there with another prompt"):
        find([predicted(tmp_path / "old", rows.tokens, seed=3)], rows_of(changed))


def test_only_the_rows_trained_on_need_a_prediction(table, tmp_path):
    rows = rows_of(table, fold="1/3")
    teacher = predicted(tmp_path / "p", rows.tokens, rows.train, trained=rows.tokens.groups[rows.held_out])
    found = find([teacher], rows)
    assert (found.targets[:, :, rows.held_out] == 0).all()
    assert (found.targets[:, :, rows.train] != 0).any(-1).all()
    assert found.record["held_out_rows_seen_by_teachers"] == len(rows.held_out) > 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "nowhere: no prediction.json"),
        (["t="], "write it as FOLDER, NAME=FOLDER,FOLDER, bayes or baseline"),
        (["t={p}", "t={q}"], "t is named twice"),
        (["{p}", "again={p}"], "are the same prediction"),
        (["bayes", "bayes"], "bayes is named twice"),
    ],
)
def test_words_that_name_no_teachers(words, sentence, table, tmp_path):
    rows = rows_of(table)
    p, q = predicted(tmp_path / "p", rows.tokens), predicted(tmp_path / "q", rows.tokens, seed=1)
    with pytest.raises(UserError, match=sentence):
        find([word.format(p=p, q=q) for word in words], rows)


def test_bayes_is_the_samples_law_and_known_for_nothing_else(table, tmp_path):
    rows = rows_of(table)
    found = find(["bayes"], rows, DistillSettings(calibrate=True, symmetrise=True))
    np.testing.assert_allclose(softmax(found.targets[0, 0]), rows.tokens.bayes, atol=1e-6)  # kept in fp32
    np.testing.assert_allclose(softmax(found.targets[0, 1]), rows.tokens.bayes[:, SWAPPED_CLASS], atol=1e-6)
    assert found.record["teachers"][0]["temperature"] == 1
    foreign = tmp_path / "foreign.csv"
    foreign.write_text(table.read_text().replace("sample-", "other-"))
    with pytest.raises(UserError, match="embedded sample's rows only"):
        find(["bayes"], rows_of(foreign))


def test_the_baseline_teaches_each_row_by_fits_without_its_prompt(tmp_path, monkeypatch):
    table, extra = tmp_path / "t.csv", tmp_path / "extra.csv"
    write_sample(table, 240, seed=3, profile="short")
    write_sample(extra, 20, seed=9, profile="short")
    rows = rows_of(table, fold="0/4", extra=(extra,))
    found = find(["baseline"], rows, DistillSettings(calibrate=True, symmetrise=True))
    entry, train = found.record["teachers"][0], rows.train
    assert (entry["name"], entry["both_orders"], entry["predictions"]) == ("baseline", True, [])
    labels = rows.tokens.labels[train]
    shares = np.bincount(labels[labels >= 0], minlength=3) / (labels >= 0).sum()
    assert entry["log_loss"] < -(shares * np.log(shares)).sum(), "no better than the prior"
    ab, ba = (softmax(targets[train]) for targets in found.targets[0])
    np.testing.assert_allclose(ba, ab[:, SWAPPED_CLASS], atol=1e-6)
    assert (np.abs(ab[labels == NO_LABEL].sum(1) - 1) < 1e-5).all() and ab[labels == NO_LABEL].std(0).min() > 0
    # With another label of one row, in the same folds, all is as before in its own fold, and nowhere else.
    folds = assign_folds(labels, rows.tokens.groups[train], FOLDS, FOLDS_SEED)
    monkeypatch.setattr(baseline_teacher, "assign_folds", lambda *_: folds)
    before, one = view_of_baseline(rows), int(np.flatnonzero(labels != NO_LABEL)[0])
    rows.tokens.labels = rows.tokens.labels.copy()
    rows.tokens.labels[train[one]] = (labels[one] + 1) % 3
    changed = (before.ab != view_of_baseline(rows).ab).any(1)
    np.testing.assert_array_equal(changed, folds != folds[one])


def test_the_baseline_cannot_teach_of_few_rows_or_of_a_table_that_changed(table, tmp_path):
    write_sample(few := tmp_path / "few.csv", 4, seed=3, profile="short")
    with pytest.raises(UserError, match="--teachers baseline: 5 folds need at least 5 distinct prompts"):
        find(["baseline"], rows_of(few))
    changing = tmp_path / "changing.csv"
    changing.write_text(table.read_text())
    rows = rows_of(changing)
    write_sample(changing, 60, seed=8, profile="short")
    with pytest.raises(UserError, match="is no longer what it was a moment ago"):
        find(["baseline"], rows)


def test_extra_rows_have_no_labels_and_are_checked_like_the_others(table, tmp_path, capsys):
    configure_logging()
    extra = tmp_path / "extra.csv"
    write_sample(extra, 25, seed=9, profile="short")
    rows = rows_of(table, fold="0/4", extra=(extra,))
    count, held_out = len(rows.tokens), rows.held_out
    assert count == 85 and len(rows.train) == 85 - len(held_out) and len(rows.valid) == 60
    assert (rows.tokens.labels[60:] == NO_LABEL).all() and (rows.tokens.labels[:60] != NO_LABEL).all()
    alone = rows_of(extra).tokens
    for k in range(25):
        np.testing.assert_array_equal(
            rows.tokens.input_ids(60 + k, swapped=k % 2 == 1)[0], alone.input_ids(k, swapped=k % 2 == 1)[0]
        )
    one = predicted(tmp_path / "one", rows.valid)
    two = predicted(tmp_path / "two", alone, seed=1)
    found = find([f"t={one},{two}"], rows)
    np.testing.assert_array_equal(found.targets[0, :, 60 + 7], logits_of(two)[alone.ids[7]])
    with pytest.raises(UserError, match="no prediction for 25 of"):
        find([f"t={one}"], rows)

    saw = predicted(tmp_path / "saw", alone, trained=alone.groups[:4], seed=2)
    with pytest.raises(UserError, match="trained on their prompts: 4 of its 25 rows"):
        find([f"t={one},{saw}"], rows)

    lines, theirs = extra.read_text().splitlines(), table.read_text().splitlines()
    lines[3] = with_prompt(lines[3], theirs[1 + int(held_out[0])], "55", lambda text: text.replace(" ", "   "))
    leaky = tmp_path / "leaky.csv"
    leaky.write_text("\n".join(lines) + "\n")
    capsys.readouterr()
    rows = rows_of(table, fold="0/4", extra=(leaky,))
    assert "24 rows, trained on without labels; 1 more are left out" in capsys.readouterr().out
    ids = [rows.tokens.ids[row] for row in rows.train]
    assert len(ids) == 60 - len(held_out) + 24 and "55" not in ids


def drawn_view(rows: int, temperature: float, both: bool = True) -> tuple[TeacherLogits, np.ndarray]:
    """A teacher whose logits are those of the law that the labels are drawn from, times a temperature."""
    rng = np.random.default_rng(8)
    logits = rng.normal(size=(rows, 3)) * 1.5
    labels = (rng.random(rows)[:, None] > softmax(logits).cumsum(1)[:, :2]).sum(1)
    noisy = logits + rng.normal(size=(rows, 3)) * 0.1
    return TeacherLogits("t", logits * temperature, noisy[:, SWAPPED_CLASS] * temperature, np.full(rows, both)), labels


def test_calibration_finds_the_temperature_and_divides_by_it():
    view, labels = drawn_view(20_000, 2.5)
    found = best_temperature(view, labels)
    assert found == pytest.approx(2.5, rel=0.03)  # the standard error at 20,000 rows is about 1 %

    def loss(t):
        stacked = np.concatenate([softmax(view.ab / t), softmax(view.ba / t)])
        return log_loss(stacked, np.concatenate([labels, SWAPPED_CLASS[labels]]))

    assert loss(found) <= min(loss(found * 1.01), loss(found / 1.01))
    targets, told = make_targets([view], labels, DistillSettings(calibrate=True))
    np.testing.assert_allclose(targets[0, 0], view.ab / found, rtol=1e-5)
    np.testing.assert_allclose(targets[0, 1], view.ba / found, rtol=1e-5)
    assert told[0]["temperature"] == found and told[0]["log_loss"] < log_loss(softmax(view.ab), labels)


def test_symmetrised_teachers_say_the_same_in_both_orders():
    view, labels = drawn_view(50, 1.0)
    targets, _ = make_targets([view], labels, DistillSettings(symmetrise=True))
    mean = (softmax(view.ab) + softmax(view.ba)[:, SWAPPED_CLASS]) / 2
    np.testing.assert_allclose(softmax(targets[0, 0]), mean, atol=1e-6)
    np.testing.assert_array_equal(targets[0, 1], targets[0, 0][:, SWAPPED_CLASS])
    np.testing.assert_allclose(centred_log(mean).mean(1), 0, atol=1e-12)
    one_sided, _ = drawn_view(50, 1.0, both=False)
    with pytest.raises(UserError, match="50 rows in one answer order only: predict them with --swap"):
        make_targets([one_sided], labels, DistillSettings(symmetrise=True))


def test_teachers_weigh_equally_as_given_or_by_what_they_gain_over_the_prior():
    good, labels = drawn_view(4_000, 1.0)
    rng = np.random.default_rng(1)
    fair = TeacherLogits("fair", good.ab + rng.normal(size=(4_000, 3)), good.ba, good.both)
    bad = TeacherLogits("bad", rng.normal(size=(4_000, 3)) * 3, good.ba, good.both)
    labels[:5] = NO_LABEL
    known = labels != NO_LABEL

    def weights(how):
        return [
            entry["weight"]
            for entry in make_targets([good, fair, bad], labels, DistillSettings(teacher_weights=how))[1]
        ]

    assert weights("equal") == [1, 1, 1]
    assert weights([0.5, 2, 0]) == [0.5, 2, 0]
    found = weights("log-loss")
    shares = np.bincount(labels[known]) / known.sum()
    gains = [-(shares * np.log(shares)).sum() - log_loss(softmax(v.ab[known]), labels[known]) for v in (good, fair)]
    assert found[2] == 0 and sum(found) == pytest.approx(3)
    assert found[0] / found[1] == pytest.approx(gains[0] / gains[1])
    with pytest.raises(UserError, match="2 weights for 3 teachers"):
        weights([1, 1])
    with pytest.raises(UserError, match="need labelled rows"):
        make_targets([good], np.full(4_000, NO_LABEL), DistillSettings(calibrate=True))
