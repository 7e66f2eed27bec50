"""Every reader of a file that a stranger may write, as a function of bytes: it returns, or says what is wrong.

Used by the property tests (test_readers.py) and by the coverage-guided runs (fuzz.py).
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tiebreak.config import make_recipe
from tiebreak.data.prediction_manifest import PREDICTION_FILE, Provenance, read_prediction_manifest
from tiebreak.data.predictions import read_predictions
from tiebreak.errors import UserError
from tiebreak.manifests import read_manifest
from tiebreak.models.folder import MANIFEST_FILE, ModelManifest
from tiebreak.models.guard import check_adapter, check_folder
from tiebreak.pipeline.ablation import load_ablation
from tiebreak.pipeline.recipe import load_pipeline
from tiebreak.prediction.parts import (
    BadPart,
    Part,
    RowKeys,
    part_path,
    read_part,
    read_row_keys,
    write_part,
    write_row_keys,
)
from tiebreak.pretrained.base_files import read_headers
from tiebreak.recipe_files import RECIPES
from tiebreak.structured import read_yaml
from tiebreak.tables.table import read_labels, read_table

TABLES = (".csv", ".jsonl", ".json", ".tsv", ".parquet", ".arrow", ".csv.gz", ".json.zip", ".csv.zst")
PROVENANCE = Provenance(model="m", table="t", settings="s")
WORDS = 1_500
"""Characters of the longest message."""
Reader = Callable[[bytes, Path], None]


@contextlib.contextmanager
def told():
    """Let a told mistake pass, if it is told in few words."""
    try:
        yield
    except (UserError, BadPart) as error:
        assert str(error).strip(), "an empty message"
        assert len(str(error)) < WORDS + 20 * 200, f"{len(str(error))} characters"


def tables(data: bytes, folder: Path) -> None:
    """A table of any container, by the first byte; with its labels."""
    path = folder / f"t{TABLES[data[0] % len(TABLES) if data else 0]}"
    path.write_bytes(data[1:])
    with told():
        for pair in read_table(path, on_bad_row="skip").pairs:
            assert pair.id.strip() and len(pair.prompt) == len(pair.response_a) == len(pair.response_b)
            assert pair.label in (None, 0, 1, 2)
            json.dumps([pair.id, pair.prompt]).encode()
    with told():
        assert set(read_labels(path).values()) <= {0, 1, 2}


def predictions(data: bytes, folder: Path) -> None:
    """A table of probabilities."""
    path = folder / ("p.parquet" if data[:4] == b"PAR1" else "p.csv")
    path.write_bytes(data)
    with told():
        ids, probabilities = read_predictions(path)
        assert len(set(ids)) == len(ids) == len(probabilities)
        assert np.isfinite(probabilities).all() and np.abs(probabilities.sum(1) - 1).max() < 1e-9


def recipes(data: bytes, folder: Path) -> None:
    """A recipe, a ladder or a pipeline; and one field of a recipe."""
    path = folder / "r.yaml"
    path.write_bytes(data)
    with told():
        content = read_yaml(path)
        if isinstance(content, dict):
            make_recipe(content)
    for load in (load_ablation, load_pipeline):
        with told():
            load(str(path))
    with told():
        make_recipe({"model": {"base": "demo-deberta"}}, [data[:200].decode("utf-8", "replace")])


def parts(data: bytes, folder: Path) -> None:
    """A part of a prediction, and the keys of its rows."""
    path = part_path(folder, 0)
    path.write_bytes(data)
    with told():
        part = read_part(path, PROVENANCE, 10)
        assert part.rows.max(initial=0) < 10 and part.logits.shape == (len(part.rows), 3)
    (folder / "rows.npz").write_bytes(data)
    with told():
        read_row_keys(folder)


def manifests(data: bytes, folder: Path) -> None:
    """The manifests of predictions and judges, an adapter's and a model's configuration, and an index of weights."""
    for name in (PREDICTION_FILE, MANIFEST_FILE, "config.json", "adapter_config.json", "model.safetensors.index.json"):
        (folder / name).write_bytes(data)
    with told():
        read_prediction_manifest(folder)
    with told():
        read_manifest(folder / MANIFEST_FILE, ModelManifest).make_recipe()
    with told():
        check_folder(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    with told():
        check_adapter(folder)


def weights(data: bytes, folder: Path) -> None:
    """The header of a file of weights."""
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "model.safetensors").write_bytes(data)
    with told():
        read_headers(folder)
    with told():
        check_folder(folder)


READERS: dict[str, Reader] = {
    reader.__name__: reader for reader in (tables, predictions, recipes, parts, manifests, weights)
}


def run(reader: Reader, data: bytes) -> None:
    """One input, in a folder of its own in memory where the system has such."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        reader(data, Path(folder))


def seeds(name: str) -> list[bytes]:
    """Good inputs to begin with."""
    return {
        "tables": _tables,
        "predictions": lambda: [_predictions(), _parquet_of(_predictions()), _predictions().replace(b",", b";")],
        "recipes": lambda: [path.read_bytes() for path in sorted(RECIPES.rglob("*.yaml"))] + [b"train.lr=1e-4"],
        "parts": _parts,
        "manifests": _manifests,
        "weights": _weights,
    }[name]()


def _predictions() -> bytes:
    return b"id,winner_model_a,winner_model_b,winner_tie\n" + b"".join(b"%d,0.2,0.3,0.5\n" % n for n in range(4))


def _parquet_of(table: bytes) -> bytes:
    import pyarrow.csv
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pyarrow.csv.read_csv(io.BytesIO(table)), out)
    return out.getvalue()


def _rows() -> list[dict[str, object]]:
    turns = [json.dumps(texts) for texts in (["question", "more"], ["yes", None], ["no \ud83d", "\u00e9"])]
    names = ("prompt", "response_a", "response_b")
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"from": "gpt", "value": "b"}]
    return [
        {"id": 1, **dict(zip(names, turns, strict=True)), "winner": "model_a", "language": "en"},
        {"question_id": "x", "conversation_a": chat, "conversation_b": chat, "winner": "tie (bothbad)", "turn": 1},
        {"prompt": "p", "chosen": chat, "rejected": chat, "score_chosen": 5.0, "score_rejected": 4.0},
        {"instruction": "i", "input": "", "response1": "a", "response2": "b", "annotator_1": 1, "idx": 3},
    ]


def _tables() -> list[bytes]:
    import csv
    import gzip
    import zipfile

    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    for row in _rows():
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row))
        writer.writeheader()
        cells = {key: value if isinstance(value, (str, int)) else json.dumps(value) for key, value in row.items()}
        writer.writerows([cells] * 3)
        table, parquet, arrow, packed = (
            pa.Table.from_pylist([_plain(row)] * 3),
            io.BytesIO(),
            io.BytesIO(),
            io.BytesIO(),
        )
        pq.write_table(table, parquet)
        with pa.ipc.new_stream(arrow, table.schema) as stream:
            stream.write_table(table)
        content = text.getvalue().encode("utf-8", "surrogatepass")
        with zipfile.ZipFile(packed, "w") as file:
            file.writestr("t.json", json.dumps([row] * 3))
        line = (json.dumps(row) + "\n").encode()
        forms = [content, line * 3, json.dumps([row] * 3).encode(), content.replace(b",", b"\t"), parquet.getvalue()]
        forms += [arrow.getvalue(), gzip.compress(content), packed.getvalue()]
        found += [bytes([kind]) + form for kind, form in enumerate(forms)]
    return found


def _plain(row: dict[str, object]) -> dict[str, object]:
    return json.loads(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))


def _parts() -> list[bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder, logits = Path(name), np.zeros((3, 3), np.float32)
        counts = np.zeros(3, np.int8), np.array([9, 9]), np.array([1.5])
        write_part(folder, 0, Part(np.array([5, 2, 9]), logits, logits, *counts), PROVENANCE)
        write_row_keys(folder, RowKeys(np.arange(3, dtype=np.uint64), np.ones((3, 2), np.int64), np.arange(2)))
        return [part_path(folder, 0).read_bytes(), (folder / "rows.npz").read_bytes()]


def _manifests() -> list[bytes]:
    prior = {"prior": [0.2, 0.3, 0.5], "length_weights": [[0.0] * 4] * 3, "length_intercepts": [0.0] * 3}
    recipe = make_recipe({"model": {"base": "demo-deberta", "template": "deberta"}}).model_dump(mode="json")
    prediction = {
        **{"version": 2, "parts": "parts-0", "part_count": 1, "blocks": 1, "rows": 4, "swap": True, "adaptive": 0.3},
        **{
            "provenance": {"model": "m", "table": "t", "settings": "s"},
            "ids": "0",
            "fingerprint": "m",
            "unreadable": [1],
        },
        **{"reasons": {"1": "x"}, "truncation": {"max_tokens": 256}, "model": "m", "class_shares": [0.4, 0.35, 0.25]},
        **{"degenerate": {"source": "x", "rows": {"empty": [2]}, "outputs": {"empty": [0.1, 0.1, 0.8]}}},
        **{"recipe": "demo", "recipe_hash": "r"},
    }
    adapter = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 4, "lora_alpha": 8, "modules_to_save": ["score"]}
    config = {"model_type": "gemma2", "hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 9, "id2label": {"0": "a"}}
    found = [
        prediction,
        {"models": {"one": "runs/one"}, "table": "t", "rows": 4},
        {"version": 1, "baselines": prior, "recipe": recipe, "trained": {"prompts": 1, "sha256": "0"}},
        {**adapter, "target_modules": "(.*\\.)?model\\.(q|k)", "base_model_name_or_path": "x"},
        {
            **config,
            "layer_norm_eps": 1e-5,
            "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
        },
        {"metadata": {}, "weight_map": {"a": "model-1.safetensors"}},
    ]
    return [json.dumps(each).encode() for each in found]


def _weights() -> list[bytes]:
    from safetensors.numpy import save

    return [save({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float16)}, {"format": "pt"})]
