"""Adapters in bf16: no copies of inputs, and merged for predictions."""

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer
from tiny import demo_judge

from tiebreak.config import load_recipe
from tiebreak.models.folder import save_model
from tiebreak.models.fp16 import in_fp32
from tiebreak.models.merged import merge_for_prediction
from tiebreak.models.switching import LoadedModels

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
LENGTHS = [9, 60, 33, 1, 140]
NAMES = ("demo-gemma2", "demo-llama2", "demo-qwen2", "demo-deberta")


def judge_of(name, method, precision, *changes):
    return demo_judge(name, method, precision, "model.lora.r=4", *changes, spread=0.1)


def tokens():
    torch.manual_seed(1)
    return torch.randint(5, 200, (sum(LENGTHS),))


def step(judge, casts):
    """Logits, gradients, and the bytes that the backward pass keeps, when adapters cast their inputs or not."""
    for module in judge.modules():
        if isinstance(module, LoraLayer):
            assert not module.cast_input_dtype_enabled
            module.cast_input_dtype_enabled = casts
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    judge.zero_grad(set_to_none=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = judge(tokens(), LENGTHS)
    logits.square().sum().backward()
    for module in judge.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False
    return logits.detach(), [p.grad for p in judge.parameters() if p.grad is not None], sum(kept.values())


@pytest.mark.parametrize("name", ["demo-gemma2", "demo-llama2", "demo-deberta"])
def test_adapters_keep_no_copy_of_their_inputs_and_compute_the_same(name):
    judge = judge_of(name, "lora", torch.bfloat16)[0].train()
    logits, gradients, kept = step(judge, casts=False)
    with_copies, others, more = step(judge, casts=True)
    assert torch.equal(logits, with_copies)
    assert len(gradients) == len(others) > 20
    assert all(torch.equal(one, other) for one, other in zip(gradients, others, strict=True))
    assert kept < 0.97 * more


def logits_of(judge):
    with torch.inference_mode():
        return judge(tokens(), LENGTHS).float()


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("name", NAMES)
def test_a_merged_judge_is_the_same_function_and_as_near_to_fp32_as_before(name, method):
    """In fp32 to rounding; in bf16 both are bf16's roundings away from what the same weights give in fp32."""
    exact = logits_of(judge_of(name, method, torch.float32)[0])
    judge, _, _ = judge_of(name, method, torch.float32)
    merge_for_prediction(judge)
    assert not any(isinstance(module, (LoraLayer, Linear4bit)) for module in judge.modules())
    torch.testing.assert_close(logits_of(judge), exact, atol=2e-5 * float(exact.abs().max()), rtol=0)
    judge, _, _ = judge_of(name, method, torch.bfloat16)
    with in_fp32(judge):
        exact = logits_of(judge)
    apart = logits_of(judge)
    merge_for_prediction(judge)
    together = logits_of(judge)
    assert not torch.equal(together, apart)
    near = 0.04 * float(exact.abs().max())
    torch.testing.assert_close(apart, exact, atol=near, rtol=0)
    torch.testing.assert_close(together, exact, atol=near, rtol=0)


def test_judges_are_merged_where_the_recipe_says_so_and_share_no_base(tmp_path):
    folders, expected = [], []
    for seed in (1, 2):
        judge, recipe, tokenizer = judge_of("demo-llama2", "lora", torch.float32, f"train.seed={seed}")
        with torch.no_grad():
            judge.head.weight.add_(0.1 * seed)
        folders.append(tmp_path / f"model-{seed}")
        save_model(judge, tokenizer, recipe, {"prior": [0.4, 0.4, 0.2]}, folders[-1])
        expected.append(logits_of(judge))
    merging = load_recipe("demo-llama2", ["model.method=lora", "model.lora.r=4", "predict.merge_adapters=true"])
    loaded = LoadedModels(CPU)
    for folder, logits in [*zip(folders, expected, strict=True), (folders[0], expected[0])]:
        judge = loaded.get(folder, merging, torch.float32)
        assert not any(isinstance(module, LoraLayer) for module in judge.modules())
        torch.testing.assert_close(logits_of(judge), logits, atol=2e-5, rtol=0)
    plain = loaded.get(folders[1], recipe, torch.float32)
    assert any(isinstance(module, LoraLayer) for module in plain.modules())
