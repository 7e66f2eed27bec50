"""A judge made ready to serve, with a receipt: written whole, or refused."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tiebreak.config import Recipe
from tiebreak.errors import UserError
from tiebreak.files import as_paths, new_folder
from tiebreak.manifests import write_manifest
from tiebreak.models.folder import ModelManifest, find_model_folder, fingerprint, judge_recipe, read_prompts
from tiebreak.prediction.onnx_model import EXPORT_FILE
from tiebreak.process import importing
from tiebreak.sample.generator import sample_file
from tiebreak.tables.table import OnBadRow

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from tiebreak.data.tokens import Tokens
    from tiebreak.export.receipt import HeldOut, Receipt

log = logging.getLogger(__name__)

Form = Literal["onnx", "int8", "merged", "vllm", "tei"]


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        folder: that was written.
        form: of it.
        receipt: what it cost.
    """

    folder: Path
    form: Form
    receipt: "Receipt"

    def __str__(self) -> str:
        size = sum(path.stat().st_size for path in self.folder.iterdir()) / 1e6
        return f"{self.receipt}\n{self.folder}: {self.form}, {size:,.1f} MB"


def export_judge(
    run: Path | str,
    out: Path | str,
    *,
    form: Form = "onnx",
    data: Path | str | Sequence[Path | str] = (),
    rows: int = 2_000,
    tolerance: float = 0.002,
    agreement: float = 0.99,
    temperature: float = 1.0,
    on_bad_row: OnBadRow = "fail",
) -> Export:
    """Export a judge, and compare it with itself on rows that it was not trained on.

    Args:
        run: the model folder, or the run folder above it.
        out: the folder to write.
        form: `onnx` in fp32 or `int8`, for onnxruntime; `merged`, a plain model in bf16; `vllm` or `tei`, the same with
            what these servers ask for.
        data: labelled tables; the embedded sample if empty. Rows whose prompts the judge was trained on are left out.
        rows: most rows to compare on.
        tolerance: in nats, the most by which the log loss may change.
        agreement: the least share of rows whose likeliest class stays.
        temperature: divides the logits, inside the ONNX graph; the receipt compares with the judge at that temperature.
        on_bad_row: `fail` or `skip`.

    Raises:
        UserError: a judge that cannot take this form, no rows to compare on, or an export beyond the tolerance; then
            nothing is written.

    Example:
        >>> done = export_judge("runs/demo/student", "student-onnx")  # doctest: +SKIP
        >>> done.receipt.agreement  # doctest: +SKIP
        1.0
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists: choose another --out")
    if temperature <= 0 or (temperature != 1 and form not in ("onnx", "int8")):
        raise UserError(f"--temperature {temperature:g}: give a number above 0, and only with --onnx or --int8")
    folder, manifest = find_model_folder(run)
    recipe = judge_recipe(manifest)
    with importing():
        import torch

        from tiebreak.export import folders, receipt
        from tiebreak.models.loading import find_model_type
        from tiebreak.models.tokenizer import load_saved_tokenizer

    model_type = find_model_type(str(folder) if recipe.model.method == "full" else recipe.model.base)
    folders.refuse_form(manifest, model_type, form)
    files = as_paths(data) or [sample_file(recipe.data)]
    held_out = receipt.read_held_out(files, read_prompts(folder), rows, on_bad_row)
    log.info(f"receipt: {len(held_out.pairs):,} rows, {held_out.trained:,} left out as trained on")
    tokenizer = load_saved_tokenizer(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokens = _tokens(held_out, tokenizer, manifest, recipe)
    before = _judge_logits(folder, manifest, recipe, tokens, device) / temperature
    record = receipt.ExportManifest(
        version=receipt.VERSION, form=form, source=str(folder), fingerprint=fingerprint(folder), temperature=temperature
    )
    with new_folder(out) as temporary:
        judge = folders.merged_judge(folder, manifest, torch.device("cpu"))
        write = folders.write_onnx if form in ("onnx", "int8") else folders.write_merged
        write(judge, tokenizer, manifest, record, temporary)
        write_manifest(temporary / EXPORT_FILE, record)
        del judge
        after = _export_logits(temporary, form, held_out, tokens, device)
        record.receipt = receipt.compare_logits(held_out, before, after, tolerance, agreement)
        record.receipt.check()
        write_manifest(temporary / EXPORT_FILE, record)
    return Export(out, form, record.receipt)


def _tokens(
    held_out: "HeldOut", tokenizer: "PreTrainedTokenizerBase", manifest: ModelManifest, recipe: Recipe
) -> "Tokens":
    from tiebreak.data.encode import encode_pairs

    return encode_pairs(held_out.pairs, tokenizer, manifest.text_template(recipe), recipe.data)


def _judge_logits(
    folder: Path, manifest: ModelManifest, recipe: Recipe, tokens: "Tokens", device: "torch.device"
) -> np.ndarray:
    """Logits (n, 3) of the judge as it is, adapters beside their base, in fp32."""
    import torch

    from tiebreak.data.plan import blocks
    from tiebreak.models.loading import load_model
    from tiebreak.prediction.compute import forward

    judge = load_model(folder, recipe, device, torch.float32)
    logits = np.empty((len(tokens), 3), np.float32)
    for some in blocks(tokens.lengths, recipe.predict.tokens_per_block):
        logits[some] = forward(judge, tokens, some, False)
    return logits


def _export_logits(
    folder: Path, form: Form, held_out: "HeldOut", tokens: "Tokens", device: "torch.device"
) -> np.ndarray:
    """Logits (n, 3) of an exported folder, by what will run it as far as that is at hand."""
    if form in ("onnx", "int8"):
        from tiebreak.export.lite import LiteJudge
        from tiebreak.prediction.onnx_model import threads_allowed

        return LiteJudge(folder, threads_allowed()).logits(held_out.pairs)
    _, manifest = find_model_folder(folder)
    if form == "merged":
        return _judge_logits(folder, manifest, manifest.make_recipe(), tokens, device)
    from tiebreak.export.plain import plain_logits

    return plain_logits(folder, form, held_out.pairs, tokens, manifest, device)
