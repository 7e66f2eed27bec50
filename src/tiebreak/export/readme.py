"""The README of an exported folder: how to run it, and the request to send."""

import json
from typing import TYPE_CHECKING

from tiebreak.data.encode import fit_template
from tiebreak.data.fitting import arrange
from tiebreak.data.templates import Template
from tiebreak.export.receipt import ExportManifest
from tiebreak.labels import CLASS_NAMES
from tiebreak.models.folder import ModelManifest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EXAMPLE = ("What is 2 + 2?", "4", "5")
ONNX = """
The graph takes `input_ids` (texts, length) and `lengths` (texts,) int64{features}, and gives `logits` (rows, 3) of
A, B and a tie, the temperature inside. Any length, any number of rows.

Without torch, with onnxruntime, tokenizers and numpy:

```
pip install --no-deps tiebreak && pip install onnxruntime tokenizers
```

```python
from tiebreak.export.lite import LiteJudge

judge = LiteJudge(".")
print(judge.predict([("What is 2 + 2?", "4", "5")], swap=True))  # probabilities of A, B, tie
```

Whole tables, in shards: `tiebreak predict --runtime onnx --model . --data test.csv --out predictions`.
"""
MERGED = """
A plain model without adapters, weights in bf16: `tiebreak predict --model .`, or transformers:

```python
from transformers import AutoModelForSequenceClassification

model = AutoModelForSequenceClassification.from_pretrained(".")
```
"""
VLLM = """
```
vllm serve . --runner pooling
curl localhost:8000/classify -H 'Content-Type: application/json' -d '{request}'
```

`input` holds token ids of the whole text, template included, so that nothing is added or cut on the way; `probs` in the
answer are those of A, B and a tie. The token ids of a row:

```python
from tiebreak import Judge
from tiebreak.data.encode import encode_pairs
from tiebreak.tables.pairs import as_pairs

judge = Judge.load(".")
template = judge.manifest.text_template(judge.recipe)
tokens = encode_pairs(as_pairs([("What is 2 + 2?", "4", "5")]), judge.tokenizer, template, judge.recipe.data)
print(tokens.input_ids(0)[0].tolist())
```
"""
TEI = """
```
text-embeddings-router --model-id "$PWD" --port 8080
curl localhost:8080/predict -H 'Content-Type: application/json' -d '{request}'
```

The answer lists `label` and `score` of A, B and a tie. TEI cuts the text itself: `inputs` is the template around
prompt and answers without the special tokens at its two ends, which TEI's tokenizer adds. Texts beyond {most:,} tokens
are to be shortened before; a text that holds the name of a special token is another text for TEI than for this judge.
"""
NOT_RUN = "\nThe folder was tested by loading it with transformers alone; no server was run.\n"


def readme(record: ExportManifest, manifest: ModelManifest, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Write how to run an exported folder.

    Args:
        record: of the export.
        manifest: of the folder.
        tokenizer: of the judge.
    """
    recipe = manifest.make_recipe()
    template = manifest.text_template(recipe)
    head = f"# {recipe.name}: {record.form}\n\nA judge of two answers: {', '.join(CLASS_NAMES)}. What the export cost "
    head += "stands in `export.json`.\n"
    if record.form in ("onnx", "int8"):
        beside = ", and `features` (rows, k) float32" if recipe.data.features else ""
        return head + ONNX.replace("{features}", beside)
    if record.form == "vllm":
        request = json.dumps({"model": ".", "input": [example_ids(template, manifest, tokenizer)]})
        return head + VLLM.replace("{request}", request) + NOT_RUN
    if record.form == "tei":
        text = server_text(template, tokenizer, *EXAMPLE)
        body = TEI.replace("{request}", json.dumps({"inputs": text})).replace("{most:,}", f"{recipe.data.max_tokens:,}")
        return head + body + NOT_RUN
    return head + MERGED


def example_ids(template: Template, manifest: ModelManifest, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Token ids of the example, as the judge reads it."""
    frame = fit_template(tokenizer, template, manifest.make_recipe().data)
    parts = tokenizer(list(EXAMPLE), add_special_tokens=False)["input_ids"]
    (pieces,) = arrange(frame.pieces, frame.sides, parts, False)
    return [token for piece in pieces for token in piece]


def server_text(template: Template, tokenizer: "PreTrainedTokenizerBase", prompt: str, a: str, b: str) -> str:
    """A row as a text to which the tokenizer adds its special tokens at both ends by itself."""
    text = template.head + prompt + template.before_first + a + template.before_second + b + template.tail
    ends = tokenizer("")["input_ids"]
    first, last = (tokenizer.convert_ids_to_tokens(ends)[end] if ends else "" for end in (0, -1))
    return text.removeprefix(str(first)).removesuffix(str(last))
