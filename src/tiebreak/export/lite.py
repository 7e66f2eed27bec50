"""An exported judge in memory, with onnxruntime, tokenizers and numpy alone.

    pip install --no-deps tiebreak && pip install onnxruntime numpy tokenizers

Template, truncation and features are this package's own code, which the training uses too.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tiebreak.data.features import extract_features, swap_signs
from tiebreak.data.fitting import arrange, cut_row, encode_plain, fit_frame
from tiebreak.data.templates import Template
from tiebreak.errors import UserError
from tiebreak.labels import CLASSES, SWAPPED_CLASS
from tiebreak.prediction.onnx_model import OnnxModel, read_object
from tiebreak.tables.pairs import as_pairs
from tiebreak.tables.rows import Pair


class LiteJudge:
    """A judge that `tiebreak export --onnx` or `--int8` made.

    Args:
        folder: of the export.
        threads: that onnxruntime may use; 0 takes one for each core.

    Raises:
        UserError: no such export, or onnxruntime or tokenizers is missing.

    Example:
        >>> judge = LiteJudge("runs/first/onnx")  # doctest: +SKIP
        >>> judge.predict([("What is 2+2?", "4", "5")]).argmax(1)  # doctest: +SKIP
        array([0])
    """

    def __init__(self, folder: Path | str, threads: int = 0) -> None:
        self.model = OnnxModel(folder, threads)
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise UserError("tokenizers is needed: pip install tokenizers") from None
        stored = read_object(Path(folder) / "tiebreak.json")
        try:
            self._tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
            template = stored["template"]
            self.template = Template(**{**template, "added": tuple(template["added"])})
            self.settings = stored["recipe"]["data"]
            self._names, self._special = self.model.record["special_tokens"], set(self.model.record["special_ids"])
        except Exception as error:  # tokenizers raises nothing narrower
            raise UserError(f"{folder}: not loadable ({str(error)[:300]}): copy the folder, or export again") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._frame = fit_frame(lambda texts: self._encode(texts, False), self.template, self.settings["max_tokens"])

    def _encode(self, texts: list[str], split_special: bool) -> list[list[int]]:
        self._tokenizer.encode_special_tokens = split_special
        return [each.ids for each in self._tokenizer.encode_batch(texts, add_special_tokens=False)]

    def predict(self, pairs: Iterable[object], *, swap: bool = False) -> np.ndarray:
        """Probabilities (n, 3) float64 of A, B and a tie, as `tiebreak.Judge.predict` gives them.

        Args:
            pairs: dicts, tuples or rows of a table, as there.
            swap: look at both answer orders and average them.
        """
        rows = as_pairs(pairs)
        if not rows:
            return np.empty((0, len(CLASSES)))
        first = _softmax(self.logits(rows))
        if not swap:
            return first
        mean: np.ndarray = (first + _softmax(self.logits(rows, swapped=True))[:, SWAPPED_CLASS]) / 2
        return mean

    def logits(self, pairs: Sequence[Pair], swapped: bool = False) -> np.ndarray:
        """Logits (n, 3) float32 in the order A, B or, swapped, B, A."""
        groups = self.settings["features"]
        features = extract_features(pairs, groups) if groups else None
        if features is not None and swapped:
            features = features * swap_signs(groups)
        return self.model.logits(self.texts(pairs, swapped), features)

    def texts(self, pairs: Sequence[Pair], swapped: bool = False) -> list[list[np.ndarray]]:
        """Token ids of each row's text, or of its two sides."""
        parts = [part for pair in pairs for part in (pair.prompt, pair.response_a, pair.response_b)]
        texts = [text for part in parts for text in part]
        encoded = encode_plain(texts, lambda some: self._encode(some, True), self._names, self._special)
        rows = []
        for pair in pairs:
            whole = [[next(encoded) for _ in part] for part in (pair.prompt, pair.response_a, pair.response_b)]
            cut = cut_row(whole, self._frame, self.settings["truncation"], self.settings["prompt_cap"])
            sides = arrange(self._frame.pieces, self._frame.sides, cut.parts, swapped)
            rows.append([np.array([token for piece in side for token in piece]) for side in sides])
        return rows


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    probabilities: np.ndarray = powers / powers.sum(1, keepdims=True)
    return probabilities
