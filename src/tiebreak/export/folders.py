"""The folders that an export leaves: an ONNX graph, or a merged model for transformers, vLLM or TEI."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tiebreak.compatibility import find_family
from tiebreak.data.encode import special_ids
from tiebreak.errors import UserError
from tiebreak.export.readme import readme
from tiebreak.export.receipt import ExportManifest
from tiebreak.files import write_atomically
from tiebreak.manifests import write_manifest
from tiebreak.models.folder import MANIFEST_FILE, PROMPTS_FILE, ModelManifest, hash_tokenizer, judge_recipe
from tiebreak.models.guard import seal
from tiebreak.models.loading import has_own_head, load_model
from tiebreak.models.preference import PreferenceModel
from tiebreak.prediction.onnx_model import GRAPH_FILE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GRAPH_PACKAGES = ("onnx", "onnxruntime")
"""Which the other forms do without."""
TEI_FAMILIES = ("deberta-v2", "bert", "roberta", "xlm-roberta", "modernbert", "distilbert")


def merged_judge(folder: Path, manifest: ModelManifest, device: torch.device) -> PreferenceModel:
    """Load a judge in fp32, with its adapters in its base.

    Raises:
        UserError: a base stored in 4 or 8 bits, into which nothing can be added.
    """
    recipe = judge_recipe(manifest)
    if recipe.model.method != "full":
        recipe = judge_recipe(manifest, ["model.method=lora"])
        if recipe.model.method != "lora":
            stored = f"{recipe.model.base} is stored in {recipe.model.bits} bits, into which nothing can be added"
            raise UserError(f"{stored}: export a judge over a base that is not quantised")
    judge = load_model(folder, recipe, device, torch.float32)
    if recipe.model.method != "full":
        judge.network = judge.network.merge_and_unload()
    return judge.eval()


def refuse_form(manifest: ModelManifest, model_type: str, form: str) -> None:
    """Raise UserError where a server has no such model, or a graph cannot be made for want of a package.

    Args:
        manifest: of the judge.
        model_type: of its base, as transformers names it.
        form: what is asked for.
    """
    recipe, family = manifest.make_recipe(), find_family(model_type)
    if form in ("onnx", "int8") and (absent := [name for name in GRAPH_PACKAGES if find_spec(name) is None]):
        raise UserError(f"--{form} needs {' and '.join(absent)}: pip install 'tiebreak[export]'")
    if form in ("vllm", "tei") and (has_own_head(recipe) or recipe.model.pooling != "auto"):
        raise UserError(f"--{form} takes a linear head on the family's own pooling, without features: take --onnx")
    if form == "vllm" and (not family.decoder or family.head != "score"):
        raise UserError(f"--vllm takes decoders; {model_type} is none: take --tei or --onnx")
    if form == "tei" and model_type not in TEI_FAMILIES:
        raise UserError(f"--tei takes encoders ({', '.join(TEI_FAMILIES)}), not {model_type}: take --vllm")


def write_onnx(
    judge: PreferenceModel,
    tokenizer: "PreTrainedTokenizerBase",
    manifest: ModelManifest,
    record: ExportManifest,
    folder: Path,
) -> None:
    """Write graph, tokenizer, configuration and manifests; the receipt is added later."""
    from tiebreak.export.deberta_graph import deberta_graph
    from tiebreak.export.graph import save_graph
    from tiebreak.export.int8 import quantise

    graph = deberta_graph(judge, record.temperature, half_tables=record.form == "int8")
    if record.form == "int8":
        quantise(graph, folder / GRAPH_FILE)
    else:
        save_graph(graph, folder / GRAPH_FILE)
    judge.classifier.config.save_pretrained(folder)
    record.special_tokens = list(tokenizer.all_special_tokens)
    record.special_ids = sorted(special_ids(tokenizer))
    record.alone = record.form == "int8"
    _write_rest(tokenizer, manifest, record, folder)


def write_merged(
    judge: PreferenceModel,
    tokenizer: "PreTrainedTokenizerBase",
    manifest: ModelManifest,
    record: ExportManifest,
    folder: Path,
) -> None:
    """Write a whole model in bf16, which transformers and servers load by its architecture's name."""
    network: Any = judge.network
    network.config.problem_type = "single_label_classification"  # softmax, not a sigmoid for each class
    network.to(torch.bfloat16)
    network.config.dtype = torch.bfloat16
    network.save_pretrained(folder)
    _write_rest(tokenizer, manifest, record, folder)


def _write_rest(
    tokenizer: "PreTrainedTokenizerBase", manifest: ModelManifest, record: ExportManifest, folder: Path
) -> None:
    tokenizer.save_pretrained(folder)
    recipe = manifest.make_recipe(["model.method=full"])
    stored = manifest.model_copy(update={"recipe": recipe.model_dump(mode="json")})
    stored.template = manifest.text_template(manifest.make_recipe())
    stored.tokenizer = hash_tokenizer(folder)
    if (Path(record.source) / PROMPTS_FILE).is_file():
        shutil.copy(Path(record.source) / PROMPTS_FILE, folder)
    stored.files = seal(folder)
    write_manifest(folder / MANIFEST_FILE, stored)
    write_atomically(folder / "README.md", readme(record, stored, tokenizer))
