"""What a GPU does with the large recipes: tokens per second, MFU, memory and parity, with random weights of full size.

    python benchmarks/gpu.py                                # ten minutes on one GPU; prints a table to paste
    python benchmarks/gpu.py --only gemma2-9b --minutes 3   # the cases whose name has this
    python benchmarks/gpu.py --only deberta --cudnn         # what cuDNN's plans for each new shape cost
    python benchmarks/gpu.py --quick                        # tiny models, on a CPU too, to see that it runs

Nothing is downloaded: configurations are those in models/architectures.py, weights are random, tokens are the demo
tokenizers' of the embedded sample with rows as long as the Arena's. Models run by the code of `tiebreak train` and of
`tiebreak predict`. First the rate of large matrix products is measured, in the same process and precision; MFU is given
against that and the data sheet's peak. Memory is the allocator's peak beside the preflight's estimate. Parity is the
largest difference of hidden states of packed rows from rows alone with transformers' eager attention, over their
spread. A case that does not fit the GPU, by the estimate or in fact, is said so and left out.
"""

import argparse
import gc
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from tiebreak.attention.backends import choose_attention
from tiebreak.cluster.ranks import Ranks
from tiebreak.cluster.watchdog import HangWatchdog
from tiebreak.config import Recipe, load_recipe
from tiebreak.data.plan import Plan, blocks
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.data.tokens import Tokens
from tiebreak.engines.base import Engine
from tiebreak.models import loading
from tiebreak.models.adapters import add_adapters
from tiebreak.models.architectures import ARCHITECTURES
from tiebreak.models.demo import demo_folder
from tiebreak.models.heads import attach_head, backbone_of
from tiebreak.models.merged import merge_for_prediction
from tiebreak.models.packing_proof import packed_difference
from tiebreak.models.preference import PreferenceModel
from tiebreak.models.recomputing import recompute_activations
from tiebreak.prediction.compute import predict_blocks
from tiebreak.prediction.swap import SwapPolicy
from tiebreak.preflight.memory import GIB, estimate
from tiebreak.sample.generator import write_sample
from tiebreak.training.loop import TrainingJob, train_step
from tiebreak.training.losses import cross_entropy
from tiebreak.training.optimizer import build_optimizer
from tiebreak.training.speed import StepFlops, peak_flops

STEPS = 6
"""Of a training; the first two warm up, and compile."""
STD = 0.02


@dataclass(frozen=True)
class Case:
    """A line of the table: what is done, the recipe, changes of it, the demo model whose tokenizer it takes."""

    what: str
    recipe: str
    demo: str
    changes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " ".join([self.what, self.recipe, *self.changes])


ON, OFF = "train.gradient_checkpointing=true", "train.gradient_checkpointing=false"
MERGED = "predict.merge_adapters=true"
CASES = (
    Case("train", "gemma2-9b", "demo-gemma2", (ON,)),
    Case("train", "gemma2-9b", "demo-gemma2", (OFF, "train.tokens_per_micro_batch=6144")),
    Case("predict", "gemma2-9b", "demo-gemma2"),
    Case("predict", "gemma2-9b", "demo-gemma2", (MERGED,)),
    Case("train", "llama2-7b", "demo-llama2", (ON,)),
    Case("train", "deberta-v3-base", "demo-deberta"),
    Case("train", "deberta-v3-small", "demo-deberta"),
    Case("predict", "deberta-v3-base", "demo-deberta"),
    Case("predict", "deberta-v3-small", "demo-deberta"),
)
QUICK = tuple(
    Case(what, f"demo-{family}", f"demo-{family}", changes)
    for what, family, changes in (
        *(("train", "gemma2", ()), ("predict", "gemma2", (MERGED,)), ("train", "llama2", (OFF,))),
        *(("train", "deberta", ()), ("predict", "deberta", ())),
    )
)


def random_judge(recipe: Recipe, config: Any, tokenizer: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A judge as `build_model` makes it, but for its weights, which are drawn on the device, layer by layer."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForSequenceClassification

    attention = choose_attention(config, recipe.model.attention, device, dtype)
    torch.manual_seed(0)
    with init_empty_weights():
        network = AutoModelForSequenceClassification.from_config(
            config, attn_implementation=attention.implementation, dtype=loading.base_dtype(recipe.model, dtype)
        )
    attach_head(network, recipe.model, recipe.data.features)
    if recipe.model.method == "qlora":
        quantise(backbone_of(network), device, dtype)
        network.is_loaded_in_4bit = True
    for module in network.modules():
        for name, held in list(module.named_parameters(recurse=False)):
            if held.is_meta or held.device != device:
                module.register_parameter(name, nn.Parameter(draw(module, name, held, device), held.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = buffer.to(device)
    loading.adapt(network, tokenizer, attention)
    if recipe.model.method != "full":
        network = add_adapters(network, recipe.model)
    if recipe.train.gradient_checkpointing:
        recompute_activations(network, recipe.model)
    return loading._wrap(network, attention, recipe.model, dtype)


def draw(module: nn.Module, name: str, like: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Numbers as at a start: small for matrices, 0 for biases, what leaves states as they are for norms."""
    there = torch.empty(like.shape, dtype=like.dtype, device=device)
    if there.dim() > 1:
        return there.normal_(0, STD)
    zero = name == "bias" or type(module).__name__.startswith("Gemma")  # whose norms multiply with 1 + weight
    return there.fill_(0.0 if zero else 1.0)


def quantise(backbone: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Put 4-bit layers of random weights in the place of the linear ones."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for module in list(backbone.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                with torch.device("meta"):
                    layer = Linear4bit(
                        child.in_features, child.out_features, child.bias is not None, compute_dtype=dtype,
                        quant_type="nf4", quant_storage=dtype,
                    )  # fmt: skip
                drawn = torch.empty(child.weight.shape, dtype=dtype, device=device).normal_(0, STD)
                layer.weight = Params4bit(
                    drawn, requires_grad=False, quant_type="nf4", compress_statistics=True, quant_storage=dtype,
                    module=layer,
                ).to(device)  # fmt: skip
                setattr(module, name, layer)


def products_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of square matrix products, the median of five batches of them."""
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    rates = []
    for _ in range(6):
        synchronise(device)
        began = time.perf_counter()
        for _ in range(10):
            one @ other
        synchronise(device)
        rates.append(10 * 2 * size**3 / (time.perf_counter() - began))
    return median(rates[1:])


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Records(list):
    """Stands in for the run's log."""

    def step(self, record: dict) -> None:
        self.append(record)


def train(recipe: Recipe, judge: PreferenceModel, tokens: Tokens, device: torch.device) -> tuple[float, float]:
    """Real tokens and floating-point operations of a second: the medians of the steps."""

    class Here(Ranks):
        device = torch.device("cpu")

    Here.device = device
    settings, rows = recipe.train, np.arange(len(tokens))
    engine = Engine(judge, build_optimizer(judge, settings), Here(), settings.max_grad_norm)
    size = min(settings.batch_size, len(tokens))
    plan = Plan(tokens.lengths, size, STEPS, 0, "random", STEPS, 1, settings.tokens_per_micro_batch)
    flops = StepFlops(judge, settings.gradient_checkpointing)
    job = TrainingJob(
        recipe=recipe,
        engine=engine,
        plan=plan,
        tokens=tokens,
        rows=rows,
        valid=tokens,
        held_out=rows[:0],
        loss=cross_entropy,
        saver=None,
        log=Records(),
        stop=False,
        watch=HangWatchdog(Ranks(), 600),
        flops=flops,
        eval_every=STEPS,
    )
    judge.train()
    for index in range(STEPS):
        train_step(job, plan.step(index), index)
        if index == 1 and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
    steps = [(plan.step(index), record) for index, record in enumerate(job.log)][2:]
    done = [flops.of(tokens.lengths[step.rows].tolist()) for step, _ in steps]
    rates = [(record["tokens"], each, record["seconds"]) for (_, record), each in zip(steps, done, strict=True)]
    return median(count / s for count, _, s in rates), median(each / s for _, each, s in rates)


def predict(recipe: Recipe, judge: PreferenceModel, tokens: Tokens, device: torch.device) -> tuple[float, float]:
    """The same of predictions, after one block to warm up."""
    judge.eval()
    flops = StepFlops(judge, False).forward_per_token
    if recipe.predict.merge_adapters:
        merge_for_prediction(judge)
    cut = blocks(tokens.lengths, recipe.predict.tokens_per_block)
    predict_blocks(judge, tokens, cut[-1:], SwapPolicy())
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    synchronise(device)
    began = time.perf_counter()
    part = predict_blocks(judge, tokens, cut, SwapPolicy())
    seconds = time.perf_counter() - began  # logits have come back to the host
    if part.failed.any():
        raise RuntimeError(f"{np.count_nonzero(part.failed)} rows without logits")
    return tokens.lengths.sum() / seconds, flops * tokens.lengths.sum() / seconds


def measure(case: Case, table: Path, device: torch.device, dtype: torch.dtype, rate: float) -> list[str]:
    """The cells of a case."""
    from transformers import AutoConfig

    quick = case.recipe.startswith("demo-")
    small = ["data.max_tokens=256", "train.tokens_per_micro_batch=512", "model.method=qlora"] if quick else []
    if case.demo == "demo-deberta":
        small = small[:-1]
    recipe = load_recipe(case.recipe, [*small, *case.changes])
    tokenizer = loading.load_tokenizer(case.demo, recipe.model.template)
    tokens = prepare([table], tokenizer, TEMPLATES[recipe.model.template], recipe.data, need_labels=True)
    if quick:
        config = AutoConfig.from_pretrained(demo_folder(case.demo))
        architecture = None
    else:
        architecture = ARCHITECTURES[recipe.model.base]
        fields = {**architecture, "num_labels": 3, "pad_token_id": tokenizer.pad_token_id}
        config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    config.num_labels = 3
    # The preflight's estimate is of training; a prediction has neither gradients nor states.
    training = case.what == "train"
    needs = None
    if architecture is not None and training:
        needs = estimate(recipe, "single", 1, device.type, architecture)
    if device.type == "cuda" and needs is not None:
        free = torch.cuda.mem_get_info(device)[0] / GIB
        if needs.gib > free:
            return [case.name, "", "", "", f"left out: {needs.gib:.1f} GiB estimated, {free:.1f} free", ""]
        torch.cuda.reset_peak_memory_stats(device)
    judge = random_judge(recipe, config, tokenizer, device, dtype)
    with torch.no_grad():
        judge.eval()
        parity = packed_difference(judge, device)
    run: Callable[..., tuple[float, float]] = train if training else predict
    per_second, done = run(recipe, judge, tokens, device)
    peak = peak_flops(device)
    mfu = f"{done / rate:.0%}" + (f", {done / peak:.0%}" if peak else "")
    memory = f"{torch.cuda.max_memory_allocated(device) / GIB:.1f}" if device.type == "cuda" else ""
    memory += f" ({needs.gib:.1f})" if needs else ""
    return [case.name, judge.attention.backend, f"{per_second:,.0f}", mfu, memory, f"{parity:.1e}"]


def machine(device: torch.device, dtype: torch.dtype, rate: float) -> str:
    """The line above the table."""

    def of(package: str) -> str:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            return f"no {package}"

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    packages = ", ".join(map(of, ("torch", "transformers", "bitsandbytes", "peft", "flash-attn")))
    precision = str(dtype).removeprefix("torch.")
    return f"{name}, CUDA {torch.version.cuda}, {packages}; {precision} products at {rate / 1e12:.2f} TFLOP/s"


HEAD = (
    "case",
    "attention",
    "tokens/s",
    "MFU, of products measured here, of the data sheet",
    "GiB (estimated)",
    "parity",
)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny models")
    parser.add_argument("--only", default="", help="cases whose name has this")
    parser.add_argument("--minutes", type=float, default=10, help="no case begins after these")
    parser.add_argument("--rows", type=int, default=256, help="of the table")
    parser.add_argument("--cudnn", action="store_true", help="let torch take cuDNN's attention, as it would by itself")
    options = parser.parse_args(words)
    if options.cudnn:  # it is off where models are loaded, as it makes a plan for each new shape
        torch.backends.cuda.enable_cudnn_sdp(True)
    device = Ranks().device
    dtype = loading.choose_precision("auto", device)
    if device.type == "cpu" and not options.quick:
        parser.error("there is no GPU here: --quick shows that it runs")
    began, failed = time.monotonic(), 0
    rate = products_rate(device, dtype, 256 if options.quick else 8192)
    print(f"{machine(device, dtype, rate)}\n\n| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|", flush=True)
    with TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        write_sample(
            table, 8 if options.quick else options.rows, seed=11, profile="short" if options.quick else "arena"
        )
        for case in QUICK if options.quick else CASES:
            if options.only not in case.name:
                continue
            if time.monotonic() - began > 60 * options.minutes:
                cells = [case.name, "", "", "", f"left out: {options.minutes:g} minutes are over", ""]
            else:
                try:
                    cells = measure(case, table, device, dtype, rate)
                except Exception as error:  # the other cases are worth having
                    failed += 1
                    cells = [
                        case.name,
                        "",
                        "",
                        "",
                        f"failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}",
                        "",
                    ]
            print(f"| {' | '.join(cells)} |", flush=True)
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    print(f"\n{time.monotonic() - began:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
