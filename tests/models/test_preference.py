"""Invariant 3 and the attention choice."""

import pytest
import torch
from tiny import WINDOW, tiny_folder

from tiebreak.attention.backends import Attention, choose_attention
from tiebreak.attention.packing import Packing
from tiebreak.config import load_recipe
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.errors import UserError
from tiebreak.models.loading import build_model, choose_precision, load_tokenizer

pytestmark = pytest.mark.slow  # models are loaded in each

CPU = torch.device("cpu")
TWINS = {"bert": "demo-deberta", "gemma3_text": "demo-gemma2"}
BACKBONES = ("demo-gemma2", "demo-llama2", "demo-deberta", *TWINS)


@pytest.fixture(
    scope="module", params=[(name, method) for name in BACKBONES for method in ("full", "lora", "qlora")], ids=str
)
def loaded(request, sample, tmp_path_factory):
    """A judge whose adapters do something, its tokenizer, and the tokens of rows of very unequal length."""
    name, method = request.param
    base = str(tiny_folder(name, tmp_path_factory.mktemp(name))) if name in TWINS else None
    recipe = load_recipe(TWINS.get(name, name), [f"model.method={method}"], base)
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    tokens = prepare([sample], tokenizer, TEMPLATES[recipe.model.template], recipe.data, need_labels=True)
    judge = build_model(recipe, tokenizer, CPU, torch.float32).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter_name, parameter in judge.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(0, 0.05)
    rows = [torch.from_numpy(tokens.input_ids(k)[0]).long() for k in range(24)]
    return judge, tokenizer, rows


def test_invariant_3_padded_equals_packed_equals_alone(loaded):
    """Against each row alone, and against transformers' own forward of a padded batch, to 1e-5 in fp32."""
    judge, tokenizer, rows = loaded
    lengths = [len(row) for row in rows]
    assert max(lengths) > 1.5 * min(lengths), "rows of one length would prove nothing"
    assert min(lengths) > WINDOW, "rows within a sliding window would prove nothing of it"
    assert judge.attention.packed
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    mask = torch.arange(batch.shape[1]) < torch.tensor(lengths)[:, None]
    chosen, config = judge.attention, judge.classifier.config
    with torch.no_grad():
        packed = judge(torch.cat(rows), lengths)
        alone = torch.cat([judge(row, [len(row)]) for row in rows])
        config._attn_implementation = "eager"
        judge.attention = Attention("eager", "the stock padded path")
        padded = judge(torch.cat(rows), lengths)
        stock = judge.network(input_ids=batch, attention_mask=mask.long()).logits
        config._attn_implementation, judge.attention = chosen.implementation, chosen
    assert packed.std() > 1e-3, "equal logits everywhere would prove nothing"
    for other in (alone, padded, stock):
        torch.testing.assert_close(packed, other, atol=1e-5, rtol=0)


def test_gradients_are_those_of_the_stock_forward(loaded):
    judge, tokenizer, rows = loaded
    lengths = [len(row) for row in rows]
    weights = torch.linspace(-1, 1, 3 * len(rows)).view(-1, 3)
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    mask = torch.arange(batch.shape[1]) < torch.tensor(lengths)[:, None]
    config, implementation = judge.classifier.config, judge.attention.implementation

    def gradients(logits):
        judge.zero_grad()
        (logits * weights).sum().backward()
        return {name: p.grad.clone() for name, p in judge.named_parameters() if p.grad is not None}

    packed = gradients(judge(torch.cat(rows), lengths))
    config._attn_implementation = "eager"
    stock = gradients(judge.network(input_ids=batch, attention_mask=mask.long()).logits)
    config._attn_implementation = implementation
    assert packed.keys() == stock.keys()
    largest = max(gradient.abs().max().item() for gradient in stock.values())
    for name, gradient in stock.items():
        # Sums over a thousand tokens in another order: fp32 rounding of the largest gradient.
        torch.testing.assert_close(packed[name], gradient, atol=1e-5 * largest, rtol=1e-4, msg=name)


def test_head_runs_in_fp32_and_is_not_quantised(loaded):
    judge, _, rows = loaded
    heads = [
        p for name, p in judge.named_parameters() if any(part in name for part in ("score", "classifier", "pooler"))
    ]
    assert heads and not [p for p in heads if type(p).__name__ == "Params4bit"]
    assert {p.dtype for p in heads} == {torch.float32}
    assert judge(rows[0], [len(rows[0])]).dtype == torch.float32


def test_padding_token_as_a_real_last_token_is_pooled(loaded):
    """Pooling is by length: a row that ends in the padding token keeps it."""
    judge, tokenizer, rows = loaded
    row = torch.cat([rows[0], torch.tensor([tokenizer.pad_token_id])])
    with torch.no_grad():
        together = judge(torch.cat([row, rows[1]]), [len(row), len(rows[1])])
        alone = judge(row, [len(row)])
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)
    if hasattr(judge.classifier, "score"):
        assert (alone - judge(rows[0], [len(rows[0])])).abs().max() > 1e-6


def test_rows_scatter_undoes_their_gathering_and_so_do_gradients():
    lengths = [5, 1, 9, 9, 2, 5, 30]
    packing = Packing.of(lengths, CPU)
    tokens = torch.randn(sum(lengths), 2, requires_grad=True)
    groups = packing.gather(tokens)
    scattered = packing.scatter([states * 3 for states in groups])
    assert torch.equal(scattered, tokens * 3)
    weights = torch.randn_like(tokens)
    (scattered * weights).sum().backward()
    assert torch.equal(tokens.grad, weights * 3), "padding has none"
    assert sorted(n for group in packing.groups for n in group.lengths) == sorted(lengths)
    for group, states in zip(packing.groups, groups, strict=True):
        assert group.real.shape == states.shape[:2] and group.real.sum(1).tolist() == group.lengths
        assert group.real.numel() <= 1.25 * sum(group.lengths)


@pytest.mark.parametrize(
    ("name", "wanted", "sentence"),
    [
        ("demo-llama2", "flash", "no GPU"),
    ],
)
def test_attention_that_cannot_run_is_refused(name, wanted, sentence):
    from transformers import AutoConfig

    from tiebreak.models.demo import demo_folder

    with pytest.raises(UserError, match=sentence):
        choose_attention(AutoConfig.from_pretrained(demo_folder(name)), wanted, CPU)


@pytest.mark.parametrize(("emulated", "expected"), [(True, torch.float32), (False, torch.bfloat16)])
def test_bf16_that_a_gpu_only_emulates_is_not_chosen(emulated, expected, monkeypatch):
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or not emulated

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert choose_precision("auto", torch.device("cuda")) is expected
