"""What does not go together, as one table, told before any weight is loaded.

Each row was met by others: the last column is the thread to read. What the code avoids by construction (the head
is never quantised, pooling is by length, ...) needs no row.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tiebreak.config import Recipe
from tiebreak.errors import UserError

SHARDED = ("zero3", "fsdp")
NO_SDPA = ("gemma2", "deberta-v2")


@dataclass(frozen=True)
class Setting:
    """All that the rows look at; `engine` as in engines.choose, `device` cuda or cpu."""

    model_type: str
    method: str = "full"
    bits: int = 4
    attention: str = "auto"
    precision: str = "auto"
    lora_dropout: float = 0.0
    engine: str = "single"
    device: str = "cpu"
    optimizer: str = "adamw"

    @classmethod
    def of(cls, recipe: Recipe, model_type: str, device: str, engine: str = "single") -> "Setting":
        """What a recipe's model and precision come to under an engine (single: prediction)."""
        model = recipe.model
        fields = (model_type, model.method, model.bits, model.attention, recipe.train.precision, model.lora.dropout)
        return cls(*fields, engine, device, recipe.train.optimizer)

    @property
    def quantised(self) -> int | None:
        return self.bits if self.method == "qlora" else None


@dataclass(frozen=True)
class Row:
    """`refuse` ends the command, otherwise it is a warning; `why` says what happens and what to do instead."""

    condition: str
    holds: Callable[[Setting], bool]
    refuse: bool
    why: str
    thread: str


TABLE = (
    Row(
        "8-bit base under ZeRO-3",
        lambda s: s.quantised == 8 and s.engine == "zero3",
        True,
        "the loss is wrong by an order of magnitude: take model.bits=4, or ZeRO-2 or DDP",
        "bitsandbytes#1451",
    ),
    Row(
        "8-bit base under FSDP2",
        lambda s: s.quantised == 8 and s.engine == "fsdp",
        True,
        "int8 weights cannot be cut: take model.bits=4, or ZeRO-2 or DDP",
        "bitsandbytes#1709",
    ),
    Row(
        "4-bit base under ZeRO-3",
        lambda s: s.quantised == 4 and s.engine == "zero3",
        False,
        "every rank first loads the whole base, and weights travel for every micro-batch: ZeRO-2 is faster wherever "
        "the base fits on each GPU",
        "DeepSpeed#5637, peft#1844",
    ),
    Row(
        "adapters under FSDP2",
        lambda s: s.method != "full" and s.engine == "fsdp",
        False,
        "the frozen base travels for every micro-batch: DDP is faster wherever it fits on each GPU",
        "axolotl#1482, trl#1723",
    ),
    Row(
        "8-bit optimizer under FSDP2",
        lambda s: s.optimizer.endswith("8bit") and s.engine == "fsdp",
        True,
        "bitsandbytes cannot update cut tensors: take train.optimizer=adamw, or DDP",
        "measured",
    ),
    Row(
        "8-bit optimizer under ZeRO",
        lambda s: s.optimizer.endswith("8bit") and s.engine.startswith("zero"),
        True,
        "ZeRO cuts flat copies of many parameters, so 8-bit states have no parameter to be saved by: take "
        "train.optimizer=adamw (ZeRO cuts its states already), or DDP",
        "measured",
    ),
    Row(
        "fp16",
        lambda s: s.precision == "fp16",
        True,
        "Gemma-2 and DeBERTa-v3 overflow in fp16 (masked scores, large activations): take bf16, or fp32 on a GPU "
        "without it",
        "DeBERTa#77",
    ),
    Row(
        "SDPA for Gemma-2 or DeBERTa",
        lambda s: s.attention == "sdpa" and s.model_type in NO_SDPA,
        True,
        "it has no soft-capping and no relative positions, so the result is wrong: take model.attention=auto",
        "transformers#32390",
    ),
    Row(
        "flash-attn for DeBERTa",
        lambda s: s.attention == "flash" and s.model_type == "deberta-v2",
        True,
        "it has no disentangled attention: take model.attention=auto",
        "transformers#48176",
    ),
    Row(
        "bf16 on a CPU",
        lambda s: s.precision == "bf16" and s.device == "cpu",
        False,
        "without bf16 instructions it is more than ten times slower than fp32: take train.precision=fp32",
        "measured",
    ),
    Row(
        "LoRA dropout",
        lambda s: s.method != "full" and s.lora_dropout > 0,
        False,
        "it stores half as many activations again: model.lora.dropout=0 takes less memory",
        "measured",
    ),
)


def check_compatibility(setting: Setting) -> list[str]:
    """The warnings that apply.

    Raises:
        UserError: with every refusal that applies.
    """
    hits = [row for row in TABLE if row.holds(setting)]
    if refusals := [row for row in hits if row.refuse]:
        raise UserError("\n  ".join(["this does not go together:", *map(_told, refusals)]))
    return [f"warning: {_told(row)}" for row in hits]


def _told(row: Row) -> str:
    return f"{row.condition}: {row.why} ({row.thread})"
