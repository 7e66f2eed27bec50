"""The recipe: one typed, documented description of a run, read from YAML.

`--recipe` names a shipped recipe or a YAML file; `--set key.path=value` changes single fields.
All problems of a recipe are told at once.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tiebreak.errors import UserError

RECIPES = Path(__file__).parent / "recipes"

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
NotNegativeInt = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Kind = TypeVar("Kind", bound=BaseModel)


class Section(BaseModel):
    """A part of the recipe; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_default=True)


class LoraSettings(Section):
    r: Positive = 16
    """Rank of the update matrices."""
    alpha: float = 32.0
    """The update is scaled by alpha / r."""
    dropout: Share = 0.0
    """Dropout before the first update matrix; 0 saves a third of the activations (docs/decisions.md)."""
    targets: str | list[str] = "all-linear"
    """Names of the linear layers that get an adapter, or `all-linear`; the head is always trained whole."""


class ModelSettings(Section):
    base: str
    """A built-in demo model (`demo-gemma2`, ...), a local folder, or a hub name."""
    template: Literal["gemma2", "llama2", "llama3", "qwen2", "deberta", "siamese", "plain"] = "plain"
    """How a pair becomes text. `siamese` makes two of it: the prompt with each answer."""
    head: Literal["linear", "mlp", "siamese"] = "linear"
    """What turns a text's vector into logits: one layer, two with a GELU, or a comparison of the two sides."""
    head_dropout: Share = 0.0
    """Dropout before each layer of the head."""
    head_hidden: Positive | None = None
    """Width of the hidden layer of `mlp` and `siamese`; none means the backbone's."""
    pooling: Literal["auto", "last", "cls", "mean"] = "auto"
    """A text's vector: its last token, its first, or the mean; `auto` is a decoder's last, an encoder's first."""
    layers: list[NotNegativeInt] | None = None
    """Layers of the base to start from, counted from 0, in this order; none means all. Needs `full`."""
    freeze: Literal["none", "embeddings", "backbone"] | Positive = "none"
    """What keeps its weights: nothing, the embeddings, those and so many of the lowest layers, or all but the head."""
    method: Literal["full", "lora", "qlora"] = "full"
    """Train all weights, adapters, or adapters on a quantised base (`bits`)."""
    bits: Literal[4, 8] = 4
    """Of the base under `qlora`: 4 is NF4, 8 is LLM.int8."""
    lora: LoraSettings = LoraSettings()
    """Used by `lora` and `qlora`."""
    attention: Literal["auto", "flash", "rows", "eager", "sdpa"] = "auto"
    """Attention backend. `flash` and `rows` run packed batches, `eager` and `sdpa` padded ones;
    `auto` takes flash-attn on a GPU that has it, else `rows` where the backbone can, else padded."""
    dropout: Share | None = None
    """Dropout of every layer of the backbone that has one; none keeps the model's own."""

    @model_validator(mode="after")
    def _layers_can_be_kept(self) -> "ModelSettings":
        if self.layers is not None and (not self.layers or len(set(self.layers)) < len(self.layers)):
            raise ValueError(f"layers is {self.layers}: name at least one layer, and each once")
        if self.layers is not None and self.method != "full":
            raise ValueError(f"layers needs method=full (it is {self.method}): adapters belong to the whole base")
        return self


class DataSettings(Section):
    max_tokens: Annotated[int, Field(ge=16)] = 1024
    """Most tokens of a row, template included."""
    truncation: Literal["spread", "tail-trim", "right"] = "spread"
    """What goes when a row is too long (tiebreak.data.truncation)."""
    prompt_cap: Positive = 256
    """Most tokens of the prompt under `tail-trim`."""
    swap: Literal["never", "random", "both"] = "random"
    """A/B-swap augmentation: none, a coin per row and epoch, or every row in both orders."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the rows to train on, drawn by `folds_seed`; what is held out stays whole."""
    features: list[Literal["length", "style", "readability", "turns"]] = []
    """Numbers of whole rows that the head sees beside the text, however it was cut (tiebreak.data.features)."""
    drop_turns: Share = 0.0
    """Augmentation: how often a row of several turns is seen without some of the earlier ones."""
    jitter: Share = 0.0
    """Augmentation: of both answers a like share is kept, drawn from 1 - jitter to 1, and cut as `truncation` does."""
    paraphrases: list[str] = []
    """Augmentation: tables whose rows are training rows, by id, in other words; their labels are not looked at."""
    paraphrased: Share = 0.5
    """How often a row that has paraphrases is seen as one of them."""
    sample_rows: Positive = 12_000
    """Rows of the embedded sample when there is no --data; a tenth is held out when there is no --valid."""
    sample_profile: Literal["short", "arena"] = "short"
    """Lengths of the embedded sample's answers."""
    folds_seed: int = 0
    """Seed of the assignment of prompts to folds."""

    @field_validator("features")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("name each group of features once")
        return value


class TrainSettings(Section):
    seed: int = 0
    """Seed of the head's start, the order of rows, the swap and dropout."""
    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the rows; fractions are allowed."""
    max_steps: Positive | None = None
    """At most this many optimizer steps, if `epochs` does not end before; the schedule ends there too."""
    batch_size: Positive = 64
    """Rows of one optimizer step, over all ranks."""
    tokens_per_micro_batch: Positive = 8_192
    """Most tokens one rank runs at a time. Changes speed and memory, never the result."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate."""
    optimizer: Literal["adamw", "adamw-fused", "adamw-8bit", "paged-adamw-8bit"] = "adamw"
    """AdamW: torch's, its fused kernel, or bitsandbytes' with 8-bit states, which may be paged to the host."""
    head_lr: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of the classification head; none means `lr`."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer's rate is this times that of the layer above; the embeddings come last, the head is left out."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the two moments."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's eps. At 1e-8 rounding alone moves weights whose true gradient is zero, as DeBERTa's key biases;
    its own recipes take 1e-6. The gradients of a large model's adapters are too small for that."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """On matrices only, never on norms and biases."""
    warmup: Share = 0.1
    """Share of the steps in which the learning rate climbs linearly from zero."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to zero after the warm-up, or that it does not."""
    label_smoothing: Share = 0.0
    """Share of the target that is spread evenly over the three classes."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this global norm; none leaves them."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast dtype of the backbone: `auto` is bf16 on a GPU that has it, else fp32. The loss is fp32.
    fp16 is refused with its reason (tiebreak.compatibility)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third slower, far less memory."""
    eval_every: Positive | None = None
    """Steps between evaluations; none evaluates four times an epoch."""
    early_stopping: Positive | None = None
    """Stop after this many evaluations in a row without a better log loss."""
    save_every: Positive | None = None
    """Steps between checkpoints; none saves at evaluations only."""
    keep: Positive = 2
    """Newest checkpoints kept, beside the best."""
    timeout_s: Positive = 600
    """Seconds a rank may stand still before the job ends with its name: longer than any micro-batch or save."""


class DistillSettings(Section):
    """Used by `distill`. A row's loss, v_t being the weight of teacher t:
    (ce CE + sum_t v_t (kl T^2 KL_t + cosine (1 - cos_t))) / (ce + sum_t v_t (kl + cosine))."""

    ce: NotNegative = 1.0
    """Weight of the cross-entropy on the label; rows without a label have none."""
    kl: NotNegative = 1.0
    """Weight of the divergence from the teacher's probabilities."""
    cosine: NotNegative = 1.0
    """Weight of one less the cosine of the student's three logits and the teacher's."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """T: both softmaxes of the divergence are taken of logits / T."""
    soft_loss: Literal["kl", "cross-entropy"] = "kl"
    """How the divergence is counted: without or with the teacher's own entropy. The gradient is the same."""
    teacher_weights: Literal["equal", "log-loss"] | list[NotNegative] = "equal"
    """Each teacher's weight v_t, in the order of --teachers. `log-loss` takes how much better than the class prior
    each is on the training rows, scaled to a mean of one."""
    calibrate: bool = False
    """First divide each teacher's logits by the temperature of least log loss on the training rows."""
    symmetrise: bool = False
    """First average each teacher's probabilities over both answer orders (predict --swap)."""
    soft_only: Share = 0.0
    """Share of the steps, from the first, in which the labels are left out and only the teachers teach."""

    @model_validator(mode="after")
    def _teachers_count(self) -> "DistillSettings":
        if self.kl + self.cosine == 0:
            raise ValueError("kl and cosine are both 0, so the teachers would teach nothing: raise one of them")
        if isinstance(self.teacher_weights, list) and not any(self.teacher_weights):
            raise ValueError("teacher_weights are all 0, so the teachers would teach nothing: raise one of them")
        return self


class FsdpSettings(Section):
    """Used by `--engine fsdp`; changes memory and speed, never the result."""

    cpu_offload: bool = False
    """Keep weights, gradients and optimizer states in the host's memory."""
    reshard_after_forward: bool = True
    """Drop a layer's gathered weights after its forward pass: less memory, one more gathering."""


class PredictSettings(Section):
    tokens_per_block: Positive = 16_384
    """Most tokens of one block of rows. Fixed by the recipe, so the rows do not depend on the ranks."""
    lease_s: Annotated[float, Field(gt=0)] = 180.0
    """Seconds without a sign of life after which another process takes over what a process was computing."""


class LogSettings(Section):
    wandb: Literal["off", "online", "offline"] = "off"
    """Weights & Biases, on rank 0."""
    project: str = "tiebreak"
    """Its project."""

    @field_validator("wandb", mode="before")
    @classmethod
    def _yaml_off(cls, value: object) -> object:
        return "off" if value is False else value  # YAML reads a bare `off` as false


class Recipe(Section):
    name: str = "custom"
    """Taken from the file's name."""
    model: ModelSettings
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
    distill: DistillSettings = DistillSettings()
    fsdp: FsdpSettings = FsdpSettings()
    predict: PredictSettings = PredictSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _frozen_once(self) -> "Recipe":
        if self.model.freeze != "none" and self.model.method != "full":
            raise ValueError(f"model.freeze is {self.model.freeze!r}, but under {self.model.method} the base is frozen")
        return self

    @model_validator(mode="after")
    def _sides_agree(self) -> "Recipe":
        if (self.model.head == "siamese") != (self.model.template == "siamese"):
            raise ValueError(
                f"model.head is {self.model.head} and model.template is {self.model.template}: a siamese head "
                "compares the two texts of the siamese template, so set both or neither"
            )
        return self

    @model_validator(mode="after")
    def _rows_fit(self) -> "Recipe":
        if self.train.tokens_per_micro_batch < self.data.max_tokens:
            raise ValueError(
                f"train.tokens_per_micro_batch is {self.train.tokens_per_micro_batch}, below data.max_tokens "
                f"{self.data.max_tokens}: the longest row would not fit; raise the first or lower the second"
            )
        return self


def load_recipe(name_or_path: str, changes: Sequence[str] = ()) -> Recipe:
    """A shipped recipe by name or a YAML file by path, with `key.path=value` changes.

    Raises:
        UserError: naming every unknown field and every value out of range.
    """
    path = find_recipe(name_or_path, RECIPES, "recipe")
    content = read_recipe_file(path, Recipe)
    content.setdefault("name", path.stem)
    return make_recipe(content, changes)


def find_recipe(name_or_path: str, folder: Path, what: str) -> Path:
    """The YAML file of a name that ships in a folder, or of a path.

    Raises:
        UserError: no such name, with those that there are.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return path
    path = folder / f"{name_or_path}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise UserError(f"no {what} {name_or_path!r}; shipped are {names}, or give a .yaml file")
    return path


def read_recipe_file(path: Path, kind: type[BaseModel]) -> dict[str, Any]:
    """The fields in a YAML file.

    Raises:
        UserError: no such file, or not a mapping.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such recipe file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: a recipe is a mapping with the sections {', '.join(kind.model_fields)}")
    return content


def make_recipe(content: dict[str, Any], changes: Sequence[str] = ()) -> Recipe:
    """A recipe from its fields, with `key.path=value` changes.

    Raises:
        UserError: naming every unknown field and every value out of range.
    """
    for change in changes:
        _apply(content, change)
    return validate(Recipe, content, content.get("name", "recipe"))


def validate(kind: type[Kind], content: dict[str, Any], name: str) -> Kind:
    """The fields as their type, or all their problems at once.

    Raises:
        UserError: naming every unknown field and every value out of range.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'recipe'}: {_plain(e)}" for e in error.errors()]
        raise UserError(f"{name}: {len(lines)} problem(s) in the recipe:\n" + "\n".join(lines)) from None


def shipped() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def cache_folder() -> Path:
    """Where prepared tokens and demo models are kept: $TIEBREAK_CACHE, else ~/.cache/tiebreak."""
    return Path(os.environ.get("TIEBREAK_CACHE") or Path.home() / ".cache" / "tiebreak")


def _apply(content: dict[str, Any], change: str) -> None:
    key, equals, value = change.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {change}: write it as key.path=value, for example train.lr=1e-4")
    *parents, last = key.strip().split(".")
    section = content
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise UserError(f"--set {change}: {parent} is a value, not a section")
    try:
        section[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"--set {change}: the value is not readable") from None


def _plain(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "no such field"
    if error["type"] == "missing":
        return "missing"
    given = "" if isinstance(error["input"], dict) else f" (it is {error['input']!r})"
    return error["msg"].removeprefix("Value error, ") + given
