"""What `tiebreak export --int8` costs and gains: log loss, verdicts, rows a second, size, and the runtime's own size.

    tiebreak weights deberta-v3-xsmall --accept-licence
    tiebreak train --recipe demo-deberta --model deberta-v3-xsmall --data train.csv --valid none --out student \
      --set data.max_tokens=160
    python benchmarks/export.py student --data arena.csv --rows 2000

Printed for fp32 and int8: the receipt, the size of the folder, and rows per second of CPU time against our own forward
in fp32, all on one thread, on the same rows; in turns, best of --rounds. CPU time does not count what other programs
take.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from tiebreak.api import Judge
from tiebreak.data.encode import encode_pairs
from tiebreak.data.plan import blocks
from tiebreak.export.export import export_judge
from tiebreak.prediction.compute import forward
from tiebreak.prediction.onnx_model import OnnxModel
from tiebreak.tables.table import read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="F")
    parser.add_argument("--rows", type=int, default=2_000, help="of the receipt")
    parser.add_argument("--timed", type=int, default=100, help="rows to time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--forms", nargs="+", default=["onnx", "int8"])
    parser.add_argument("--out", type=Path, help="keep the folders here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    out = options.out or Path(tempfile.mkdtemp())
    for form in options.forms:
        done = export_judge(
            options.run, out / form, form=form, data=options.data, rows=options.rows, tolerance=9, agreement=0
        )
        print(done, flush=True)
    time_all(options, out)
    if options.out is None:
        shutil.rmtree(out)


def time_all(options: argparse.Namespace, out: Path) -> None:
    judge = Judge.load(options.run, "cpu", "fp32")
    pairs = read_table(options.data, need_labels=True).pairs
    step = max(1, len(pairs) // options.timed)
    template = judge.manifest.text_template(judge.recipe)
    tokens = encode_pairs(pairs[::step][: options.timed], judge.tokenizer, template, judge.recipe.data)
    rows, cut = np.arange(len(tokens)), blocks(tokens.lengths, judge.recipe.predict.tokens_per_block)
    texts, features = [tokens.input_ids(row) for row in rows], tokens.features_of(rows, np.zeros(len(rows), bool))
    ways = {"ours, fp32": lambda: [forward(judge.model, tokens, some, False) for some in cut]}
    for form in options.forms:
        model = OnnxModel(out / form, threads=1)
        ways[form] = lambda model=model: model.logits(texts, features)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, run in ways.items():
            began = time.process_time()
            run()
            seconds[name].append(time.process_time() - began)
    ours = min(seconds["ours, fp32"])
    print(f"{len(rows)} rows of {tokens.lengths.mean():.0f} tokens in the mean, one thread:")
    for name, times in seconds.items():
        print(
            f"{name:12}{len(rows) / min(times):8.2f} rows a CPU second, {ours / min(times):.2f} times ours", flush=True
        )


if __name__ == "__main__":
    main()
