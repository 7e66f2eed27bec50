"""Models in and out: base weights, adapters, 4-bit, and the model folder that plain libraries load."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn

from tiebreak import __version__
from tiebreak.config import ModelSettings, Recipe
from tiebreak.data.templates import TEMPLATES
from tiebreak.errors import UserError
from tiebreak.files import TEMPORARY, sha256, write_atomically, write_json
from tiebreak.labels import CLASSES
from tiebreak.models import deberta
from tiebreak.models.architectures import ARCHITECTURES
from tiebreak.models.attention import Attention, choose_attention
from tiebreak.models.bases import resolve_base
from tiebreak.models.heads import HEADS, attach_head, heads_of
from tiebreak.models.preference import PreferenceModel
from tiebreak.models.trained import SETTINGS_FILE, TRAINED, pack_prompts
from tiebreak.process import quieten_transformers

ENCODERS = ("deberta-v2", "bert")
"""Families that are judged by their first token; those with a `score` are judged by their last."""


def find_model_type(base: str) -> str:
    """The architecture's name in transformers, from the configuration alone; of published bases without a hub."""
    if base in ARCHITECTURES and not Path(base).exists():
        return ARCHITECTURES[base]["model_type"]
    from transformers import AutoConfig

    quieten_transformers()
    return told(base, lambda: AutoConfig.from_pretrained(resolve_base(base))).model_type


def load_tokenizer(base: str, template: str):
    """The base's fast tokenizer, with a padding token and the template's special tokens."""
    from transformers import AutoTokenizer

    quieten_transformers()
    tokenizer = told(base, lambda: AutoTokenizer.from_pretrained(resolve_base(base)))
    if not tokenizer.is_fast:
        raise UserError(f"{base}: only a slow tokenizer; a tokenizer.json is needed")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    added = [token for token in TEMPLATES[template].added if token not in tokenizer.get_vocab()]
    if added:
        tokenizer.add_special_tokens({"additional_special_tokens": added})
    return tokenizer


def build_model(recipe: Recipe, tokenizer, device: torch.device, precision: torch.dtype) -> PreferenceModel:
    """The model to train: base weights, a fresh head where there is none, adapters if asked for.

    The random start of head and adapters depends on `train.seed` alone.
    """
    settings = recipe.model
    torch.manual_seed(recipe.train.seed)
    network, attention = _load_classifier(recipe, tokenizer, device, precision)
    _assert_positions(network.config, recipe)
    if settings.method != "full":
        network = _add_adapters(network, settings)
    if recipe.train.gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    judge = _judge(network, attention, settings, precision)
    freeze(judge, settings.freeze)
    return judge.to(device)


def freeze(judge: PreferenceModel, what: str | int) -> None:
    """Keep parameters as they are: `embeddings`, so many of the lowest layers too, or the whole `backbone`."""
    if what == "none":
        return
    backbone = getattr(judge.classifier, judge.classifier.base_model_prefix)
    kept = [judge.classifier.get_input_embeddings()]
    if what == "backbone":
        kept = [backbone]
    elif isinstance(what, int):
        kept += layers(judge)[:what]
    heads = {id(parameter) for head in heads_of(judge.classifier).values() for parameter in head.parameters()}
    for module in kept:
        for parameter in module.parameters():
            if id(parameter) not in heads:
                parameter.requires_grad_(False)


def layers(judge: PreferenceModel) -> list[nn.Module]:
    """The backbone's transformer layers, the lowest first."""
    backbone = getattr(judge.classifier, judge.classifier.base_model_prefix)
    return list(backbone.encoder.layer if hasattr(backbone, "encoder") else backbone.layers)


def keep_layers(classifier: Any, chosen: list[int]) -> None:
    """Leave a classifier these of its transformer layers, in this order, and its configuration with as many.

    Raises:
        UserError: a layer that it has not.
    """
    backbone = getattr(classifier, classifier.base_model_prefix)
    place, name = (backbone.encoder, "layer") if hasattr(backbone, "encoder") else (backbone, "layers")
    every, config = getattr(place, name), classifier.config
    if max(chosen) >= len(every):
        raise UserError(f"model.layers is {chosen}, but the base has {len(every)} layers, counted from 0")
    setattr(place, name, nn.ModuleList([every[k] for k in chosen]))
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[k] for k in chosen]
    config.num_hidden_layers = len(chosen)


def find_model_folder(folder: Path) -> tuple[Path, dict]:
    """The model folder (given itself or by the run folder above it) and its stored settings."""
    for candidate in (folder, folder / "model"):
        if not (candidate / SETTINGS_FILE).is_file():
            continue
        try:
            stored = json.loads((candidate / SETTINGS_FILE).read_text(encoding="utf-8"))
            whole = {"recipe": dict(stored["recipe"]), "baselines": dict(stored["baselines"])}
            return candidate, whole | {"in_sample": list(stored.get("in_sample", []))}
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{candidate / SETTINGS_FILE}: damaged, or of another version; train again") from None
    raise UserError(f"{folder}: no {SETTINGS_FILE} here or in model/, so it is no judge of this project")


def load_model(folder: Path, recipe: Recipe, device: torch.device, precision: torch.dtype) -> PreferenceModel:
    """A trained judge from its model folder, in evaluation mode."""
    settings, tokenizer = recipe.model, load_saved_tokenizer(folder)
    if settings.method == "full":
        network, attention = _load_classifier(recipe, tokenizer, device, precision, str(folder))
    else:
        from peft import PeftModel

        base, attention = _load_classifier(recipe, tokenizer, device, precision)
        network = told(str(folder), lambda: PeftModel.from_pretrained(base, folder))
    return _judge(network, attention, settings, precision).to(device).eval()


def _judge(network: Any, attention: Attention, settings: ModelSettings, precision: torch.dtype) -> PreferenceModel:
    dropout = settings.head_dropout if settings.head == "linear" else 0.0  # other heads have their own
    return PreferenceModel(
        network, attention, None if precision == torch.float32 else precision, settings.pooling, dropout
    )


def load_saved_tokenizer(folder: Path):
    from transformers import AutoTokenizer

    return told(str(folder), lambda: AutoTokenizer.from_pretrained(folder))


def fingerprint(folder: Path) -> str:
    """A hash of the folder's weights and settings: what its predictions depend on."""
    files = sorted([*folder.glob("*.safetensors"), folder / SETTINGS_FILE])
    return hashlib.sha256("".join(sha256(path) for path in files).encode()).hexdigest()


def save_model(
    judge: PreferenceModel,
    tokenizer,
    recipe: Recipe,
    baselines: Mapping[str, Any],
    folder: Path,
    trained: np.ndarray | None = None,
    in_sample: Sequence[str] = (),
) -> None:
    """Write the model folder: temporary name, then rename.

    Args:
        baselines: fitted on the training rows (`tiebreak.evaluation.baselines`); their prior is the prediction
            for a row that cannot be read.
        trained: prompt groups of all rows that were trained on (`tiebreak.models.trained`).
        in_sample: what was allowed by --allow-in-sample, for every result to mention.

    Raises:
        RuntimeError: a saved tensor is empty, as sharded engines leave them when not gathered.
    """
    temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{folder.name}-", dir=folder.parent))
    temporary.chmod(0o755)
    judge.network.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    settings: dict[str, Any] = {"tiebreak": __version__, "classes": CLASSES, "baselines": dict(baselines)}
    if in_sample:
        settings["in_sample"] = list(in_sample)
    if trained is not None:
        content, settings["trained"] = pack_prompts(trained)
        write_atomically(temporary / TRAINED, content)
    write_json(temporary / SETTINGS_FILE, settings | {"recipe": recipe.model_dump(mode="json")})
    _assert_whole(temporary)
    old = temporary.with_name(f"{temporary.name}-old")
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """`auto`: bf16 where the GPU has it, else fp32."""
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[wanted]


def _load_classifier(recipe: Recipe, tokenizer, device, precision, folder: str | None = None):
    from transformers import (
        AutoConfig,
        AutoModelForSequenceClassification,
        BitsAndBytesConfig,
    )

    quieten_transformers()
    settings, features = recipe.model, recipe.data.features
    own_head = settings.head != "linear" or bool(features)
    base = folder or resolve_base(settings.base)
    config = told(base, lambda: AutoConfig.from_pretrained(base))
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise UserError(f"{base}: {config.model_type} has no sequence classifier in transformers")
    config.num_labels = len(CLASSES)
    config.id2label = dict(enumerate(CLASSES))
    config.label2id = {name: k for k, name in enumerate(CLASSES)}
    config.pad_token_id = tokenizer.pad_token_id
    if settings.dropout is not None:
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "pooler_dropout"):
            if hasattr(config, name):
                setattr(config, name, settings.dropout)
    attention = choose_attention(config, settings.attention, device)
    # Full fine-tuning keeps fp32 master weights under autocast; a frozen base needs none.
    weights = torch.float32 if settings.method == "full" else precision
    extra: dict[str, Any] = {}
    if settings.method == "qlora":
        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=settings.bits == 4,
            load_in_8bit=settings.bits == 8,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision,
            bnb_4bit_quant_storage=weights,
            llm_int8_skip_modules=[*HEADS, "bert.pooler"],  # names count from the start
        )
        extra["device_map"] = {"": device}
    extra |= {"dtype": weights, "attn_implementation": attention.implementation}
    classifier, loaded = told(
        base,
        lambda: AutoModelForSequenceClassification.from_pretrained(
            base, config=config, ignore_mismatched_sizes=True, output_loading_info=True, **extra
        ),
    )
    if not hasattr(classifier, "score") and config.model_type not in ENCODERS:
        families = "Gemma, Llama, Qwen2, Mistral, DeBERTa, BERT"
        raise UserError(f"{base}: no judge is made of {config.model_type}; {families} are")
    _assert_loaded(base, loaded, whole=folder is not None and not own_head)
    if settings.layers is not None and folder is None:
        keep_layers(classifier, settings.layers)
    attach_head(classifier, settings, features)
    if own_head and (folder is not None or (Path(base) / SETTINGS_FILE).is_file()):
        _load_head(classifier, Path(base), must=folder is not None)
    for head in heads_of(classifier).values():
        head.float()
    for module in classifier.modules():
        # In evaluation bitsandbytes repacks 4-bit weights for AVX512-BF16 processors: the products are
        # then only bf16-exact, differ from one processor to the next, and have no backward pass.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if len(tokenizer) > classifier.get_input_embeddings().num_embeddings:
        classifier.resize_token_embeddings(len(tokenizer))
    if config.model_type == "deberta-v2" and attention.packed:
        deberta.pack_attention(classifier)
    return classifier, attention


def _add_adapters(classifier: Any, settings: ModelSettings) -> nn.Module:
    from peft import LoraConfig, TaskType, get_peft_model

    lora = settings.lora
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # fractions are fine
        lora_dropout=lora.dropout,
        target_modules=_linear_layers(classifier) if lora.targets == "all-linear" else lora.targets,
        modules_to_save=list(heads_of(classifier)),
    )
    return get_peft_model(classifier, config)


def _load_head(classifier: Any, folder: Path, must: bool) -> None:
    """The stored weights of a head that transformers does not know; unless they `must` fit, a fresh head may stay."""
    from safetensors import safe_open

    wanted = {key: value for key, value in classifier.state_dict().items() if key.split(".")[0] in HEADS[:2]}
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in wanted.keys() & file.keys()}
    absent = sorted(name for name in wanted if name not in found or found[name].shape != wanted[name].shape)
    if absent and must:
        raise UserError(f"model {folder}: {len(absent)} weights of its head are absent, for example {absent[0]}")
    if not absent:
        classifier.load_state_dict(found, strict=False)


def _assert_loaded(base: str, loaded: dict[str, Any], whole: bool) -> None:
    """Refuse weights that are absent or of another shape; a base may lack a head, or have one for other classes."""
    fresh = {*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])}
    wrong = sorted(name for name in fresh if whole or set(HEADS).isdisjoint(name.split(".")))
    if wrong:
        raise UserError(f"model {base}: {len(wrong)} weights are absent or do not fit, for example {wrong[0]}")


def _assert_positions(config: Any, recipe: Recipe) -> None:
    """Refuse rows longer than a table of absolute positions; rotary and relative positions have no such end."""
    known = config.max_position_embeddings
    if config.model_type == "bert" and recipe.data.max_tokens > known:
        raise UserError(
            f"data.max_tokens is {recipe.data.max_tokens}, but {recipe.model.base} knows {known} positions: lower it"
        )


def _linear_layers(classifier: Any) -> str:
    """A pattern that matches every linear layer of the backbone, and of nothing else; its pooler is a head."""
    prefix = classifier.base_model_prefix
    backbone = getattr(classifier, prefix)
    names = {name.rpartition(".")[2] for name, module in backbone.named_modules() if isinstance(module, nn.Linear)}
    return rf"(.*\.)?{prefix}\.(?!pooler\.).*\.({'|'.join(sorted(names))})"


def _assert_whole(folder: Path) -> None:
    from safetensors import safe_open

    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            empty = [name for name in file.keys() if 0 in file.get_slice(name).get_shape()]  # noqa: SIM118
            if empty or not list(file.keys()):
                raise RuntimeError(f"{path.name}: saved without content ({', '.join(empty[:3]) or 'no tensors'})")


def told(base: str, load):
    """Run a loader; a model that is not there is the user's mistake."""
    try:
        return load()
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"model {base}: not loadable ({reason}); give a local folder or a hub name") from error
