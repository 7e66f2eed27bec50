"""A judge's ONNX graph run by onnxruntime. Nothing here needs torch, transformers, pydantic or pyarrow."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tiebreak.errors import UserError

GRAPH_FILE, EXPORT_FILE = "model.onnx", "export.json"
TOKENS_AT_ONCE = 2_048
"""Padded tokens of one run: the products are as fast as in larger ones, and the attention's tables stay small."""


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of an export; without the packages that other readers need.

    Raises:
        UserError: it is absent or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}): copy the folder, or export again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not readable as JSON with fields: copy the folder, or export again")
    return content


class OnnxModel:
    """A session with the graph of an exported folder.

    Args:
        folder: as `tiebreak export --onnx` leaves it.
        threads: of each operation; 0 takes one for each core.

    Raises:
        UserError: no such export, or no onnxruntime.
    """

    def __init__(self, folder: Path | str, threads: int = 0) -> None:
        path = Path(folder) / GRAPH_FILE
        if not path.is_file() or not (Path(folder) / EXPORT_FILE).is_file():
            raise UserError(f"{folder} is not an ONNX export: no {GRAPH_FILE} with {EXPORT_FILE}; see tiebreak export")
        try:
            import onnxruntime
        except ImportError:
            raise UserError("onnxruntime is needed: pip install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.record = read_object(Path(folder) / EXPORT_FILE)
        try:
            self._alone = bool(self.record["alone"])
            self._session = onnxruntime.InferenceSession(path, options, providers=onnxruntime.get_available_providers())
        except Exception as error:  # onnxruntime's are of many types
            reason = next(iter(str(error).splitlines()), "")[:300]
            raise UserError(f"{folder}: not loadable ({reason}): copy the folder, or export again") from None

    def logits(self, texts: Sequence[Sequence[np.ndarray]], features: np.ndarray | None = None) -> np.ndarray:
        """Logits (n, 3) float32 of rows, in their order.

        Rows of like lengths run together. In int8 each row runs alone: the range of activations is taken over a run,
        so that a row's logits would depend on its company.

        Args:
            texts: token ids of each row's text, or of its two sides.
            features: (n, k) float32, for a judge that sees them.
        """
        sizes = np.array([max(map(len, row)) for row in texts])
        logits = np.empty((len(texts), 3), np.float32)
        for rows in self._runs(sizes, len(texts[0]) if texts else 1):
            flat = [text for row in rows for text in texts[row]]
            lengths = np.array([len(text) for text in flat])
            ids = np.zeros((len(flat), lengths.max()), np.int64)
            for place, text in zip(ids, flat, strict=True):
                place[: len(text)] = text
            inputs = {"input_ids": ids, "lengths": lengths}
            if features is not None:
                inputs["features"] = features[rows]
            logits[rows] = self._session.run(["logits"], inputs)[0]
        return logits

    def _runs(self, sizes: np.ndarray, sides: int) -> list[np.ndarray]:
        """Rows of each run, the longest first."""
        order = np.argsort(-sizes, kind="stable")
        if self._alone:
            return list(order[:, None])
        runs, start = [], 0
        while start < len(order):
            count = max(1, TOKENS_AT_ONCE // (int(sizes[order[start]]) * sides))
            runs.append(order[start : start + count])
            start += count
        return runs


@lru_cache(maxsize=1)
def open_onnx(folder: Path) -> OnnxModel:
    """The session of a folder, kept until another one is opened."""
    return OnnxModel(folder, threads_allowed())


def threads_allowed() -> int:
    """How many threads the environment allows; 0 where it does not say."""
    import os

    text = os.environ.get("OMP_NUM_THREADS", "0")
    return int(text) if text.isdigit() else 0
