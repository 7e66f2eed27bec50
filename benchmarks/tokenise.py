"""Rows a second of tokenisation: ours on all cores against one thread, and against `datasets.map` with a tokenizer.

    python benchmarks/tokenise.py --rows 20000

Ours is all between a table's rows and the token table: texts cut to their budget, turns, features. The peer does less:
it tokenises prompt and both answers as one text, cut at the same length, in batches of 1,000, by one process and by as
many as there are threads. Each way has a process of its own and does one pass when it is its turn. Compared are the
tokens of ours, all cores against one thread.
"""

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from subjects import LONGEST, write_rows
from timing import Gate, peer, record, run_claim, stepping, take_turns

ALONE, ALL = "one thread", "all cores"
MAP, MAP_ALL = "datasets.map", "datasets.map, all cores"


def tokenise_ours(gate: Gate, table: Path, way: str) -> None:
    """Every pass over the table in memory; tells a checksum of every fiftieth row."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false" if way == ALONE else "true"
    from tiebreak.config import load_recipe
    from tiebreak.data.encode import encode_pairs
    from tiebreak.data.templates import TEMPLATES
    from tiebreak.models.tokenizer import load_tokenizer
    from tiebreak.tables.table import read_table

    recipe = load_recipe("demo-deberta", [f"data.max_tokens={LONGEST}"])
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    pairs = read_table([table]).pairs
    while True:
        tokens = encode_pairs(pairs, tokenizer, TEMPLATES[recipe.model.template], recipe.data)
        gate(crc32(b"".join(tokens.input_ids(k)[0].tobytes() for k in range(0, len(tokens), 50))))


def tokenise_datasets(gate: Gate, table: Path, processes: int) -> None:
    """Every pass over the same texts as a `datasets` table."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import datasets
    from transformers import AutoTokenizer

    from tiebreak.config import load_recipe
    from tiebreak.models.bases import resolve_base
    from tiebreak.tables.table import read_table

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(resolve_base(load_recipe("demo-deberta").model.base))
    pairs = read_table([table]).pairs
    texts = ["\n".join(map(str, (pair.prompt, pair.response_a, pair.response_b))) for pair in pairs]
    rows = datasets.Dataset.from_dict({"text": texts})
    while True:
        rows.map(
            lambda some: tokenizer(some["text"], truncation=True, max_length=LONGEST),
            batched=True,
            num_proc=processes if processes > 1 else None,
            load_from_cache_file=False,
            keep_in_memory=True,
        )
        gate()


def measure(options: argparse.Namespace, folder: Path) -> Iterator[dict]:
    """One table by every way."""
    rows = 1_000 if options.quick else options.rows
    table = write_rows(folder / "table.csv", rows)
    targets = {ALL: (tokenise_ours, table, ALL), ALONE: (tokenise_ours, table, ALONE)}
    targets |= {MAP: (tokenise_datasets, table, 1), MAP_ALL: (tokenise_datasets, table, options.threads)}
    with contextlib.ExitStack() as started:
        ways = {
            name: started.enter_context(stepping(*target, threads=options.threads)) for name, target in targets.items()
        }
        turns = take_turns(ways, options.rounds, warm=0)
    rates = turns.rates(rows)
    shown = [peer("one thread", rates[ALONE]), peer("datasets.map", rates[MAP], rates[MAP_ALL], "all cores")]
    same = set(turns.results[ALL]) == set(turns.results[ALONE])
    parity = "tokens equal" if same else "TOKENS DIFFER"
    yield record(f"deberta, {rows:,} rows", "rows/s", rates[ALL], shown, parity, seconds=turns.raw)


if __name__ == "__main__":
    run_claim(__doc__, measure, rows={"type": int, "default": 2_000})
