"""The last layer computed for pooled tokens alone: the same logits and gradients, from less work."""

import pytest
import torch
from tiny import tiny_folder

from tiebreak.config import load_recipe
from tiebreak.models.loading import build_model, load_tokenizer
from tiebreak.models.preference import PreferenceModel

CPU = torch.device("cpu")
LENGTHS = [5, 40, 17, 1, 40, 9]
NAMES = ("demo-gemma2", "demo-llama2", "demo-qwen2", "demo-deberta", "bert")


def build(name, folder, *changes) -> PreferenceModel:
    base = str(tiny_folder(name, folder / "base")) if name == "bert" else None
    recipe = load_recipe("demo-deberta" if name == "bert" else name, ["model.method=full", *changes], base)
    return build_model(recipe, load_tokenizer(recipe.model.base, recipe.model.template), CPU, torch.float32)


def logits_and_gradients(judge: PreferenceModel):
    tokens = torch.randint(5, 200, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))
    judge.zero_grad()
    logits = judge(tokens, LENGTHS)
    logits.square().sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in judge.named_parameters() if parameter.grad is not None}
    return logits.detach(), found


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_logits_and_gradients_are_those_of_the_whole_layer(name, checkpointing, tmp_path):
    judge = build(name, tmp_path, f"train.gradient_checkpointing={str(checkpointing).lower()}").eval()
    judge.train(checkpointing)  # which transformers does in training alone; these models have no dropout then
    for module in judge.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert judge.early
    logits, gradients = logits_and_gradients(judge)
    judge.early = False
    whole_logits, whole_gradients = logits_and_gradients(judge)
    assert logits.std() > 1e-4
    # Products of other shapes round otherwise.
    torch.testing.assert_close(logits, whole_logits, atol=2e-6, rtol=0)
    assert gradients.keys() == whole_gradients.keys()
    for key, gradient in whole_gradients.items():
        torch.testing.assert_close(gradients[key], gradient, atol=1e-5, rtol=1e-4, msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_what_follows_the_last_attention_sees_one_token_a_row(name, tmp_path):
    judge = build(name, tmp_path).eval()
    seen = []
    for layer in judge.layers:
        after = layer.mlp if hasattr(layer, "mlp") else layer.intermediate
        after.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[-2]))
    logits_and_gradients(judge)
    assert seen[-1] == len(LENGTHS) and set(seen[:-1]) == {sum(LENGTHS)}


def test_a_mean_needs_all_tokens(tmp_path):
    assert not build("demo-gemma2", tmp_path, "model.pooling=mean").early
