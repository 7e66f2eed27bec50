"""The families of models, and which settings do not work together: two tables, read before any weight is loaded.

Each rule reproduces a reported problem; `thread` is its issue number. What the code avoids by construction (the head
is never quantised, pooling is by length, ...) needs no rule.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tiebreak.config import Recipe
from tiebreak.errors import UserError

Backend = Literal["flash", "flex", "packed-sdpa", "packed-deberta", "eager", "sdpa"]
"""How attention is computed. The first four take packed batches, `eager` and `sdpa` padded ones."""
OLDEST_FLASH = "2.6.3"
"""The first flash-attn with soft-capping."""


@dataclass(frozen=True)
class Family:
    """What transformers' sequence classifiers of one model type have in common.

    Attributes:
        decoder: causal, with a head called `score`, judged by the last token; encoders are judged by the first.
        packed: the backend that takes packed batches without flash-attn, where one is known to be exact.
        layers: where the backbone keeps its layers.
        sdpa, flash: whether torch's and flash-attn's attention compute what the model means.
        absolute: whether positions are a table of limited length.
        first_position: of a text's first token, counted from the padding token's id; None counts from 0.
        head: the linear layer that gives the logits.
        before_head: a layer between pooling and that, beside the families' common ones.
    """

    decoder: bool
    packed: Backend | None = "packed-sdpa"
    layers: str = "layers"
    sdpa: bool = True
    flash: bool = True
    absolute: bool = False
    first_position: int | None = None
    head: str = "score"
    before_head: str | None = None


def is_new_flash(version: str) -> bool:
    """Whether a version of flash-attn, such as 2.8.3.post2, is `OLDEST_FLASH` or newer."""
    from packaging.version import Version

    return Version(version) >= Version(OLDEST_FLASH)


ROBERTA = Family(
    decoder=False, layers="encoder.layer", absolute=True, first_position=1, head="classifier.out_proj", flash=False
)
FAMILIES = {
    "gemma2": Family(decoder=True, sdpa=False),
    **dict.fromkeys(
        "gemma gemma3_text llama mistral ministral mixtral qwen2 qwen3 phi3 olmo2 olmo3 smollm3".split(),
        Family(decoder=True),
    ),
    "gpt_oss": Family(decoder=True, sdpa=False, flash=False),
    "bert": Family(decoder=False, layers="encoder.layer", absolute=True, head="classifier"),
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "modernbert": Family(decoder=False, head="classifier", before_head="head", flash=False),
    "eurobert": Family(decoder=False, head="classifier", before_head="dense", flash=False),
    "deberta-v2": Family(
        decoder=False, packed="packed-deberta", layers="encoder.layer", sdpa=False, flash=False, head="classifier"
    ),
}
"""By transformers' model type."""
UNTESTED = (
    *("diffllama", "exaone4", "glm", "glm4", "helium", "hunyuan_v1_dense", "nemotron", "phi", "qwen2_moe", "seed_oss"),
    *("stablelm", "starcoder2"),
)
"""Model types that transformers builds like those above and that ran when they were tried: no test covers them."""
OTHER_DECODER = Family(decoder=True)
"""Any other model with a `score` head: packed if that is proved (models/packing_proof.py)."""


def find_family(model_type: str) -> Family:
    """The family of a model type; a plain decoder for one that is not in the table."""
    return FAMILIES.get(model_type, OTHER_DECODER)


@dataclass(frozen=True)
class Setting:
    """All that the rules look at; `engine` as in engines.choose, `device` cuda or cpu."""

    model_type: str
    method: str = "full"
    bits: int = 4
    attention: str = "auto"
    precision: str = "auto"
    lora_dropout: float = 0.0
    engine: str = "single"
    device: str = "cpu"
    optimizer: str = "adamw"
    predicting: bool = False
    freeze: str | int = "none"
    frozen_cache: bool = False
    augmented: bool = False

    @classmethod
    def of(
        cls, recipe: Recipe, model_type: str, device: str, engine: str = "single", predicting: bool = False
    ) -> "Setting":
        """The setting of a recipe on a device under an engine; prediction is `single`."""
        model = recipe.model
        fields = (model_type, model.method, model.bits, model.attention, recipe.train.precision, model.lora.dropout)
        cached = model.freeze, recipe.train.frozen_cache_gb > 0
        augmented = bool(recipe.data.drop_turns or recipe.data.jitter or recipe.data.paraphrases)
        return cls(*fields, engine, device, recipe.train.optimizer, predicting, *cached, augmented)

    @property
    def quantised(self) -> int | None:
        """Bits of the quantised base; None if it is not quantised."""
        return self.bits if self.method == "qlora" else None


@dataclass(frozen=True)
class Rule:
    """`refuse` ends the command, otherwise it is a warning; `why` says what happens and what to do instead."""

    condition: str
    holds: Callable[[Setting], bool]
    refuse: bool
    why: str
    thread: str


TABLE = (
    Rule(
        "8-bit base under ZeRO-3",
        lambda s: s.quantised == 8 and s.engine == "zero3",
        True,
        "the loss is wrong by an order of magnitude: take model.bits=4, or ZeRO-2 or DDP",
        "bitsandbytes#1451",
    ),
    Rule(
        "8-bit base under FSDP2",
        lambda s: s.quantised == 8 and s.engine == "fsdp",
        True,
        "int8 weights cannot be cut: take model.bits=4, or ZeRO-2 or DDP",
        "bitsandbytes#1709",
    ),
    Rule(
        "8-bit base on a GPU",
        lambda s: s.quantised == 8 and s.device == "cuda",
        False,
        "every linear layer waits for the GPU, and columns of outliers are looked for in the whole batch, so a row's "
        "logits depend on the rows beside it: model.method=lora (bf16) or model.bits=4 does neither",
        "bitsandbytes#28, bitsandbytes#1401",
    ),
    Rule(
        "4-bit base under ZeRO-3",
        lambda s: s.quantised == 4 and s.engine == "zero3",
        False,
        "every rank first loads the whole base, and weights travel for every micro-batch: ZeRO-2 is faster wherever "
        "the base fits on each GPU",
        "DeepSpeed#5637, peft#1844",
    ),
    Rule(
        "adapters under FSDP2",
        lambda s: s.method != "full" and s.engine == "fsdp",
        False,
        "the frozen base travels for every micro-batch: DDP is faster wherever it fits on each GPU",
        "axolotl#1482, trl#1723",
    ),
    Rule(
        "8-bit optimizer under FSDP2",
        lambda s: s.optimizer.endswith("8bit") and s.engine == "fsdp",
        True,
        "bitsandbytes cannot update cut tensors: take train.optimizer=adamw, or DDP",
        "measured",
    ),
    Rule(
        "8-bit optimizer under ZeRO",
        lambda s: s.optimizer.endswith("8bit") and s.engine.startswith("zero"),
        True,
        "ZeRO cuts flat copies of many parameters, so 8-bit states have no parameter to be saved by: take "
        "train.optimizer=adamw (ZeRO cuts its states already), or DDP",
        "measured",
    ),
    Rule(
        "fp16 in training",
        lambda s: s.precision == "fp16" and not s.predicting,
        True,
        "Gemma-2 and DeBERTa-v3 overflow in fp16 (masked scores, large activations): take bf16, or fp32 on a GPU "
        "without it; predictions may be in fp16",
        "DeBERTa#77",
    ),
    Rule(
        "SDPA for Gemma-2 or DeBERTa",
        lambda s: s.attention == "sdpa" and not find_family(s.model_type).sdpa,
        True,
        "it has no soft-capping and no relative positions, so the result is wrong: take model.attention=auto",
        "transformers#32390",
    ),
    Rule(
        "flash-attn for DeBERTa",
        lambda s: s.attention == "flash" and not find_family(s.model_type).flash,
        True,
        "it has no disentangled attention: take model.attention=auto",
        "transformers#48176",
    ),
    Rule(
        "bf16 on a CPU",
        lambda s: s.precision == "bf16" and s.device == "cpu",
        False,
        "without bf16 instructions it is more than ten times slower than fp32: take train.precision=fp32",
        "measured",
    ),
    Rule(
        "frozen cache without frozen layers",
        lambda s: s.frozen_cache and s.freeze in ("none", "embeddings"),
        True,
        "nothing but a table of embeddings gives the same in every epoch (adapters change every layer): set "
        "model.freeze to a number of layers or to backbone, or train.frozen_cache_gb=0",
        "by construction",
    ),
    Rule(
        "frozen cache with changing rows",
        lambda s: s.frozen_cache and s.augmented,
        True,
        "data.drop_turns, data.jitter and data.paraphrases make other rows in each epoch, whose states are not kept: "
        "set train.frozen_cache_gb=0, or leave the augmentation to data.swap",
        "by construction",
    ),
    Rule(
        "frozen cache under ZeRO-3 or FSDP2",
        lambda s: s.frozen_cache and s.engine in ("zero3", "fsdp"),
        True,
        "frozen layers would be gathered for nothing, at every micro-batch: take DDP or ZeRO-2, or "
        "train.frozen_cache_gb=0",
        "by construction",
    ),
    Rule(
        "LoRA dropout",
        lambda s: s.method != "full" and s.lora_dropout > 0,
        False,
        "it stores half as many activations again: model.lora.dropout=0 takes less memory",
        "measured",
    ),
)


def check_compatibility(setting: Setting) -> list[str]:
    """Sentences of the warnings that apply.

    Raises:
        UserError: with every refusal that applies.
    """
    broken = [rule for rule in TABLE if rule.holds(setting)]
    if refusals := [rule for rule in broken if rule.refuse]:
        raise UserError("\n  ".join(["these settings do not work together:", *map(_sentence, refusals)]))
    return [f"warning: {_sentence(rule)}" for rule in broken]


def check_positions(model_type: str, positions: int | None, recipe: Recipe) -> list[str]:
    """Refuse rows longer than a table of absolute positions; rotary and relative positions have no such end.

    Returns:
        A warning if a decoder's rows may be longer than those it was trained on.

    Args:
        model_type: in transformers' words.
        positions: length of the table, from the configuration; None where it is not known.
        recipe: whose `data.max_tokens` is looked at.

    Raises:
        UserError: rows may be longer.
    """
    if find_family(model_type).absolute and positions is not None and recipe.data.max_tokens > positions:
        raise UserError(
            f"data.max_tokens is {recipe.data.max_tokens}, but {recipe.model.base} has {positions} positions: lower it"
        )
    if find_family(model_type).decoder and positions is not None and recipe.data.max_tokens > positions:
        return [
            f"warning: data.max_tokens is {recipe.data.max_tokens}, but {recipe.model.base} was made for {positions} "
            "positions: what a judge sees beyond them is new to it"
        ]
    return []


def _sentence(rule: Rule) -> str:
    return f"{rule.condition}: {rule.why} ({rule.thread})"
