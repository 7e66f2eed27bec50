"""The embedded sample: same bytes by seed, Kaggle's encoding, a law that is known exactly."""

import csv
import time

import numpy as np
import pytest

from tiebreak.cli import main
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import row_losses
from tiebreak.evaluation.text_baselines import count_words, fit_text
from tiebreak.sample.generator import write_sample
from tiebreak.sample.language import SUBJECTS
from tiebreak.sample.law import POSITION, bayes_probabilities, is_sample, law
from tiebreak.tables.cells import decode_json_cell, encode_json_cell
from tiebreak.tables.rows import TEXT_COLUMNS
from tiebreak.tables.table import read_table

ROWS = 6_000  # more than one chunk of the generator


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A short sample, its summary and its pairs."""
    path = tmp_path_factory.mktemp("sample") / "sample.csv"
    summary = write_sample(path, ROWS, seed=3, profile="short")
    return path, summary, read_table([path], need_labels=True).pairs


@pytest.fixture(scope="module")
def probabilities(sample):
    _, _, pairs = sample
    return law_of(pairs)


def law_of(pairs) -> np.ndarray:
    return bayes_probabilities(*zip(*((pair.prompt, pair.response_a, pair.response_b) for pair in pairs), strict=True))


def labels_of(pairs) -> np.ndarray:
    return np.array([pair.label for pair in pairs])


def test_the_same_seed_gives_the_same_bytes(sample, tmp_path):
    path, summary, _ = sample
    assert write_sample(tmp_path / "again.csv", ROWS, seed=3, profile="short") == summary
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("change", [{"seed": 4}, {"profile": "arena"}])
def test_another_seed_or_profile_gives_another_table(tmp_path, change):
    write_sample(tmp_path / "one.csv", 50, **{"seed": 3, "profile": "short"})
    write_sample(tmp_path / "two.csv", 50, **({"seed": 3, "profile": "short"} | change))
    assert (tmp_path / "one.csv").read_bytes() != (tmp_path / "two.csv").read_bytes()


def test_every_cell_is_in_the_encoding_of_kaggle(sample):
    with open(sample[0], encoding="ascii", newline="") as file:
        cells = [row[name] for row in csv.DictReader(file, strict=True) for name in TEXT_COLUMNS]
    assert len(cells) == 3 * ROWS
    assert all(encode_json_cell(decode_json_cell(cell)) == cell for cell in cells)


@pytest.mark.parametrize(
    "oddity",
    ["[]", "[null]", '[""]', ",null", "\\ud83d\\ude0a", "\\/", '\\"', '","'],
    ids=str,
)
def test_the_oddities_of_the_real_table_are_there(sample, oddity):
    with open(sample[0], encoding="ascii", newline="") as file:
        assert any(oddity in row[name] for row in csv.DictReader(file) for name in TEXT_COLUMNS)


def test_multi_turn_rows_are_as_common_as_in_the_real_table(sample):
    share = np.mean([len(pair.prompt) > 1 for pair in sample[2]])
    error = np.sqrt(0.131 * 0.869 / ROWS)
    assert abs(share - 0.131) < 4 * error


def test_ids_rise_below_two_to_the_32(sample):
    ids = np.array([int(pair.id) for pair in sample[2]])
    assert (np.diff(ids) > 0).all() and 2**30 < ids[-1] < 2**32


def test_bayes_is_the_mean_entropy_of_the_law_read_back_from_the_texts(sample, probabilities):
    entropy = -(probabilities * np.log(probabilities)).sum(1).mean()
    # The same float64 terms in another order: rounding alone differs.
    assert sample[1].bayes == pytest.approx(entropy, rel=1e-10)


def test_bayes_realised_is_the_law_on_the_drawn_labels(sample, probabilities):
    _, summary, pairs = sample
    realised = -np.log(probabilities[np.arange(ROWS), labels_of(pairs)]).mean()
    assert summary.bayes_realised == pytest.approx(realised, rel=1e-10)


def test_prior_is_the_entropy_of_the_drawn_class_shares(sample):
    path, summary, pairs = sample
    counts = np.bincount(labels_of(pairs), minlength=3)
    assert summary.class_counts == tuple(counts.tolist())
    assert summary.prior == pytest.approx(-(counts / ROWS * np.log(counts / ROWS)).sum(), rel=1e-10)
    assert (summary.rows, summary.bytes) == (ROWS, path.stat().st_size)
    assert summary.bayes < summary.prior - 0.05, "there must be something to learn"


def test_labels_follow_the_law(sample, probabilities):
    """Log loss on the drawn labels, and each class's count, within four standard errors of the expected."""
    labels = labels_of(sample[2])
    losses = -np.log(probabilities)
    entropy = (probabilities * losses).sum(1)
    spread = np.sqrt(((probabilities * losses**2).sum(1) - entropy**2).sum())
    assert abs(losses[np.arange(ROWS), labels].sum() - entropy.sum()) < 4 * spread
    for k in range(3):
        spread = np.sqrt((probabilities[:, k] * (1 - probabilities[:, k])).sum())
        assert abs((labels == k).sum() - probabilities[:, k].sum()) < 4 * spread


def test_labels_are_calibrated_along_the_law(sample, probabilities):
    """Within each fifth of P(A), the share of A is what the law says: a chi-square in disguise."""
    labels, p = labels_of(sample[2]), probabilities[:, 0]
    for fifth in np.array_split(np.argsort(p), 5):
        spread = np.sqrt((p[fifth] * (1 - p[fifth])).sum())
        assert abs((labels[fifth] == 0).sum() - p[fifth].sum()) < 4 * spread


def test_the_law_is_symmetric_but_for_position():
    quality, a, b = np.array([0.5]), np.array([900]), np.array([300])
    forward, backward = law(quality, a, b), law(-quality, b, a)
    assert forward.sum() == pytest.approx(1)
    assert forward[0, 0] > backward[0, 1], "the first answer has the advantage of its place"


def test_only_who_reads_the_prompt_knows_what_an_answer_is_worth():
    """Advice about another subject than the prompt's loses to an aside about its own."""
    advice, aside = "This is verified step by step for the {}.", "People often talk about the {} in this way."
    same, other = advice.format("garden rules"), advice.format("river costs")
    prompts = [["How do I explain the garden rules to a friend? (case 7)"], ["WHY  DO  MY  GARDEN  RULES  NOT  WORK?"]]
    for prompt in prompts:
        (a, b, _), (c, d, _) = bayes_probabilities(
            [prompt] * 2, [[same], [aside.format("garden rules")]], [[other]] * 2
        )
        assert a / b > c / d > 1.5
    asked_for = bayes_probabilities([["Can you list three facts on the river costs?"]], [[same]], [[other]])
    assert asked_for[0, 1] > 0.75


def test_the_same_answers_are_worth_what_their_prompt_makes_of_them(sample, probabilities):
    """Rows in which every subject of the prompts is exchanged for the next have another law, and labels disagree."""
    pairs = sample[2]
    following = dict(zip(SUBJECTS, [*SUBJECTS[1:], SUBJECTS[0]], strict=True))
    prompts = [
        [" ".join(following.get(word, word) for word in turn.lower().split()) for turn in p.prompt] for p in pairs
    ]
    blind = bayes_probabilities(prompts, [p.response_a for p in pairs], [p.response_b for p in pairs])
    assert row_losses(blind, labels_of(pairs)).mean() > row_losses(probabilities, labels_of(pairs)).mean() + 0.2


def test_swapped_answers_swap_the_law_but_for_position(sample, probabilities):
    swapped = bayes_probabilities(*zip(*((p.prompt, p.response_b, p.response_a) for p in sample[2]), strict=True))
    place = np.log(probabilities[:, 0] / probabilities[:, 1]) + np.log(swapped[:, 0] / swapped[:, 1])
    np.testing.assert_allclose(place, 2 * POSITION, atol=1e-9)


def test_words_alone_leave_most_of_the_gap_open(sample):
    """TF-IDF and length, fitted on 5,000 rows, close part of the way from the prior to Bayes, and far from all."""
    _, summary, pairs = sample
    answers, labels, cut = count_words(pairs), labels_of(pairs), 5_000
    predict = fit_text(answers.rows(np.arange(cut)), labels[:cut])
    loss = row_losses(predict(answers.rows(np.arange(cut, len(pairs)))), labels[cut:]).mean()
    assert 0.1 < (summary.prior - loss) / (summary.prior - summary.bayes) < 0.5


def test_ties_can_be_predicted(sample, probabilities):
    ties = labels_of(sample[2]) == 2
    assert 0.25 < ties.mean() < 0.4 and (probabilities[ties].argmax(1) == 2).mean() > 0.4


@pytest.mark.parametrize(
    ("prompt", "answer", "message"),
    [("Hello?", "", "not a question"), ("Why do my garden rules not work like yours?", "Hello.", "not a sentence")],
)
def test_foreign_texts_have_no_law(prompt, answer, message):
    with pytest.raises(ValueError, match=f"{message} of the sample"):
        bayes_probabilities([[prompt]], [[answer]], [[""]])


def test_a_sample_is_known_by_its_models(sample):
    assert is_sample([pair.model_a for pair in sample[2]])
    assert not is_sample(["sample-elm", "gpt-4"]) and not is_sample([None]) and not is_sample([])


def test_a_test_table_has_no_models_and_no_winners(tmp_path):
    write_sample(tmp_path / "with.csv", 40, seed=1)
    write_sample(tmp_path / "without.csv", 40, seed=1, labels=False)
    assert (tmp_path / "without.csv").read_text().splitlines()[0] == "id,prompt,response_a,response_b"
    labelled, bare = (read_table([tmp_path / name]).pairs for name in ("with.csv", "without.csv"))
    for one, other in zip(labelled, bare, strict=True):
        assert (one.id, one.prompt, one.response_a) == (other.id, other.prompt, other.response_a)
        assert one.label is not None and other.label is None


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("sample.parquet", 3, "a sample is written as .csv"),
        ("sample.csv", 0, "--rows 0"),
        ("sample.csv", -1, "--rows -1"),
    ],
)
def test_a_sample_that_cannot_be_written_is_reported(tmp_path, name, rows, message):
    with pytest.raises(UserError, match=message):
        write_sample(tmp_path / name, rows)
    assert not list(tmp_path.iterdir())


def test_a_negative_seed_is_reported(tmp_path):
    assert main(["sample", "--rows", "3", "--seed", "-1", "--out", str(tmp_path / "sample.csv")]) == 2


def test_the_command_tells_what_it_wrote(tmp_path, capsys):
    path = tmp_path / "new" / "sample.csv"
    assert main(["sample", "--rows", "30", "--seed", "3", "--profile", "short", "--out", str(path)]) == 0
    summary = write_sample(tmp_path / "again.csv", 30, seed=3, profile="short")
    assert path.read_bytes() == (tmp_path / "again.csv").read_bytes()
    out = capsys.readouterr().out
    assert "30 rows" in out and f"prior log loss: {summary.prior:.6f}" in out
    assert f"Bayes log loss: {summary.bayes:.6f} expected, {summary.bayes_realised:.6f} on these labels" in out


def test_fifty_thousand_arena_rows_take_seconds(tmp_path):
    """About 2 s of CPU time; 15 s are allowed, since machines differ."""
    started = time.process_time()
    summary = write_sample(tmp_path / "arena.csv", 50_000)
    assert time.process_time() - started < 15
    assert 2_500 < summary.bytes / summary.rows < 4_000, "about as long as the real rows, 3.2 kB"
