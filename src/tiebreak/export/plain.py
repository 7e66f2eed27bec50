"""The logits of an exported folder by transformers alone, fed as a server would feed it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tiebreak.data.tokens import Tokens
from tiebreak.export.readme import server_text
from tiebreak.models.folder import ModelManifest
from tiebreak.tables.rows import Pair


def plain_logits(
    folder: Path, form: str, pairs: Sequence[Pair], tokens: Tokens, manifest: ModelManifest, device: torch.device
) -> np.ndarray:
    """Logits (n, 3) of rows run one by one, in fp32 from the stored weights.

    Args:
        folder: of the export.
        form: `vllm` gets token ids; `tei` a text, to which its tokenizer adds special tokens.
        pairs: n rows.
        tokens: of them, as the judge reads them.
        manifest: of the folder.
        device: to run on.
    """
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    recipe = manifest.make_recipe()
    template = manifest.text_template(recipe)
    logits = np.empty((len(pairs), 3), np.float32)
    for row, pair in enumerate(pairs):
        ids = tokens.input_ids(row)[0].tolist()
        if form == "tei":
            parts = (template.turn.join(part) for part in (pair.prompt, pair.response_a, pair.response_b))
            sent = tokenizer(server_text(template, tokenizer, *parts))["input_ids"]
            ids = sent if len(sent) <= recipe.data.max_tokens else ids  # longer texts are for the client to shorten
        with torch.inference_mode():
            logits[row] = model(torch.tensor([ids], device=device)).logits[0].float().cpu().numpy()
    return logits
