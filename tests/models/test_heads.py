"""Heads and pooling beyond transformers' own: alone == together, saved == reloaded, what is frozen."""

import numpy as np
import pytest
import torch

from tiebreak.config import load_recipe, make_recipe
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.errors import UserError
from tiebreak.models.folder import save_model
from tiebreak.models.heads import FeatureHead, SiameseHead, fit_features, pool
from tiebreak.models.loading import build_model, load_model, load_tokenizer

pytestmark = pytest.mark.slow  # models are loaded in each

CPU = torch.device("cpu")
SIAMESE = ["model.template=siamese", "model.head=siamese"]
KINDS = {
    "mlp": ["model.head=mlp", "model.head_hidden=24", "model.head_dropout=0.5"],
    "mean": ["model.pooling=mean"],
    "siamese": SIAMESE,
    "siamese, mean": [*SIAMESE, "model.pooling=mean", "model.head_dropout=0.1"],
    "features": ["data.features=[length,turns]"],
    "siamese, features": [*SIAMESE, "data.features=[style,turns,readability]"],
}


def made(name, changes, sample, attention="auto"):
    recipe = load_recipe(name, [*changes, f"model.attention={attention}", "data.max_tokens=128"])
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    tokens = prepare([sample], tokenizer, TEMPLATES[recipe.model.template], recipe.data, need_labels=True)
    return recipe, tokenizer, tokens, build_model(recipe, tokenizer, CPU, torch.float32).eval()


def logits_of(judge, tokens, rows, swapped=False):
    texts = [text for row in rows for text in tokens.input_ids(row, swapped)]
    found = tokens.features_of(np.array(rows), np.full(len(rows), swapped))
    numbers = None if found is None else torch.from_numpy(found)
    with torch.no_grad():
        return judge(torch.from_numpy(np.concatenate(texts)).long(), [len(text) for text in texts], numbers)


def moved(judge):
    """Away from the start, where many outputs are alike."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in judge.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return judge


@pytest.mark.parametrize("attention", ["rows", "eager"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [*(("demo-deberta", kind) for kind in KINDS), *(("demo-llama2", kind) for kind in ("mlp", "mean", "features"))],
)
def test_invariant_3_together_equals_alone(name, kind, attention, sample):
    changes = [*KINDS[kind], "model.method=full"]
    *_, tokens, judge = made(name, changes, sample, attention)
    moved(judge)
    together, alone = logits_of(judge, tokens, range(7)), [logits_of(judge, tokens, [row]) for row in range(7)]
    assert together.shape == (7, 3)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    assert together.std(0).min() > 1e-4, "every row got the same logits"


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("kind", KINDS)
def test_invariant_4_saved_equals_reloaded(kind, method, sample, tmp_path):
    recipe, tokenizer, tokens, judge = made("demo-deberta", [*KINDS[kind], f"model.method={method}"], sample)
    moved(judge)
    save_model(judge, tokenizer, recipe, {"prior": [1 / 3] * 3}, tmp_path / "model")
    again = load_model(tmp_path / "model", recipe, CPU, torch.float32)
    expected = logits_of(judge, tokens, range(5))
    torch.testing.assert_close(logits_of(again, tokens, range(5)), expected, atol=1e-5, rtol=0)
    assert expected.abs().max() > 0.05


@pytest.mark.parametrize("kind", ["siamese", "mlp"])
def test_a_judge_taught_further_keeps_its_head(kind, sample, tmp_path):
    """Unless the recipe asks for a head that it does not have."""
    recipe, tokenizer, tokens, judge = made("demo-deberta", [*KINDS[kind], "model.method=full"], sample)
    moved(judge)
    save_model(judge, tokenizer, recipe, {"prior": [1 / 3] * 3}, tmp_path / "model")
    recipe = make_recipe(recipe.model_dump(), base=str(tmp_path / "model"))
    further = build_model(recipe, tokenizer, CPU, torch.float32).eval()
    expected = logits_of(judge, tokens, range(5))
    torch.testing.assert_close(logits_of(further, tokens, range(5)), expected, atol=1e-5, rtol=0)
    recipe = make_recipe(recipe.model_dump(), ["model.head_hidden=7"])
    fresh = build_model(recipe, tokenizer, CPU, torch.float32).eval()
    assert (logits_of(fresh, tokens, range(5)) - expected).abs().max() > 1e-3


def test_a_head_without_its_weights_is_refused(sample, tmp_path):
    recipe, tokenizer, _, judge = made("demo-deberta", ["model.method=full"], sample)
    save_model(judge, tokenizer, recipe, {}, tmp_path / "model")
    other = load_recipe("demo-deberta", ["model.method=full", "model.head=mlp"])
    with pytest.raises(UserError, match="weights of its head are absent"):
        load_model(tmp_path / "model", other, CPU, torch.float32)


@pytest.mark.parametrize("kind", ["siamese", "siamese, features"])
def test_invariant_7_a_siamese_head_swaps_with_its_sides(kind, sample):
    *_, tokens, judge = made("demo-deberta", [*KINDS[kind], "model.method=full"], sample)
    moved(judge)
    one, other = logits_of(judge, tokens, range(9)), logits_of(judge, tokens, range(9), swapped=True)
    torch.testing.assert_close(other, one[:, [1, 0, 2]], atol=1e-6, rtol=0)
    assert (one[:, 0] - one[:, 1]).abs().max() > 1e-3


def test_the_sides_of_a_siamese_row_hold_the_prompt_with_each_answer(sample):
    _, tokenizer, tokens, _ = made("demo-deberta", SIAMESE, sample)
    texts = [tokenizer.decode(text) for text in tokens.input_ids(0)]
    assert len(texts) == 2
    prompts = {text.split("[ANSWER]")[0] for text in texts}
    assert len(prompts) == 1 and prompts.pop().startswith("[CLS][PROMPT]")
    assert texts[::-1] == [tokenizer.decode(text) for text in tokens.input_ids(0, swapped=True)]
    assert [sum(map(len, tokens.input_ids(row))) for row in range(400)] == tokens.lengths.tolist()
    assert tokens.lengths.max() <= 128


def test_a_siamese_head_needs_the_siamese_template():
    with pytest.raises(UserError, match="set both or neither"):
        load_recipe("demo-deberta", ["model.head=siamese"])


def test_pooling_goes_by_place_and_length():
    hidden = torch.arange(12.0)[:, None]  # two padded texts of 3 and 5 tokens, in places of 6
    starts, lengths = np.array([0, 6]), [3, 5]
    assert pool(hidden, starts, lengths, "cls").flatten().tolist() == [0, 6]
    assert pool(hidden, starts, lengths, "last").flatten().tolist() == [2, 10]
    assert pool(hidden, starts, lengths, "mean").flatten().tolist() == [1, 8]


def test_a_siamese_head_has_gradients_everywhere():
    head = SiameseHead(8, 6, 0.0)
    head(torch.randn(5, 2, 8)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in head.parameters())


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kind", ["features", "siamese, features", "mlp"])
def test_a_judge_with_features_starts_as_their_logistic_model(kind, method, sample):
    """Whatever the text: its share of the logits starts at zero. Features are standardised on the rows given."""
    from scipy.special import log_softmax
    from sklearn.linear_model import LogisticRegression

    changes = [*KINDS[kind], "data.features=[length,turns]", f"model.method={method}"]
    recipe, tokenizer, tokens, _ = made("demo-deberta", changes, sample)
    rows = np.arange(0, 400, 2)
    judge = build_model(recipe, tokenizer, CPU, torch.float32).eval()
    if isinstance(judge.head, FeatureHead):
        judge.head.fit(tokens.features[rows], tokens.labels[rows])
    numbers, labels, signs = tokens.features[rows], tokens.labels[rows], tokens.swap_signs
    mean = np.where(signs > 0, numbers.mean(0), 0)
    scale = np.sqrt(((numbers - mean) ** 2).mean(0))
    scaled = (numbers - mean) / scale
    model = LogisticRegression(max_iter=1_000)
    model.fit(np.concatenate([scaled, scaled * signs]), np.concatenate([labels, np.array([1, 0, 2])[labels]]))
    chosen = np.arange(1, 60, 2)
    inputs = np.clip((tokens.features[chosen] - mean) / scale, -5, 5)
    found, swapped = (logits_of(judge, tokens, chosen, order).numpy() for order in (False, True))
    # Both orders were fitted to the optimizer's tolerance, so the model itself is antisymmetric to about 1e-3.
    np.testing.assert_allclose(log_softmax(found, 1), model.predict_log_proba(inputs), atol=5e-3)
    np.testing.assert_allclose(swapped, found[:, [1, 0, 2]], atol=1e-5)
    assert found.std(0).min() > 0.01


def test_features_without_labels_or_spread_start_at_nothing():
    numbers = np.array([[1.0, 5.0], [-1.0, 5.0], [2.0, 5.0]], dtype=np.float32)
    mean, scale, weights, biases = fit_features(numbers, np.full(3, -1), np.array([-1.0, 1.0]))
    assert mean.tolist() == [0, 5] and scale.tolist() == [pytest.approx(2**0.5), 1]
    assert not weights.any() and biases.tolist() == [biases[0]] * 3
    _, _, weights, biases = fit_features(numbers, np.array([0, 1, -1]), np.array([-1.0, 1.0]))
    assert biases[2] < biases[0] and weights[0, 0] > weights[1, 0], "no tie was seen; the first number speaks for A"


def test_a_feature_far_out_is_clipped():
    head = FeatureHead(torch.nn.Linear(4, 3), torch.tensor([-1.0]))
    head.start(np.zeros(1), np.ones(1), np.array([[1.0], [-1.0], [0.0]]), np.zeros(3))
    found = head(torch.randn(3, 4), torch.tensor([[2.0], [5.0], [500.0]]))
    assert found.tolist() == [[2, -2, 0], [5, -5, 0], [5, -5, 0]]


@pytest.mark.parametrize(
    ("freeze", "trained"),
    [
        ("none", {"embeddings", "layer.0", "layer.1", "head"}),
        ("embeddings", {"layer.0", "layer.1", "head"}),
        ("1", {"layer.1", "head"}),
        ("backbone", {"head"}),
    ],
)
def test_freezing(freeze, trained, sample):
    *_, judge = made("demo-deberta", ["model.method=full", f"model.freeze={freeze}"], sample)
    places = {"word_embeddings": "embeddings", "layer.0.": "layer.0", "layer.1.": "layer.1", "classifier.": "head"}
    names = [name for name, parameter in judge.named_parameters() if parameter.requires_grad]
    found = {place for mark, place in places.items() if any(mark in name for name in names)}
    assert found == trained


def test_freezing_the_backbone_leaves_berts_pooler(sample, tmp_path):
    from tiny import tiny_folder

    tiny_folder("bert", tmp_path)
    *_, judge = made("demo-deberta", [f"model.base={tmp_path}", "model.freeze=backbone"], sample)
    names = [name for name, parameter in judge.named_parameters() if parameter.requires_grad]
    assert {name.rsplit(".", 2)[0] for name in names} == {"network.bert.pooler", "network"}
