"""What distillation gains on real preferences: SmolLM2 and Gemma 3 (QLoRA) teach DeBERTa-v3-xsmall.

for name in smollm2-135m gemma3-270m deberta-v3-xsmall; do tiebreak weights $name --accept-licence; done
python benchmarks/real_chain.py --data arena.csv other.csv --rows 1000 --test-rows 500 --layers 4 --out runs/real

From each table its share of the rows is drawn, prompts kept whole: a training and a test table that share no
normalised prompt. Then `tiebreak pipeline` runs with the recipe that is written beside them, and its table is printed
with logistic models of the numbers that the judges see too, and of TF-IDF, fitted on the training table as the judges
are (the report's own TF-IDF is cross-fitted on the test table). Beside each system stands by how much the distilled
student is better, with the standard error over the test table's rows. Without a GPU only the lowest layers of each
model are taken: --layers of the teachers, half of the student's. Stopped at any time, the same command goes on.
"""

import argparse
import csv
import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import yaml

from tiebreak.cli import main as tiebreak
from tiebreak.data.encode import prompt_group
from tiebreak.data.features import extract_features
from tiebreak.data.predictions import read_predictions
from tiebreak.evaluation import baselines, text_baselines
from tiebreak.evaluation.metrics import row_losses, softmax
from tiebreak.pipeline.summary import SYSTEMS
from tiebreak.pretrained.weights import default_folder
from tiebreak.tables.cells import encode_json_cell
from tiebreak.tables.rows import Pair
from tiebreak.tables.table import read_table

TEACHERS = {"smollm2": "smollm2-135m", "gemma3": "gemma3-270m"}
NUMBERS = ["length", "style", "readability"]
TEXTS = ("prompt", "response_a", "response_b")
WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")
STUDENT = "deberta-v3-xsmall"
COMMON = [f"data.features=[{','.join(NUMBERS)}]", "data.max_tokens=256", "model.head_dropout=0.2"]
COMMON += ["train.batch_size=16", "train.epochs=1", "train.weight_decay=0.05", "train.eval_every=1000"]
COMMON += ["train.head_lr=5e-4"]
QLORA = [*COMMON, "model.method=qlora", "model.lora.r=16", "model.lora.alpha=32", "model.pooling=mean", "train.lr=2e-4"]
SMALL = [*COMMON, "train.lr=1e-4"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="F")
    parser.add_argument("--rows", type=int, default=1_000, help="to train on")
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--layers", type=int, default=0, help="of the teachers, from the lowest (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    train, test = (options.out / f"{name}.csv" for name in ("train", "test"))
    if not test.is_file():
        options.out.mkdir(parents=True, exist_ok=True)
        cut(options.data, {train: options.rows, test: options.test_rows}, options.seed)
    recipe = options.out / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(chain(options.out, options.layers), sort_keys=False), encoding="utf-8")
    started = time.monotonic()
    tables = ["--data", str(train), "--test", str(test), "--on-bad-row", "skip"]
    if code := tiebreak(["pipeline", "--recipe", str(recipe), *tables, "--out", str(options.out / "chain")]):
        return code
    print(compare(options.out / "chain", train, test))
    print(f"{(time.monotonic() - started) / 60:.0f} minutes")
    return 0


def chain(out: Path, layers: int) -> dict:
    """The pipeline's recipe: two folds of each teacher, the student distilled and from the labels alone."""
    teachers = {
        name: {"recipe": "demo-deberta-siamese", "model": str(lowest(weights, layers, out / "bases")), "set": QLORA}
        for name, weights in TEACHERS.items()
    }
    half = ["model.layers=[0,1,2,3,4,5]", "model.freeze=2"] if layers else []
    student = {"recipe": "distill-demo", "model": STUDENT, "set": [*SMALL, *half]}
    return {"folds": 2, "teachers": teachers, "student": student, "from_labels": True}


def lowest(weights: str, layers: int, folder: Path) -> Path:
    """A model folder whose model has the lowest layers alone: another config.json beside the same files."""
    whole = default_folder(weights)
    if not layers:
        return whole
    shortened = folder / f"{weights}-{layers}"
    shortened.mkdir(parents=True, exist_ok=True)
    for path in whole.iterdir():
        if path.name != "config.json" and not (shortened / path.name).exists():
            (shortened / path.name).symlink_to(path.resolve())
    config = json.loads((whole / "config.json").read_text(encoding="utf-8")) | {"num_hidden_layers": layers}
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][:layers]
    (shortened / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return shortened


def cut(files: list[Path], wanted: dict[Path, int], seed: int) -> None:
    """Draw tables of so many rows from all files alike; rows of one normalised prompt go into one of them."""
    every = [read_table([file], "skip", need_labels=True).pairs for file in files]
    total = sum(map(len, every))
    groups: dict[int, list[Pair]] = {}
    for pair in (pair for pairs in every for pair in pairs):
        groups.setdefault(prompt_group(pair.prompt), []).append(pair)
    order = iter(np.random.default_rng(seed).permutation(np.array(sorted(groups))))
    for path, number in wanted.items():
        left = Counter({pairs[0].file: round(number * len(pairs) / total) for pairs in every})
        chosen: list[Pair] = []
        while any(count > 0 for count in left.values()) and (group := next(order, None)) is not None:
            for pair in groups[int(group)]:
                left[pair.file] -= 1
                if left[pair.file] >= 0:
                    chosen.append(pair)
        temporary = path.with_suffix(".part")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["id", *TEXTS, *WINNERS])
            for pair in chosen:
                cells = [encode_json_cell(getattr(pair, name)) for name in TEXTS]
                name = f"{Path(pair.file).stem}-{pair.id}"
                writer.writerow([name, *cells, *(int(pair.label == k) for k in range(3))])
        temporary.rename(path)


def compare(chain: Path, train: Path, test: Path) -> str:
    """The table: log loss, accuracy, and by how much the distilled student is better, with its standard error."""
    known, held_out = (read_table([file], "skip", need_labels=True).pairs for file in (train, test))
    labels = np.array([pair.label for pair in held_out])
    found = {}
    taught = np.array([pair.label for pair in known])
    answers, unseen = text_baselines.count_words(known), text_baselines.count_words(held_out)
    fitted = baselines.fit(answers.chars, taught)
    found["prior"] = baselines.prior(fitted, len(held_out))
    found["length"] = baselines.length(fitted, unseen.chars)
    weights, intercepts = baselines.fit_logistic(extract_features(known, NUMBERS), taught)
    found["all numbers"] = softmax(extract_features(held_out, NUMBERS) @ weights.T + intercepts)
    found["TF-IDF and length"] = text_baselines.fit_text(answers, taught)(unseen)
    for name in (*TEACHERS, *SYSTEMS):
        folder = chain / name if name == "average" else chain / name / "test"
        by_id = dict(zip(*read_predictions(folder / "predictions.csv"), strict=True))
        found[SYSTEMS.get(name, f"teacher {name}")] = np.array([by_id[pair.id] for pair in held_out])
    losses = {name: row_losses(probabilities, labels) for name, probabilities in found.items()}
    student = losses[SYSTEMS["student"]]
    lines = [
        f"{len(known):,} rows to train on, {len(held_out):,} held out",
        f"{'':22}log loss  accuracy  student better by",
    ]
    for name, probabilities in found.items():
        gain = losses[name] - student
        told = "" if name == SYSTEMS["student"] else f"{gain.mean():10.4f} ± {gain.std(ddof=1) / len(gain) ** 0.5:.4f}"
        accuracy = (probabilities.argmax(1) == labels).mean()
        lines.append(f"{name:22}{losses[name].mean():8.4f}{accuracy:10.3f}{told}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
