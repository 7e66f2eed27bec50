"""Run under a launcher by test_engines.py: a few training steps of every combination, in one process group.

Usage: steps.py TABLE OUT.pt COMBINATION..., each NAME:METHOD:ENGINE with ENGINE plain, fsdp,
fsdp_offload or a file of ds_configs/, and a change of the recipe behind it: @train.precision=bf16.
Rank 0 saves per combination the steps' records, the optimizer's first moments after step 1 (the clipped
gradient times 1 - beta1), and the final weights.
"""

import gc
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from tiebreak.cluster.ranks import Ranks, find_ranks, joined
from tiebreak.cluster.watchdog import HangWatchdog
from tiebreak.config import load_recipe
from tiebreak.data.plan import Plan
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.engines.base import Engine
from tiebreak.engines.choose import choose_engine, hands_out, make_engine
from tiebreak.engines.hand_out import build_for_engine
from tiebreak.models.loading import choose_precision, load_tokenizer
from tiebreak.models.sharded import frozen_to_save
from tiebreak.training.loop import TrainingJob, train_step
from tiebreak.training.losses import cross_entropy
from tiebreak.training.optimizer import build_optimizer
from tiebreak.training.speed import StepFlops

STEPS = 4
"""Of a whole run, which resume.py needs."""
COMPARED = 3
"""Steps of each combination."""
HALF_STEPS = 2
"""Of each combination in bf16."""
WEIGHED = ("demo-llama2:full", "demo-llama2:qlora:")
"""The combinations whose tensors are weighed begin so."""
CHANGES = [
    "train.batch_size=7",  # shared by no number of ranks
    "train.tokens_per_micro_batch=350",  # several micro-batches a step
    "data.max_tokens=160",
    "train.lr=1e-3",
    "train.warmup=0",
    "train.max_grad_norm=0.5",  # clips: the norms are above it
    "model.lora.r=4",
    "train.precision=fp32",
    "train.eps=1e-5",  # else rounding alone moves weights whose gradient is next to zero: a trained base's last queries
]


class Records(list):
    """Stands in for the run's log."""

    def step(self, record: dict) -> None:
        self.append(record)


def ds_file(kind: str) -> Path:
    """The shipped file; under ZeRO-3 with even the smallest parameter cut, as these models have no large ones."""
    config = json.loads(Path(f"ds_configs/{kind}.json").read_text())
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    for offload in ("offload_param", "offload_optimizer"):
        config["zero_optimization"].get(offload, {}).pop("pin_memory", None)  # there is no GPU to copy to
    path = Path(tempfile.mkdtemp()) / f"{kind}.json"
    path.write_text(json.dumps(config))
    return path


def make_job(table: Path, combination: str, changes: tuple[str, ...] = ()) -> TrainingJob:
    """A job without evaluation; NAME:METHOD:ENGINE as above; METHOD `qlora8` has an 8-bit base."""
    name, method, kind = combination.split(":")
    offload = f"fsdp.cpu_offload={kind == 'fsdp_offload'}"
    method, eight = method.removesuffix("8"), method.endswith("8")
    bits = f"model.bits={8 if eight else 4}"
    recipe = load_recipe(name, [*CHANGES, f"model.method={method}", bits, offload, *changes])
    ranks = find_ranks()
    ds = ds_file(kind) if kind.startswith("zero") else None
    choice = choose_engine("fsdp" if kind.startswith("fsdp") else "auto", ds, recipe.train, ranks.world)
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    tokens = prepare([table], tokenizer, TEMPLATES[recipe.model.template], recipe.data, need_labels=True)
    precision = choose_precision(recipe.train.precision, ranks.device)
    judge = build_for_engine(recipe, tokenizer, ranks, precision, hands_out(choice.kind, recipe))
    flops = StepFlops(judge, recipe.train.gradient_checkpointing)
    engine = make_engine(judge, partial(build_optimizer, train=recipe.train), ranks, recipe, choice)
    train, rows = recipe.train, np.arange(len(tokens))
    plan = Plan(
        tokens.lengths, train.batch_size, 1, train.seed, "random", STEPS, ranks.world, train.tokens_per_micro_batch
    )
    return TrainingJob(
        recipe=recipe,
        engine=engine,
        plan=plan,
        tokens=tokens,
        rows=rows,
        valid=tokens,
        held_out=rows[:0],
        loss=cross_entropy,
        saver=None,  # type: ignore[arg-type]
        log=Records(),  # type: ignore[arg-type]
        stop=False,  # type: ignore[arg-type]
        watch=HangWatchdog(Ranks(), 120),
        flops=flops,
        eval_every=STEPS,
    )


def storages() -> dict[int, torch.UntypedStorage]:
    """The memory of every tensor of this process, by address; FSDP2's and ZeRO-3's parts too."""
    found = {}
    tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    tensors += [tensor.ds_tensor for tensor in tensors if hasattr(tensor, "ds_tensor")]
    for tensor in tensors:
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if local.device.type != "meta":
            storage = local.untyped_storage()
            found[storage.data_ptr()] = storage
    return found


def weigh(engine: Engine, before: dict[int, torch.UntypedStorage], sizes: list[int]) -> None:
    """Note the bytes of each tensor that is not of `before`, once, after the next backward pass."""
    backward = engine.backward

    def weighed(loss: torch.Tensor) -> None:
        backward(loss)
        if not sizes:
            gc.collect()  # what only a cycle still holds is not kept
            sizes.extend(storage.nbytes() for place, storage in storages().items() if place not in before)

    engine.backward = weighed  # type: ignore[method-assign]


def run(table: Path, combination: str) -> dict:
    plain, _, change = combination.partition("@")
    weighed = combination.startswith(WEIGHED) and not change
    before: dict[int, torch.UntypedStorage] = {}
    if weighed:
        gc.collect()
        before = storages()  # held, so that no address is used again
    sizes: list[int] = []
    job = make_job(table, plain, (change,) if change else ())
    engine, plan = job.engine, job.plan
    engine.module.train()
    passes = []
    feed_forward = dict(engine.model.layers[-1].named_children())
    watched = feed_forward.get("mlp") or feed_forward["intermediate"]
    watched.register_forward_pre_hook(lambda module, inputs: passes.append(1))
    moments, steps = {}, HALF_STEPS if change.endswith("bf16") else COMPARED
    for index in range(steps):
        if index == 1 and weighed:
            before |= {m.untyped_storage().data_ptr(): m.untyped_storage() for m in moments.values()}
            weigh(engine, before, sizes)
        train_step(job, plan.step(index), index)
        if index == 0:
            moments = {key: engine.get_moments(p)["exp_avg"].clone() for key, p in engine.trainable().items()}
    return {
        "engine": engine.name,
        "sizes": sizes,
        "wrapper": type(engine.module).__name__,
        "passes": len(passes),
        "micro_batches": [len(plan.step(index).micro_batches[0]) for index in range(steps)],
        "whole": sorted(name for name, p in engine.model.named_parameters() if not is_cut(p)),
        "devices": sorted({p.device.type for p in engine.model.parameters()}),
        "records": list(job.log),
        "moments": moments,
        "weights": {key: engine.get_weight(p).clone() for key, p in engine.trainable().items()},
        "to_save": engine.gathered_weights(frozen_to_save(engine.model, job.recipe)) if engine.sharded else None,
    }


def is_cut(parameter: torch.nn.Parameter) -> bool:
    """By FSDP2, or by ZeRO-3: then its own tensor is empty between uses."""
    return isinstance(parameter, DTensor) or (hasattr(parameter, "ds_id") and parameter.numel() == 0)


if __name__ == "__main__":
    table, out, *combinations = sys.argv[1:]
    ranks = find_ranks()
    with joined(ranks, 120, always=True):
        results = {combination: run(Path(table), combination) for combination in combinations}
        if ranks.first:
            torch.save(results, out)
