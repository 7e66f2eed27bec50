"""At what rate the matrix products of a training step run, and where the rest of its time goes.

    python benchmarks/products.py --recipes demo-deberta --threads 1

The command trains on rows as long as the Arena's; every other step is profiled, those between are timed. The products
are those of layers (mm, addmm), forward and backward, by torch's profiler: their operations (2 m n k of each shape)
over their seconds. The machine's rate is that of one large product (2,048 cubed, fp32), measured between the steps.
The profile gives the share of each kind of operation in the time of the profiled steps, as seen from the main thread.
"""

import argparse
import math
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from subjects import (
    LONGEST,
    QUANTILES,
    QUICK_SIZES,
    RECIPES,
    SIZES,
    TOGETHER,
    enlarged,
    run_tiebreak,
    write_spread_rows,
)
from timing import by_recipe, peer, record, run_claim

ROWS = TOGETHER * len(QUANTILES)
"""Of a step."""
LARGE = 2_048
"""Rows and columns of the machine's product."""
LAYER_PRODUCTS = ("aten::mm", "aten::addmm", "aten::linear", "mkldnn::_linear_pointwise")
KINDS = {
    "products of layers": LAYER_PRODUCTS,
    "products of attention": ("aten::bmm", "aten::baddbmm", "aten::baddbmm_"),
    "attention by tiles, on threads of its own": ("_Tiled",),
    "fused attention": ("flash_attention", "scaled_dot_product", "fused_attention"),
    "optimizer": ("adam", "Optimizer", "foreach", "clip_grad", "norm_except_dim"),
    "softmax": ("softmax",),
    "gathers and copies": ("gather", "index", "copy_", "cat", "scatter", "embedding", "contiguous", "clone", "select"),
    "norms": ("layer_norm", "rms_norm", "rsqrt", "mean", "var", "pow"),
    "activations": ("gelu", "tanh", "silu", "relu"),
    "masks and filling": ("masked_fill", "fill_", "zero", "ones", "arange", "triu", "where"),
    "other arithmetic": ("mul", "add", "sub", "div", "sum", "neg", "exp", "abs"),
}
"""What an operation counts as: the first kind that has its name, or a part of it."""
Profile = dict[str, float]


def kind_of(name: str) -> str:
    """Of an operation by the profiler's name."""
    for kind, parts in KINDS.items():
        if any(name == part if "::" in part else part in name for part in parts):
            return kind
    return "other"


def operations(name: str, shapes: list[list[int]]) -> float:
    """Floating-point operations of a product of matrices: 2 m n k."""
    first, second = shapes[1:3] if "addmm" in name else shapes[:2]
    return 2.0 * math.prod(first) * second[-1]


class Watch:
    """In place of `train_step`: profiles every other step, and times the machine's product between them."""

    def __init__(self, step: Any) -> None:
        import torch

        self.step, self.count = step, 0
        self.timed: list[float] = []
        self.profiled: list[float] = []
        self.machine: list[float] = []
        self.spent: Counter[str] = Counter()
        self.done = self.product_seconds = 0.0
        self.large = torch.randn(2, LARGE, LARGE)

    def __call__(self, *arguments: Any) -> Any:
        from torch.profiler import ProfilerActivity, profile

        self.count += 1
        if self.count <= 2 or self.count % 2:
            self.machine.append(self.machine_rate())
            began = time.perf_counter()
            stopped = self.step(*arguments)
            if self.count > 2:
                self.timed.append(time.perf_counter() - began)
            return stopped
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
            began = time.perf_counter()
            stopped = self.step(*arguments)
            self.profiled.append(time.perf_counter() - began)
        for event in found.key_averages(group_by_input_shape=True):
            seconds = event.self_cpu_time_total / 1e6
            self.spent[kind_of(event.key)] += seconds
            if event.key in LAYER_PRODUCTS and event.key != "aten::linear":
                self.done += event.count * operations(event.key, event.input_shapes)
                self.product_seconds += seconds
        return stopped

    def machine_rate(self) -> float:
        """Operations a second of the large product."""
        import torch

        seconds = []
        for _ in range(4):
            began = time.perf_counter()
            torch.mm(self.large[0], self.large[1])
            seconds.append(time.perf_counter() - began)
        return 2 * LARGE**3 / min(seconds[1:])

    def shares(self) -> Profile:
        """Of the profiled steps' time; what no operation has is Python and the work between operations."""
        whole = sum(self.profiled)
        found = {kind: seconds / whole for kind, seconds in self.spent.most_common()}
        return found | {"between operations": 1 - sum(found.values())}


def measure_one(recipe: str, options: argparse.Namespace, folder: Path) -> Iterator[dict]:
    """The record of one model."""
    from tiebreak.config import load_recipe
    from tiebreak.data.templates import TEMPLATES
    from tiebreak.models.tokenizer import load_tokenizer
    from tiebreak.training import loop

    folder.mkdir()
    base = enlarged(load_recipe(recipe).model.base, folder / "base", QUICK_SIZES if options.quick else SIZES)
    recipe_now = load_recipe(recipe, [f"model.base={base}", f"data.max_tokens={options.max_tokens}"])
    tokenizer = load_tokenizer(base, recipe_now.model.template)
    template = TEMPLATES[recipe_now.model.template]
    table = write_spread_rows(folder / "table.csv", tokenizer, template, recipe_now.data)
    steps = 2 + 2 * options.rounds
    changes = [f"model.base={base}", "model.method=full", f"data.max_tokens={options.max_tokens}"]
    changes += [f"train.batch_size={ROWS}", f"train.max_steps={steps}", f"train.epochs={steps}"]
    changes += [f"train.eval_every={steps}", "train.precision=fp32"]
    words = ["train", "--recipe", recipe, "--data", table, "--valid", "none", "--out", folder / "run"]
    original, watch = loop.train_step, Watch(loop.train_step)
    loop.train_step = watch
    try:
        run_tiebreak(*words, *(word for change in changes for word in ("--set", change)))
    finally:
        loop.train_step = original
    rate, machine = watch.done / watch.product_seconds, median(watch.machine)
    setting = f"{recipe.removeprefix('demo-')}, products of layers in a training step"
    slower = median(watch.profiled) / median(watch.timed) - 1
    yield record(
        setting, "GFLOP/s", rate / 1e9, [peer(f"one product of {LARGE:,} cubed", None, machine / 1e9)],
        f"a step takes {median(watch.timed):.2f} s, {max(0, slower):.0%} more under the profiler",
        profile=watch.shares(), step_seconds=watch.timed,
    )  # fmt: skip


if __name__ == "__main__":
    run_claim(
        __doc__,
        by_recipe(measure_one),
        rounds=3,
        recipes={"nargs": "+", "default": list(RECIPES)},
        max_tokens={"type": int, "default": LONGEST},
    )
