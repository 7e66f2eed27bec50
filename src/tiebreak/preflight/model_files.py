"""Whether a model folder is whole: read from the heads of its files, no weight is loaded."""

import json
from pathlib import Path

from tiebreak.config import Recipe
from tiebreak.data.templates import TEMPLATES
from tiebreak.errors import UserError, did_you_mean
from tiebreak.models.demo import FAMILIES, demo_path, is_built
from tiebreak.models.folder import resolve_base
from tiebreak.plurals import plural
from tiebreak.preflight.findings import FAIL, NOTE, Finding
from tiebreak.pretrained.weights import WEIGHTS

INDEX = "model.safetensors.index.json"
TEXT = "which answer would people prefer, or is it a tie?"
MARKS = ("▁", "##", "Ġ", " ")
"""What a tokenizer without a decoder of its own leaves of spaces."""


def find_folder(base: str) -> Path | Finding:
    """Find the local folder of a base, or say that it is made or fetched later. Builds and downloads nothing.

    Raises:
        UserError: there is no such folder, and it cannot be fetched.
    """
    if base in FAMILIES:
        return demo_path(base) if is_built(base) else Finding("model files", f"{base}: built at its first use", NOTE)
    resolved = Path(resolve_base(base))
    if resolved.is_dir():
        return resolved
    is_path = Path(base).is_absolute() or base.startswith((".", "~", "runs/")) or base.count("/") > 1
    from huggingface_hub import constants, try_to_load_from_cache

    if not is_path and isinstance(cached := try_to_load_from_cache(base, "config.json"), str):
        return Path(cached).parent
    if is_path or "/" not in base:
        hint = did_you_mean(base, [*FAMILIES, *WEIGHTS])
        raise UserError(
            f"{base}: there is no such folder, and it is no hub name (OWNER/NAME): "
            f"{hint or 'correct model.base or --model'}"
        )
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"{base}: there is no such folder, it is not in the hub's cache here, and HF_HUB_OFFLINE is set: give a "
            "local folder with --model (sbatch: MODEL=...), or fetch it where there is a network"
        )
    return Finding("model files", f"{base}: neither a folder nor in the hub's cache: to be downloaded first", NOTE)


def check_folder(folder: Path) -> Finding:
    """Check that configuration and weights are there, and that each safetensors file's header fits its size."""
    if not (folder / "config.json").is_file():
        return Finding("model files", f"{folder}: not a model folder, no config.json in it: correct --model", FAIL)
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        return Finding("model files", f"{folder / 'config.json'}: not readable as JSON ({error}): fetch it again", FAIL)
    indexed: dict[str, set[str]] = {}
    if (folder / INDEX).is_file():
        try:
            for tensor, name in json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].items():
                indexed.setdefault(name, set()).add(tensor)
        except (ValueError, KeyError, AttributeError):
            return Finding("model files", f"{folder / INDEX}: damaged: fetch the folder again", FAIL)
    elif (folder / "model.safetensors").is_file():
        indexed["model.safetensors"] = set()
    elif pickled := sorted(path.name for path in folder.glob("*.bin")):
        return Finding("model files", f"{folder}: no safetensors; {', '.join(pickled[:2])}: not checked", NOTE)
    else:
        return Finding(
            "model files", f"{folder}: holds no weights, neither model.safetensors nor {INDEX}: fetch it again", FAIL
        )
    faults, size = [], 0
    for name, tensors in sorted(indexed.items()):
        fault = fault_of(folder / name, tensors)
        faults += [fault] if fault else []
        size += 0 if fault else (folder / name).stat().st_size
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        return Finding("model files", f"{faults[0]}{more}: fetch the folder again", FAIL)
    files = f"{plural(len(indexed), 'safetensors file')}"
    return Finding("model files", f"{folder}: {files}, {size / 1e9:,.2f} GB, whole by their headers")


def fault_of(path: Path, tensors: set[str]) -> str | None:
    """Say what is wrong with a safetensors file that should hold these tensors: its header must fit its size."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return f"{path}: the index names it, but it is not there"
    try:
        with safe_open(path, framework="np") as file:
            absent = sorted(tensors - set(file.keys()))
    except SafetensorError as error:
        return f"{path}: truncated or damaged, {path.stat().st_size:,} bytes ({error})"
    if absent:
        return f"{path}: lacks {len(absent)} tensors that the index promises, for example {absent[0]}"
    return None


def check_tokenizer(folder: Path, recipe: Recipe) -> Finding:
    """A text comes back as it was, and every id has a row in the embeddings."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        others = [name for name in ("spm.model", "tokenizer.model", "vocab.txt") if (folder / name).is_file()]
        if not others:
            return Finding(
                "tokenizer", f"{folder}: no tokenizer.json, nor another tokenizer's file: fetch it again", FAIL
            )
        return Finding("tokenizer", f"{others[0]}: converted when the run starts, not checked", NOTE)
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
        rows = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    except Exception as error:  # tokenizers raises nothing narrower
        return Finding("tokenizer", f"{path}: not readable ({error}): fetch it again", FAIL)
    encoded = tokenizer.encode(TEXT, add_special_tokens=False)
    back = tokenizer.decode(encoded.ids)
    if _bare(back) != _bare(TEXT):
        return Finding("tokenizer", f"{path}: {TEXT!r} comes back as {back!r}: take this model's own", FAIL)
    largest = max(tokenizer.get_vocab().values())
    added = [token for token in TEMPLATES[recipe.model.template].added if tokenizer.token_to_id(token) is None]
    if rows is not None and max(encoded.ids) >= rows:
        return Finding(
            "tokenizer", f"{path}: ids up to {largest}, but the model has {rows} embeddings: take its own", FAIL
        )
    learnt = f"; {len(added)} special tokens of the template are added" if added else ""
    return Finding("tokenizer", f"{len(encoded.ids)} tokens there and back, {largest + 1:,} in all{learnt}")


def _bare(text: str) -> str:
    for mark in MARKS:
        text = text.replace(mark, "")
    return text.casefold()
