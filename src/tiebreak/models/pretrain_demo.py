"""Make the demo bases: tokenizers and tiny models of the sample's language, from texts alone.

    python -m tiebreak.models.pretrain_demo [gemma2 llama2 llama3 qwen2 deberta]

writes `demo_bases/` anew, from fixed seeds, on one thread. A base reads unlabelled rows in its own template and learns

- the next token (decoders) or masked tokens (DeBERTa), and
- at the one token that a judge reads later, how a reader begins to retell the row (`tiebreak.sample.language.recap`):
  the cross-entropy to the words' probabilities, which is the expected next-token loss over all such continuations.

It never sees a label, nor what a sentence is worth. Hidden matrices are trained by Muon, all else by AdamW. Queries
start as the keys, so that a token attends to its like (after Trockman & Kolter 2023, arXiv 2305.09828).
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tiebreak.config import Recipe, make_recipe
from tiebreak.data.encode import encode_pairs
from tiebreak.data.templates import TEMPLATES
from tiebreak.files import new_folder, sha256
from tiebreak.models.demo import BASES, RECORD, SEED, WEIGHTS_FILE, write_random_weights
from tiebreak.models.demo_tokenizers import MASK_ID, make_config, make_tokenizer
from tiebreak.models.loading import build_model
from tiebreak.models.preference import PreferenceModel, count_parameters
from tiebreak.models.tokenizer import load_tokenizer
from tiebreak.sample.generator import write_sample
from tiebreak.sample.language import RECAP_WORDS, recap
from tiebreak.tables.rows import Pair
from tiebreak.tables.table import read_table

ROWS, HELD_OUT = 30_000, 500
WARMUP, LAST = 0.05, 0.02
"""Share of the steps in which the rates rise, and share of the peak at which their cosine ends."""
MASKED = 0.2
"""Share of the tokens that DeBERTa has to guess."""


@dataclass(frozen=True)
class Schedule:
    """How a base is trained.

    Attributes:
        steps: of the optimisers.
        rows: of a batch.
        lr: peak rate of AdamW.
        muon_lr: peak rate of Muon for the hidden matrices; None leaves them to AdamW.
        keepers_first: share of the steps, from the first, in which a recap only says which answers keep to the subject.
        start: the shipped base to start from, of the same tokenizer but for the template's tokens; None for at random.
    """

    steps: int
    rows: int = 24
    lr: float = 4e-3
    muon_lr: float | None = 0.02
    keepers_first: float = 0.0
    start: str | None = None


SCHEDULES = {
    "gemma2": Schedule(2_500),
    "llama2": Schedule(2_600),
    "llama3": Schedule(1_200, lr=2e-3, muon_lr=0.01, start="llama2"),
    "qwen2": Schedule(1_500),
    "deberta": Schedule(1_800, rows=48, lr=5e-3, muon_lr=None, keepers_first=0.3),
}


@dataclass(frozen=True)
class Text:
    """One row as a model reads it (T,) int32, which of its tokens are not special (T,), and its recap's tokens and
    their probabilities (k,)."""

    tokens: np.ndarray
    ordinary: np.ndarray
    recap_ids: list[int]
    shares: list[float]


def write_base(family: str, folder: Path, schedule: Schedule, table: Path, held_out: Path) -> dict[str, Any]:
    """Train a tokenizer and a base, and write them as a folder of transformers.

    Args:
        family: a key of `SCHEDULES`.
        folder: for config.json, the tokenizer's files and fp16 weights.
        schedule: of the training.
        table: of the rows to learn from; labels in it are not read.
        held_out: a table of other rows, for the losses.

    Returns:
        What bases.json says of it.
    """
    started = time.monotonic()
    tokenizer = make_tokenizer(family)
    tokenizer.save_pretrained(folder)
    config = make_config(family, tokenizer)
    config.save_pretrained(folder)
    write_random_weights(folder)
    recipe = make_recipe({"model": {"base": str(folder), "template": family, "method": "full"}})
    judge = build_for_pretraining(recipe, folder)
    if schedule.start:
        start_from(judge, BASES / schedule.start)
    else:
        start_queries_as_keys(judge.backbone)
    train(judge, encode(recipe, table), schedule)
    losses = measure(judge, encode(recipe, held_out))
    save(judge, folder)
    return {
        "sha256": sha256(folder / WEIGHTS_FILE),
        "parameters": count_parameters(judge.backbone)[0],
        "steps": schedule.steps,
        "token_loss": round(losses[0], 4),
        "recap_divergence": round(losses[1], 4),
        "minutes": round((time.monotonic() - started) / 60, 1),
    }


def build_for_pretraining(recipe: Recipe, folder: Path) -> PreferenceModel:
    """The recipe's base with the hidden states of all tokens, not of the judged ones alone."""
    tokenizer = load_tokenizer(str(folder), recipe.model.template)
    judge = build_model(recipe, tokenizer, torch.device("cpu"), torch.float32)
    judge.early = False
    return judge


def encode(recipe: Recipe, table: Path) -> list[tuple[Text, Text]]:
    """Each row of a table as A, B and as B, A, in the recipe's template."""
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    pairs = read_table([table], need_labels=False).pairs
    tokens = encode_pairs(pairs, tokenizer, TEMPLATES[recipe.model.template], recipe.data)
    space = "" if recipe.model.template == "deberta" else " "
    ids = {word: tokenizer(space + word, add_special_tokens=False)["input_ids"][0] for word in RECAP_WORDS}

    def text(pair: Pair, index: int, swapped: bool) -> Text:
        answers = (pair.response_b, pair.response_a) if swapped else (pair.response_a, pair.response_b)
        words = recap(pair.prompt, *answers)
        input_ids = tokens.input_ids(index, swapped)[0]
        ordinary = np.isin(input_ids, tokenizer.all_special_ids, invert=True)
        return Text(input_ids, ordinary, [ids[word] for word in words], list(words.values()))

    return [(text(pair, k, False), text(pair, k, True)) for k, pair in enumerate(pairs)]


def train(judge: PreferenceModel, rows: Sequence[tuple[Text, Text]], schedule: Schedule) -> None:
    """Train a backbone in place, each row in a random order of its answers."""
    rng, steps = np.random.default_rng(SEED), schedule.steps
    parameters = list(judge.backbone.parameters())
    optimizers = make_optimizers(judge.backbone, schedule)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    judge.train()
    for step, batch in zip(range(steps), _batches(rng, len(rows), schedule.rows), strict=False):
        texts = [rows[row][swap] for row, swap in zip(batch, rng.integers(0, 2, len(batch)), strict=True)]
        if step < schedule.keepers_first * steps:
            texts = [replace(text, recap_ids=text.recap_ids[:1], shares=[1.0]) for text in texts]
        share = min(1.0, (step + 1) / (WARMUP * steps)) * (1 + math.cos(math.pi * step / steps)) / 2
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = peak * max(share, LAST)
        token_loss, divergence = losses_of(judge, texts, rng)
        (token_loss + divergence).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{steps}  tokens {token_loss:.4f}  recap {divergence:.4f}", flush=True)
    judge.eval()


def make_optimizers(backbone: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers and AdamW for the rest, or AdamW for all."""
    matrices = [
        parameter
        for name, parameter in backbone.named_parameters()
        if parameter.ndim == 2 and "embed" not in name.partition("layer")[0]
    ]
    others = [p for p in backbone.parameters() if all(p is not matrix for matrix in matrices)]
    if schedule.muon_lr is None:
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, lr=schedule.lr, betas=(0.9, 0.98))]
    return [
        torch.optim.Muon(matrices, lr=schedule.muon_lr, weight_decay=0.01),
        torch.optim.AdamW(others, lr=schedule.lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _batches(rng: np.random.Generator, rows: int, size: int) -> Iterator[np.ndarray]:
    while True:
        order = rng.permutation(rows)
        yield from (order[start : start + size] for start in range(0, rows - size + 1, size))


def start_from(judge: PreferenceModel, folder: Path) -> None:
    """Copy a shipped base's weights; tokens that it lacks keep their random start."""
    from safetensors.torch import load_file

    known = load_file(folder / WEIGHTS_FILE)
    with torch.no_grad():
        for name, parameter in judge.backbone.named_parameters():
            weight = known[f"{judge.classifier.base_model_prefix}.{name}"]
            parameter[: len(weight)] = weight


def start_queries_as_keys(backbone: nn.Module) -> None:
    """Copy the keys' weights to the queries, those of a shared key to each of its queries."""
    for module in backbone.modules():
        query, key = (getattr(module, name, None) for name in ("q_proj", "k_proj"))
        if query is None:
            query, key = (getattr(module, name, None) for name in ("query_proj", "key_proj"))
        if isinstance(query, nn.Linear) and isinstance(key, nn.Linear):
            heads = key.weight.detach().unflatten(0, (-1, getattr(module, "head_dim", key.out_features)))
            shared = query.out_features // key.out_features
            query.weight.data.copy_(heads.repeat_interleave(shared, 0).flatten(0, 1))


def losses_of(
    judge: PreferenceModel, texts: Sequence[Text], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean next-token or masked-token loss, and the mean Kullback-Leibler divergence to the recaps, in nats."""
    lengths = [len(text.tokens) for text in texts]
    tokens = torch.from_numpy(np.concatenate([text.tokens for text in texts])).long()
    ends = torch.tensor(lengths).cumsum(0)
    embeddings = judge.backbone.get_input_embeddings().weight
    if judge.is_decoder:
        hidden, _ = judge.hidden_states(tokens, lengths)
        seen = torch.ones(len(tokens), dtype=torch.bool).index_fill(0, ends - 1, False)
        index = seen.nonzero()[:, 0]
        token_loss = functional.cross_entropy(hidden[index] @ embeddings.T, tokens[index + 1])
        judged = hidden[ends - 1]
    else:
        ordinary = np.concatenate([text.ordinary for text in texts])
        chosen = torch.from_numpy(ordinary & (rng.random(len(tokens)) < MASKED))
        hidden, _ = judge.hidden_states(torch.where(chosen, MASK_ID, tokens), lengths)
        token_loss = functional.cross_entropy(hidden[chosen] @ embeddings.T, tokens[chosen])
        judged = hidden[ends - torch.tensor(lengths)]
    shares = torch.tensor([share for text in texts for share in text.shares])
    rows = torch.repeat_interleave(torch.arange(len(texts)), torch.tensor([len(text.shares) for text in texts]))
    columns = torch.tensor([token for text in texts for token in text.recap_ids])
    predicted = (judged @ embeddings.T).log_softmax(-1)[rows, columns]
    return token_loss, (shares * (shares.log() - predicted)).sum() / len(texts)


def measure(judge: PreferenceModel, rows: Sequence[tuple[Text, Text]]) -> tuple[float, float]:
    """Both losses of these rows in the order A, B; the masks are the same at every call."""
    rng = np.random.default_rng(SEED)
    batches = [[text for text, _ in rows[start : start + 50]] for start in range(0, len(rows), 50)]
    with torch.inference_mode():
        losses = [[loss.item() for loss in losses_of(judge, batch, rng)] for batch in batches]
    token_loss, divergence = np.mean(losses, axis=0).tolist()
    return token_loss, divergence


def save(judge: PreferenceModel, folder: Path) -> None:
    """Replace a folder's weights by the backbone's, in fp16; the classifier's head stays for who trains a judge."""
    from safetensors.torch import save_file

    prefix = f"{judge.classifier.base_model_prefix}."
    weights = {prefix + name: p.detach().half().contiguous() for name, p in judge.backbone.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def main(families: Sequence[str]) -> None:
    """Write the bases of these families, or of all."""
    torch.set_num_threads(1)
    BASES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as tables:
        table, held_out = Path(tables) / "rows.csv", Path(tables) / "held-out.csv"
        write_sample(table, ROWS, seed=SEED + 1, profile="short")
        write_sample(held_out, HELD_OUT, seed=SEED + 2, profile="short")
        for family in families or SCHEDULES:
            with new_folder(BASES / family, existing="replace") as folder:
                told = write_base(family, folder, SCHEDULES[family], table, held_out)
            record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
            record |= {"script": "python -m tiebreak.models.pretrain_demo", "seed": SEED, family: told}
            RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            print(family, told, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
