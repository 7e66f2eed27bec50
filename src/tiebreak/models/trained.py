"""The record of what a model was trained on: the hashes of its normalised prompts, kept in the model folder.

By it, and not by a folder's name, a prediction is known to be out-of-fold. The digest stands in the folder's
settings, which the model's fingerprint covers.
"""

import hashlib
import io
import json
from pathlib import Path

import numpy as np

from tiebreak.errors import UserError

TRAINED = "trained_prompts.npy"
SETTINGS_FILE = "tiebreak.json"


def pack_prompts(groups: np.ndarray) -> tuple[bytes, dict[str, object]]:
    """The file of these prompt groups (n,), sorted and once each, and what the settings say of it."""
    buffer = io.BytesIO()
    distinct = np.unique(groups)
    np.save(buffer, distinct)
    content = buffer.getvalue()
    return content, {"prompts": len(distinct), "sha256": hashlib.sha256(content).hexdigest()}


def read_prompts(folder: Path) -> np.ndarray | None:
    """The prompt groups, sorted, that the model in this folder was trained on; None where there is no record.

    Raises:
        UserError: the record is not the one that was saved with the model.
    """
    settings = folder / SETTINGS_FILE
    said = json.loads(settings.read_text(encoding="utf-8")).get("trained") if settings.is_file() else None
    if said is None:
        return None
    path = folder / TRAINED
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != said["sha256"]:
        raise UserError(f"{path}: absent, or not the record that was saved with this model; train again")
    return np.load(io.BytesIO(content))
