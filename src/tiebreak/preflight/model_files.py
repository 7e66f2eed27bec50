"""Whether a model folder is whole: read from the heads of its files, no weight is loaded."""

import os
import shutil
from pathlib import Path

from tiebreak.config import Recipe
from tiebreak.data.templates import TEMPLATES
from tiebreak.errors import UserError, did_you_mean
from tiebreak.models.bases import is_hub_name, locate, resolve_base
from tiebreak.models.check_base import check_base
from tiebreak.models.demo import FAMILIES, demo_path, is_built
from tiebreak.models.tokenizer import FILES, check_ids, check_template, refuse_absent, tokens_to_add
from tiebreak.plurals import plural
from tiebreak.preflight.findings import NOTE, OK, Finding, finding_of
from tiebreak.pretrained.base_files import read_config, read_headers, refuse_pointer
from tiebreak.pretrained.weights import WEIGHTS


def find_folder(base: str) -> Path | Finding:
    """Find the local folder of a base, or say that it is made or fetched later. Builds and downloads nothing.

    Raises:
        UserError: there is no such folder, and it cannot be fetched.
    """
    if base in FAMILIES:
        return demo_path(base) if is_built(base) else Finding("model files", f"{base}: built at its first use", NOTE)
    resolve_base(base)
    if (found := locate(base)) is not None:
        return found
    if not is_hub_name(base):
        hint = did_you_mean(base, [*FAMILIES, *WEIGHTS])
        where = "" if Path(base).is_absolute() else f" in {Path.cwd()}"
        raise UserError(
            f"{base}: there is no such folder{where}, and it is no hub name (OWNER/NAME): "
            f"{hint or 'correct model.base or --model'}"
        )
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"{base}: there is no such folder, it is not in the hub's cache here, and HF_HUB_OFFLINE is set: give a "
            "local folder with --model (sbatch: MODEL=...), or fetch it where there is a network"
        )
    text = f"{base}: neither a folder nor in the hub's cache: to be downloaded first"
    if shutil.which("sbatch") and "SLURM_JOB_ID" not in os.environ:
        text += ". Jobs download nothing (OFFLINE=1) and will refuse it: fetch it here, or name its folder (MODEL=...)"
    return Finding("model files", text, NOTE)


def check_folder(folder: Path, recipe: Recipe | None = None) -> Finding:
    """Ask what the loader asks (tiebreak.models.check_base), and that each safetensors file's header fits its size.

    Args:
        folder: of a base, or of a judge that is whole in itself.
        recipe: that the base is to be trained by.
    """

    def look() -> Finding:
        notes = check_base(folder, recipe)
        headers = read_headers(folder)
        if headers is None:
            pickled = sorted(path.name for path in folder.glob("*.bin"))
            return Finding("model files", f"{folder}: no safetensors; {', '.join(pickled[:2])}: not checked", NOTE)
        size = sum((folder / name).stat().st_size for name in headers)
        files = plural(len(headers), "safetensors file")
        text = "; ".join([f"{folder}: {files}, {size / 1e9:,.2f} GB, whole by their headers", *notes])
        return Finding("model files", text, NOTE if notes else OK)

    return finding_of("model files", look)


def check_tokenizer(folder: Path, recipe: Recipe) -> Finding:
    """Ask what tiebreak.models.tokenizer asks, of tokenizer.json alone: no torch, no transformers."""

    def look() -> Finding:
        refuse_absent(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            others = [name for name in FILES if (folder / name).is_file()]
            return Finding("tokenizer", f"{others[0]}: converted when the run starts, not checked", NOTE)
        refuse_pointer(path)
        from tokenizers import AddedToken, Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing narrower
            raise UserError(f"{path}: not readable ({error}): fetch it again") from None
        notes = check_ids(tokenizer, str(path), read_config(folder).get("vocab_size"))
        name, count = recipe.model.template, tokenizer.get_vocab_size()
        if added := tokens_to_add(tokenizer, TEMPLATES[name]):
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in added])
            notes.append(f"{len(added)} special tokens of the template are added")
        check_template(tokenizer, TEMPLATES[name], name, str(folder))
        text = "; ".join([f"a text there and back, {count:,} tokens in all", *notes])
        return Finding("tokenizer", text, NOTE if notes else OK)

    return finding_of("tokenizer", look)
