"""Models in memory: base weights, heads, adapters and 4-bit, to train or to predict with.

Both callers, `build_model` and `load_model`, go the same way: `configure`, `load_classifier`, a head, `adapt`.
"""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from tiebreak.attention import deberta
from tiebreak.attention.backends import HALF_ALONE, Attention, choose_attention
from tiebreak.compatibility import check_positions, find_family
from tiebreak.config import ModelSettings, Recipe
from tiebreak.errors import UserError
from tiebreak.labels import CLASSES
from tiebreak.models.adapters import add_adapters, keep_input_types, load_adapters
from tiebreak.models.architectures import ARCHITECTURES
from tiebreak.models.bases import resolve_base
from tiebreak.models.check_base import check_base, check_model_type
from tiebreak.models.demo import FAMILIES as DEMO_BASES
from tiebreak.models.folder import MANIFEST_FILE, check_judge, load_or_refuse, refuse_other_base
from tiebreak.models.guard import check_adapter
from tiebreak.models.heads import HEADS, attach_head, head_name, heads_of, renew_head
from tiebreak.models.last_layer import return_pooled_tokens_only
from tiebreak.models.layers import freeze, keep_layers
from tiebreak.models.meta import empty_classifier, refuse_larger
from tiebreak.models.packing_proof import prove_packed
from tiebreak.models.preference import PreferenceModel
from tiebreak.models.recomputing import recompute_activations
from tiebreak.models.tokenizer import load_saved_tokenizer
from tiebreak.models.tokenizer import load_tokenizer as load_tokenizer
from tiebreak.pretrained.base_files import read_config
from tiebreak.process import import_bitsandbytes, quieten_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

CLS = {"eurobert": "bos"}
"""What a configuration calls pooling by the first token, where it is not `cls`."""
VOLTA = (7, 0)
"""Compute capability from which a GPU has matrix units for fp16."""
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "pooler_dropout")


def find_model_type(base: str) -> str:
    """The architecture's name in transformers, from the configuration alone; of published bases without a hub."""
    if base in ARCHITECTURES and not Path(base).exists():
        return str(ARCHITECTURES[base]["model_type"])
    where = resolve_base(base)
    if Path(where).is_dir():
        return str(read_config(Path(where)).get("model_type"))
    from transformers import AutoConfig

    quieten_transformers()
    return str(load_or_refuse(base, lambda: AutoConfig.from_pretrained(where, trust_remote_code=False)).model_type)


def choose_precision(wanted: str, device: torch.device, predicting: bool = False) -> torch.dtype:
    """The dtype of a recipe's `train.precision`.

    `auto` is bf16 where the GPU has it; else fp32, but in prediction fp16 on a GPU that has matrix units for it (T4,
    V100), where rows that fp16 cannot hold are computed again in fp32 (tiebreak.models.fp16).
    """
    if wanted != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
    if device.type != "cuda":
        return torch.float32
    if torch.cuda.is_bf16_supported(including_emulation=False):  # a T4 emulates bf16, slower than fp32
        return torch.bfloat16
    return torch.float16 if predicting and torch.cuda.get_device_capability(device) >= VOLTA else torch.float32


def build_model(
    recipe: Recipe,
    tokenizer: "PreTrainedTokenizerBase",
    device: torch.device,
    precision: torch.dtype,
    weights: Literal["device", "host", "none"] = "device",
) -> PreferenceModel:
    """The model to train: base weights, a fresh head where there is none, adapters if asked for.

    The random start of head and adapters depends on `train.seed` alone. On the device alone packed rows are proved.

    Args:
        recipe: of the training.
        tokenizer: of the base.
        device: that the model will run on.
        precision: of a frozen base.
        weights: where they are left (tiebreak.engines.hand_out).

    Raises:
        UserError: a base that cannot be loaded, or is too short or of another family for this recipe.
    """
    torch.manual_seed(recipe.train.seed)
    with torch.device("meta") if weights == "none" else nullcontext():
        network, attention = _load_base(recipe, tokenizer, device, precision, empty=weights == "none")
        check_positions(network.config.model_type, getattr(network.config, "max_position_embeddings", None), recipe)
        if recipe.model.method != "full":
            network = add_adapters(network, recipe.model)
    if recipe.train.gradient_checkpointing:
        recompute_activations(network, recipe.model)
    judge = _wrap(network, attention, recipe.model, precision)
    if weights == "device":
        prove_packed(judge.to(device), device)
    freeze(judge, recipe.model.freeze)
    return judge


def load_model(folder: Path, recipe: Recipe, device: torch.device, precision: torch.dtype) -> PreferenceModel:
    """A trained model from its folder, in evaluation mode.

    Args:
        folder: the model folder itself.
        recipe: that it was trained by; settings that do not change weights may differ.
        device: to load it to.
        precision: of the backbone.

    Raises:
        UserError: weights that are absent, damaged or of another shape.
    """
    settings = recipe.model
    check_judge(folder)
    tokenizer = load_saved_tokenizer(folder)
    if settings.method != "full":
        check_adapter(folder, recipe)
        base, attention = _load_base(recipe, tokenizer, device, precision)
        refuse_other_base(folder, settings.base)
        network = load_adapters(base, folder)
    else:
        quieten_transformers()
        config, attention, _ = configure(str(folder), settings, tokenizer, device, precision)
        whole = not has_own_head(recipe)
        network = load_classifier(str(folder), config, attention, settings, device, precision, whole=whole)
        attach_head(network, settings, recipe.data.features)
        if not whole:
            _load_head(network, folder, must_fit=True)
        adapt(network, tokenizer, attention)
    judge = _wrap(network, attention, settings, precision).to(device).eval()
    prove_packed(judge, device)
    return judge


def _load_base(
    recipe: Recipe,
    tokenizer: "PreTrainedTokenizerBase",
    device: torch.device,
    precision: torch.dtype,
    empty: bool = False,
) -> tuple[Any, Attention]:
    """The recipe's base with the recipe's head, fresh unless the base is itself a judge with such a head."""
    quieten_transformers()
    settings, base = recipe.model, resolve_base(recipe.model.base)
    if settings.method != "full":
        import_bitsandbytes()  # peft does
    if Path(base).is_dir():
        check_base(Path(base), recipe)
        check_judge(Path(base))
    config, attention, classes = configure(base, settings, tokenizer, device, precision)
    ours = classes == CLASSES or settings.base in DEMO_BASES  # whose random heads are of three classes without names
    if empty:
        classifier = empty_classifier(base, config, attention.implementation, base_dtype(settings, precision))
    else:
        classifier = load_classifier(
            base, config, attention, settings, device, precision, whole=False, other_classes=() if ours else classes
        )
    if settings.layers is not None:
        keep_layers(classifier, settings.layers)
    attach_head(classifier, settings, recipe.data.features)
    if has_own_head(recipe) and not empty and (Path(base) / MANIFEST_FILE).is_file():
        _load_head(classifier, Path(base), must_fit=False)
    adapt(classifier, tokenizer, attention)
    return classifier, attention


def base_dtype(settings: ModelSettings, precision: torch.dtype) -> torch.dtype:
    """A frozen base has the precision of the run, full fine-tuning fp32 master weights under autocast."""
    return torch.float32 if settings.method == "full" else precision


def has_own_head(recipe: Recipe) -> bool:
    """Whether the head is not transformers' own."""
    return recipe.model.head != "linear" or bool(recipe.data.features)


def configure(
    base: str,
    settings: ModelSettings,
    tokenizer: "PreTrainedTokenizerBase",
    device: torch.device,
    precision: torch.dtype,
) -> tuple["PreTrainedConfig", Attention, tuple[str, ...]]:
    """The configuration of a folder or hub name with our classes and the recipe's dropout, and its attention.

    Returns:
        Both, and the classes that the configuration had.

    Raises:
        UserError: no configuration, or of an architecture without a classifier.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config: PreTrainedConfig = load_or_refuse(base, lambda: AutoConfig.from_pretrained(base, trust_remote_code=False))
    check_model_type(config.model_type, base)
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise UserError(f"{base}: {config.model_type} has no sequence classifier in transformers: take another base")
    classes = tuple(map(str, (config.id2label or {}).values()))
    config.num_labels = len(CLASSES)
    config.id2label = dict(enumerate(CLASSES))
    config.label2id = {name: index for index, name in enumerate(CLASSES)}
    config.pad_token_id = tokenizer.pad_token_id
    if hasattr(config, "classifier_pooling"):
        config.classifier_pooling = {"mean": "mean"}.get(settings.pooling, CLS.get(config.model_type, "cls"))
    if settings.dropout is not None:
        for name in DROPOUTS:
            if hasattr(config, name):
                setattr(config, name, settings.dropout)
    return config, choose_attention(config, settings.attention, device, precision), classes


def quantization(
    settings: ModelSettings, device: torch.device, precision: torch.dtype, model_type: str
) -> dict[str, Any]:
    """Keyword arguments that load a base in 4 or 8 bits under `qlora`, and its heads as they are; else none."""
    if settings.method != "qlora":
        return {}
    from transformers import BitsAndBytesConfig

    make_config: Any = BitsAndBytesConfig
    config = make_config(
        load_in_4bit=settings.bits == 4,
        load_in_8bit=settings.bits == 8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision,
        bnb_4bit_quant_storage=precision,
        # Names count from the start.
        llm_int8_skip_modules=[*HEADS, "bert.pooler", *filter(None, [find_family(model_type).before_head])],
    )
    return {"quantization_config": config, "device_map": {"": device}}


def load_classifier(
    base: str,
    config: "PreTrainedConfig",
    attention: Attention,
    settings: ModelSettings,
    device: torch.device,
    precision: torch.dtype,
    whole: bool,
    other_classes: tuple[str, ...] = (),
) -> Any:
    """transformers' classifier with the weights of a folder or hub name.

    Args:
        base: the folder or hub name.
        config: from `configure`.
        attention: from `configure`.
        settings: the recipe's model.
        device: for a quantised base, which is loaded there.
        precision: of a frozen base.
        whole: the head must be there too; else a base may lack one, or have one for other classes.
        other_classes: of the stored head, if they are not ours: then the head is fresh, and a line says so.

    Raises:
        UserError: weights that are absent or of another shape.
    """
    from transformers import AutoModelForSequenceClassification

    if Path(base).is_dir():
        refuse_larger(base, config)
    classifier, loaded = load_or_refuse(
        base,
        lambda: AutoModelForSequenceClassification.from_pretrained(
            base,
            config=config,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,
            dtype=base_dtype(settings, precision),
            attn_implementation=attention.implementation,
            **quantization(settings, device, precision, config.model_type),
        ),
    )
    fresh = {*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])}
    head = f"{head_name(classifier)}.weight"
    if other_classes and head not in loaded["missing_keys"]:
        if head not in fresh:
            renew_head(classifier)
        theirs, ours = ", ".join(other_classes[:5]), ", ".join(CLASSES)
        log.info(f"{base}: its head is for {theirs}: replaced by a fresh one for {ours}")
    inside = f"{classifier.base_model_prefix}."
    wrong = sorted(name for name in fresh if whole or (name.startswith(inside) and "pooler" not in name.split(".")))
    if wrong:
        told = f"{len(wrong)} weights are absent or do not fit, such as {wrong[0]}"
        raise UserError(f"model {base}: {told}: fetch it again")
    return classifier


def adapt(classifier: Any, tokenizer: "PreTrainedTokenizerBase", attention: Attention) -> None:
    """Make a classifier with its head ready: fp32 heads, exact 4-bit products, new tokens, packed attention."""
    for head in heads_of(classifier).values():
        head.float()
    for module in classifier.modules():
        # In evaluation bitsandbytes repacks 4-bit weights for AVX512-BF16 processors: the products are then only
        # bf16-exact, differ from one processor to the next, and have no backward pass.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if len(tokenizer) > classifier.get_input_embeddings().num_embeddings:
        without = classifier.get_input_embeddings().weight.is_meta
        classifier.resize_token_embeddings(len(tokenizer), mean_resizing=not without)
    if attention.backend == "packed-deberta":
        deberta.pack_attention(classifier)


def _wrap(network: Any, attention: Attention, settings: ModelSettings, precision: torch.dtype) -> PreferenceModel:
    dropout = settings.head_dropout if settings.head == "linear" else 0.0  # other heads have their own
    autocast = None if precision == torch.float32 else precision
    if settings.method != "full":
        keep_input_types(network)
    judge = PreferenceModel(network, attention, autocast, settings.pooling, dropout)
    if attention.packed and judge.pooling != "mean" and (judge.is_decoder or attention.backend not in HALF_ALONE):
        judge.early = return_pooled_tokens_only(judge.layers, judge.is_decoder)
    return judge


def _load_head(classifier: Any, folder: Path, must_fit: bool) -> None:
    """Load the stored weights of a head that transformers does not know; unless they must fit, it may stay fresh."""
    from safetensors import safe_open

    wanted = {key: value for key, value in classifier.state_dict().items() if key.split(".")[0] in HEADS[:2]}
    stored: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            stored |= {name: file.get_tensor(name) for name in wanted.keys() & file.keys()}
    absent = sorted(name for name in wanted if name not in stored or stored[name].shape != wanted[name].shape)
    if absent and must_fit:
        raise UserError(
            f"model {folder}: {len(absent)} weights of its head are absent ({absent[0]}, ...): copy it again"
        )
    if not absent:
        classifier.load_state_dict(stored, strict=False)
