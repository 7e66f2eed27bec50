"""Layers and judges on a GPU against other ways of computing the same; each also runs on the CPU, small, so that it is
not tried for the first time on the first day with a GPU."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from tiebreak.attention import flex
from tiebreak.attention.backends import Attention, choose_attention
from tiebreak.config import load_recipe
from tiebreak.models.architectures import ARCHITECTURES
from tiebreak.models.demo import demo_folder
from tiebreak.models.fp16 import in_fp32
from tiebreak.models.loading import build_model, choose_precision, load_tokenizer
from tiebreak.models.merged import merge_for_prediction
from tiebreak.models.packing_proof import TOLERANCE, packed_difference

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
HALF = 0.05
"""Of a length or a largest number: what bf16's roundings add up to over a few layers."""
LENGTHS = [700, 5, 300, 300, 64]
"""Some longer than the demo models' windows of 128."""


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    return torch.device(request.param)


def needs_gpu(*capability):
    there = torch.cuda.is_available() and torch.cuda.get_device_capability() >= capability
    return pytest.mark.skipif(not there, reason=f"no GPU of compute capability {capability} on this machine")


def judge_of(name, device, *changes, precision=None):
    recipe = load_recipe(name, list(changes))
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    judge = build_model(recipe, tokenizer, device, precision or choose_precision("auto", device)).train()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter_name, parameter in judge.named_parameters():
            if "lora_B" in parameter_name:
                parameter.copy_(torch.randn(parameter.shape) * 0.05)
    return judge


def step(judge, device, lengths=LENGTHS):
    torch.manual_seed(1)
    tokens = torch.randint(5, 200, (sum(lengths),)).to(device)
    judge.zero_grad(set_to_none=True)
    logits = judge(tokens, lengths)
    logits.square().sum().backward()
    gradients = torch.cat([p.grad.flatten().float() for p in judge.parameters() if p.grad is not None])
    return logits.detach().float(), gradients


def assert_near(found, expected, near):
    for one, other in zip(found, expected, strict=True):
        assert torch.isfinite(one).all() and other.norm() > 0
        assert (one - other).norm() <= near * other.norm()


@pytest.mark.parametrize("bits", [4, 8])
def test_activation_checkpointing_over_a_quantised_base(bits, device):
    """8-bit layers on a GPU look for outliers in the batch, so a repeated pass rounds as the first one did."""
    changes = ["model.method=qlora", f"model.bits={bits}"]
    plain = step(judge_of("demo-llama2", device, *changes), device)
    repeated = step(judge_of("demo-llama2", device, *changes, "train.gradient_checkpointing=true"), device)
    assert_near(repeated, plain, 1e-3 if device.type == "cpu" else HALF)


@pytest.mark.parametrize("name", ["demo-gemma2", "demo-llama2", "demo-deberta"])
def test_fp32_runs_whatever_is_installed_and_gives_what_the_cpu_gives(name, device):
    """flash-attn takes half precision alone."""
    judge = judge_of(name, device, "model.method=full", precision=torch.float32).eval()
    assert judge.attention.backend not in ("flash", "flex")
    cpu = judge_of(name, torch.device("cpu"), "model.method=full", precision=torch.float32).eval()
    found = [each.cpu() for each in step(judge, device)]
    assert_near(found, step(cpu, torch.device("cpu")), 1e-3)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_predictions_in_fp16_and_their_fp32(method, device):
    judge = judge_of("demo-gemma2", device, f"model.method={method}", precision=torch.float16).eval()
    torch.manual_seed(1)
    tokens = torch.randint(5, 200, (sum(LENGTHS),)).to(device)
    with torch.inference_mode():
        half = judge(tokens, LENGTHS)
        with in_fp32(judge):
            whole = judge(tokens, LENGTHS)
    assert not torch.equal(half, whole)
    assert (half - whole).abs().max() < HALF * max(1.0, float(whole.abs().max()))


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_merged_adapters_give_what_they_give_apart(method, device):
    judge = judge_of("demo-llama2", device, f"model.method={method}").eval()
    torch.manual_seed(1)
    tokens = torch.randint(5, 200, (sum(LENGTHS),)).to(device)
    with torch.inference_mode():
        apart = judge(tokens, LENGTHS)
        merge_for_prediction(judge)
        together = judge(tokens, LENGTHS)
    assert (together - apart).abs().max() < HALF * max(1.0, float(apart.abs().max()))


@needs_gpu(8, 0)
@pytest.mark.parametrize("name", ["demo-gemma2", "demo-llama2"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_compiled_flex_attention_gives_the_gradients_of_packed_rows(name, method):
    gpu = torch.device("cuda")
    changes = [f"model.method={method}", "train.gradient_checkpointing=true"]
    found = step(judge_of(name, gpu, *changes, "model.attention=flex"), gpu)
    assert_near(found, step(judge_of(name, gpu, *changes, "model.attention=packed-sdpa"), gpu), HALF)


@needs_gpu(8, 0)
def test_flex_attention_compiles_once_for_each_padded_length():
    from torch._dynamo.utils import counters

    gpu = torch.device("cuda")
    judge = judge_of("demo-gemma2", gpu, "model.method=lora", "model.attention=flex")
    step(judge, gpu, [500, 500])
    before = counters["stats"]["unique_graphs"]
    for lengths in ([100, 800], [10] * 95, [1000]):
        step(judge, gpu, lengths)
    assert counters["stats"]["unique_graphs"] == before


@needs_gpu(8, 0)
@pytest.mark.parametrize("base", ["google/gemma-2-9b-it", "google/gemma-2-27b-it", "meta-llama/Llama-2-7b-hf"])
def test_flex_attention_runs_at_the_width_of_real_heads_or_says_why_not(base):
    fields = ARCHITECTURES[base]
    sizes = (fields["num_attention_heads"], fields["num_key_value_heads"], fields["head_dim"])
    why = flex.try_flex(torch.device("cuda"), torch.bfloat16, *sizes, 50.0 if "gemma" in base else None)
    assert why is None or "does not run here" in why, why


def load_benchmark():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_benchmark"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("method", ["full", "qlora"])
@pytest.mark.parametrize(
    ("base", "demo", "template"),
    [("google/gemma-2-9b-it", "demo-gemma2", "gemma2"), ("meta-llama/Llama-2-7b-hf", "demo-llama2", "llama2")],
)
def test_layers_of_real_width_with_random_weights(base, demo, template, method, device):
    """Two layers: packed rows as the backend that is chosen has them, against rows alone by transformers' own."""
    fields = {**ARCHITECTURES[base], "num_hidden_layers": 2, "num_labels": 3}
    if device.type == "cpu":
        fields |= {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16}
        fields |= {"num_key_value_heads": min(4, fields["num_key_value_heads"]) // 2, "vocab_size": 4096}
    recipe = load_recipe(demo, [f"model.method={method}"])
    tokenizer = load_tokenizer(demo, template)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields, pad_token_id=tokenizer.pad_token_id)
    dtype = choose_precision("auto", device)
    judge = load_benchmark().random_judge(recipe, config, tokenizer, device, dtype).eval()
    assert {parameter.device.type for parameter in judge.parameters()} == {device.type}
    assert packed_difference(judge, device) <= TOLERANCE[dtype]
    found = step(judge.train(), device)
    judge.attention, judge.early = Attention("eager", "transformers' own"), False
    judge.classifier.set_attn_implementation("eager")
    assert_near(found, step(judge, device), 1e-3 if device.type == "cpu" else HALF)


def test_the_benchmark_runs_in_its_quick_form(capsys):
    """On a GPU too, where the same lines are of full size."""
    benchmark = load_benchmark()
    assert benchmark.main(["--quick"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + len(benchmark.QUICK)
    for line in lines[1:]:
        _, _, attention, per_second, share, _, parity, _ = (cell.strip() for cell in line.split("|"))
        assert attention and float(per_second.replace(",", "")) > 0 and share.endswith("%")
        assert float(parity) <= TOLERANCE[torch.bfloat16]


@needs_gpu(7, 0)
def test_the_memory_estimate_is_near_the_peak(tmp_path):
    """Of DeBERTa-v3-small at its recipe's size; the allocator's rounding and cuBLAS's workspaces are not counted."""
    benchmark = load_benchmark()
    benchmark.write_sample(tmp_path / "table.csv", 256, seed=11, profile="arena")
    gpu = torch.device("cuda")
    case = next(case for case in benchmark.CASES if case.name == "train deberta-v3-small")
    cells = benchmark.measure(case, tmp_path / "table.csv", gpu, choose_precision("auto", gpu), 1e12)
    peak, estimated = (float(number.strip("()")) for number in cells[4].split())
    assert 0.8 * estimated < peak < 1.1 * estimated


def test_the_choice_of_attention_is_said(device):
    """With the reason, whatever this machine has."""
    config = AutoConfig.from_pretrained(demo_folder("demo-gemma2"))
    chosen = choose_attention(config, "auto", device, choose_precision("auto", device))
    assert chosen.reason and (device.type == "cuda" or chosen.backend == "packed-sdpa")
