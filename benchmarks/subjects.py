"""What is measured: models of the demo's architectures at larger sizes, and rows as long as the Arena's."""

from pathlib import Path
from typing import Any

RECIPES = ("demo-gemma2", "demo-deberta")
SIZES = {
    "hidden_size": 192,
    "pooler_hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
}
"""Of the models in place of the demo's own: large enough that the matrix products count."""
QUICK_SIZES = SIZES | {"num_hidden_layers": 2}
BUCKETS = 256
"""DeBERTa-v3's `position_buckets`; the demo's has 32."""
LONGEST = 2_048
"""Tokens of a row, at most."""
MANY, TOGETHER, QUANTILES = 400, 8, (0.1, 0.5, 0.9)
"""Rows of the table that `write_spread_rows` takes from, neighbours by length at each place, and the places."""


def enlarged(base: str, folder: Path, sizes: dict[str, int] = SIZES) -> str:
    """The demo base's architecture and tokenizer at these sizes, with random weights."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from tiebreak.models.bases import resolve_base

    found = resolve_base(base)
    config = AutoConfig.from_pretrained(found)
    for name, value in sizes.items():
        setattr(config, name, value)
    if hasattr(config, "layer_types") and config.layer_types:
        config.layer_types = [config.layer_types[k % len(config.layer_types)] for k in range(config.num_hidden_layers)]
    if hasattr(config, "num_key_value_heads") and config.num_key_value_heads:
        config.num_key_value_heads = config.num_attention_heads
        config.head_dim = config.hidden_size // config.num_attention_heads
    if hasattr(config, "position_buckets"):
        config.position_buckets = BUCKETS
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(found).save_pretrained(folder)
    return str(folder)


def write_rows(path: Path, rows: int, seed: int = 11) -> Path:
    """A table of the sample whose rows are as long as the Arena's."""
    from tiebreak.sample.generator import write_sample

    write_sample(path, rows, seed=seed, profile="arena")
    return path


def write_spread_rows(path: Path, tokenizer: Any, template: Any, settings: Any) -> Path:
    """A small table that pads as a large one does: few rows, but eight neighbours by length at each of three places.

    Sixteen rows sorted by length pad half as much again as four hundred, which would flatter whoever does not pad. Of
    these 24 rows, batches of eight run about two tokens for each real one in random order, as those of the whole table
    do, and 1.05 sorted.

    Args:
        path: to write.
        tokenizer: with which the rows' lengths are counted.
        template: of the texts.
        settings: the recipe's section `data`.
    """
    import csv

    import numpy as np

    from tiebreak.data.encode import encode_pairs
    from tiebreak.tables.table import read_table

    whole = write_rows(path.with_suffix(".whole.csv"), MANY)
    order = np.argsort(encode_pairs(read_table([whole]).pairs, tokenizer, template, settings).lengths, kind="stable")
    starts = [int(place * MANY) - TOGETHER // 2 for place in QUANTILES]
    chosen = np.concatenate([order[start : start + TOGETHER] for start in starts])
    with open(whole, encoding="utf-8", newline="") as source, open(path, "w", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(source)
        rows = list(reader)
        writer = csv.DictWriter(file, reader.fieldnames or ())
        writer.writeheader()
        writer.writerows(rows[k] for k in np.random.default_rng(0).permutation(chosen))
    return path


def run_tiebreak(*words: object) -> None:
    """A command, which must succeed."""
    from tiebreak.cli import main

    assert main([str(word) for word in words]) == 0, words


def train_judge(recipe: str, folder: Path, max_tokens: int, sizes: dict[str, int] = SIZES) -> Path:
    """A run folder whose model has these sizes and one step behind it."""
    from tiebreak.config import load_recipe

    base = enlarged(load_recipe(recipe).model.base, folder / "base", sizes)
    table = write_rows(folder / "trained.csv", 8, seed=5)
    changes = (f"data.max_tokens={max_tokens}", "model.method=full", "train.max_steps=1", "train.batch_size=8")
    words = [word for change in (*changes, "train.epochs=1", "train.precision=fp32") for word in ("--set", change)]
    out = folder / "run"
    run_tiebreak("train", "--recipe", recipe, "--model", base, "--data", table, "--valid", "none", "--out", out, *words)
    return out


def write_plain_tokenizer(folder: Path, vocabulary: int, pad: int) -> None:
    """A tokenizer into a model folder for which the text "7 12 3" is these three ids.

    So a peer that takes texts gets the very ids that ours gets.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>" if k == pad else str(k): k for k in range(vocabulary)}
    plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", unk_token="<pad>", padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip


def as_pair(ids: list[int]) -> tuple[str, str]:
    """The two texts that `write_plain_tokenizer`'s tokenizer reads as these ids, one after the other."""
    words = [str(k) for k in ids]
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


def compile_layers(model: Any) -> Any:
    """Compile each layer of a transformers classifier in place, for any length.

    As fast as compiling the whole, which takes minutes where this takes a fraction, since all layers share one graph.
    """
    import torch

    torch._dynamo.config.allow_unspec_int_on_nn_module = True  # such as a layer's number
    model.config.use_cache = False  # nobody generates; each layer's own cache would make each a graph of its own
    base = model.base_model
    for layer in base.encoder.layer if hasattr(base, "encoder") else base.layers:
        layer.compile(dynamic=True)
    return model
