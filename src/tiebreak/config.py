"""The recipe: one typed, documented description of a run, read from YAML.

`--recipe` names a shipped recipe or a YAML file; `--set key.path=value` changes single fields. All problems of a recipe
are reported at once, and a recipe is frozen once it is validated.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tiebreak import bounds
from tiebreak.bounds import NotNegativeInt, Positive, Seed, Share, fault_of_name
from tiebreak.errors import UserError
from tiebreak.recipe_files import RECIPES, apply_change, find_recipe, read_recipe_file, validate
from tiebreak.storage import cache_folder as cache_folder


class Section(BaseModel):
    """A part of the recipe; unknown fields are errors, and a validated one does not change."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, validate_default=True, frozen=True, allow_inf_nan=False
    )


class LoraSettings(Section):
    """Low-rank adapters, where `model.method` is `lora` or `qlora`."""

    r: bounds.Rank = 16
    """Rank of the update matrices."""
    alpha: bounds.Alpha = 32.0
    """The update is scaled by alpha / r."""
    dropout: Share = 0.0
    """Dropout before the first update matrix; 0 saves a third of the activations (docs/decisions.md)."""
    targets: str | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """Names of the linear layers that get an adapter, or `all-linear`; the head is always trained whole."""

    @field_validator("targets")
    @classmethod
    def _is_a_pattern(cls, value: str | list[str]) -> str | list[str]:
        try:
            re.compile(value if isinstance(value, str) else "")
        except re.error as error:
            raise ValueError(f"is no regular expression ({error}): name layers, or all-linear") from None
        return value


class ModelSettings(Section):
    """The base, its head, and how they are trained."""

    base: bounds.Place
    """A built-in demo model (`demo-gemma2`, ...), a local folder, or a hub name."""
    template: Literal["gemma2", "llama2", "llama3", "qwen2", "deberta", "siamese", "plain"] = "plain"
    """How a pair becomes text. `siamese` makes two of it: the prompt with each answer."""
    head: Literal["linear", "mlp", "siamese"] = "linear"
    """Classification head: one linear layer, an MLP with a GELU, or a comparison of the two sides."""
    head_dropout: Share = 0.0
    """Dropout before each layer of the head."""
    head_hidden: bounds.Width | None = None
    """Hidden width of the `mlp` and `siamese` heads; none means the backbone's width."""
    pooling: Literal["auto", "last", "cls", "mean"] = "auto"
    """Pooling of the hidden states: last token, first token (`cls`) or mean; `auto` is `last` for decoders, `cls` for
    encoders."""
    layers: list[NotNegativeInt] | None = None
    """Layers of the base to keep, counted from 0, in this order; none means all. Needs method `full`."""
    freeze: Literal["none", "embeddings", "backbone"] | Positive = "none"
    """Frozen parameters: `none`; `embeddings`; an integer n for the embeddings and the n lowest layers; `backbone`."""
    method: Literal["full", "lora", "qlora"] = "full"
    """Train all weights, adapters, or adapters on a quantised base (`bits`)."""
    bits: Literal[4, 8] = 4
    """Bits of the base under `qlora`: 4 is NF4; 8 is LLM.int8, under which a row's logits depend on its neighbours."""
    lora: LoraSettings = LoraSettings()
    """Used by `lora` and `qlora`."""
    attention: Literal["auto", "flash", "flex", "packed-sdpa", "rows", "eager", "sdpa"] = "auto"
    """Attention backend. `flash`, `flex` and `packed-sdpa` (or `rows`, its former name) run packed batches, `eager` and
    `sdpa` padded ones; `auto` takes the first of flash, flex (both on GPUs), packed-sdpa and eager that can run."""
    dropout: Share | None = None
    """Dropout of the backbone's layers; none keeps the model's own."""

    @model_validator(mode="after")
    def _layers_can_be_kept(self) -> "ModelSettings":
        if self.layers is not None and (not self.layers or len(set(self.layers)) < len(self.layers)):
            raise ValueError(f"layers is {self.layers[:9]}: name at least one layer, and each once")
        if self.layers is not None and self.method != "full":
            raise ValueError(f"layers needs method=full (it is {self.method}): adapters belong to the whole base")
        return self


class DataSettings(Section):
    """How rows become tokens, and how they are augmented."""

    max_tokens: bounds.RowTokens = 1024
    """Maximum tokens of a row, template included."""
    truncation: Literal["spread", "tail-trim", "right"] = "spread"
    """Truncation policy of rows that are too long (tiebreak.data.truncation)."""
    prompt_cap: bounds.Tokens = 256
    """Maximum tokens of the prompt under `tail-trim`."""
    swap: Literal["never", "random", "both"] = "random"
    """A/B-swap augmentation: never, at random per row and epoch, or every row in both orders."""
    share: bounds.PartOfRows = 1.0
    """Share of the training rows to use, drawn by `folds_seed`; held-out rows are all kept."""
    features: list[Literal["length", "style", "readability", "turns"]] = []
    """Numeric features of the untruncated row, fed to the head beside the text (tiebreak.data.features)."""
    drop_turns: Share = 0.0
    """Augmentation: probability that a random subset of the earlier turns of a multi-turn row is dropped."""
    jitter: Share = 0.0
    """Augmentation: truncate both answers to one random fraction, uniform in [1 - jitter, 1], as `truncation` does."""
    paraphrases: list[str] = []
    """Augmentation: tables of paraphrased training rows, joined by id; their labels are not used."""
    paraphrased: Share = 0.5
    """Probability that a row with paraphrases is replaced by one of them."""
    sample_rows: bounds.SampleRows = 12_000
    """Rows of the embedded sample when there is no --data; a tenth is held out when there is no --valid."""
    sample_profile: Literal["short", "arena"] = "short"
    """Lengths of the embedded sample's answers."""
    folds_seed: Seed = 0
    """Seed of the assignment of prompts to folds."""

    @field_validator("features")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("name each group of features once")
        return value


class TrainSettings(Section):
    """Optimizer, schedule and layout of a run."""

    seed: Seed = 0
    """Seed of the head's initialisation, the order of rows, the swap and dropout."""
    epochs: bounds.Epochs = 1.0
    """Passes over the rows; fractions are allowed."""
    max_steps: bounds.Steps | None = None
    """Maximum optimizer steps, if `epochs` does not end earlier; the schedule ends there too."""
    batch_size: bounds.BatchRows = 64
    """Rows of one optimizer step, summed over all ranks."""
    tokens_per_micro_batch: bounds.Tokens = 8_192
    """Maximum tokens one rank runs at a time. Changes speed and memory, never the result."""
    lr: bounds.Rate = 1e-4
    """Peak learning rate."""
    optimizer: Literal["adamw", "adamw-fused", "adamw-8bit", "paged-adamw-8bit"] = "adamw"
    """AdamW: torch's, its fused kernel, or bitsandbytes' with 8-bit states, which may be paged to the host."""
    head_lr: bounds.Rate | None = None
    """Peak learning rate of the classification head; none means `lr`."""
    layer_decay: bounds.LayerDecay = 1.0
    """Each layer's rate is this times that of the layer above; the embeddings come last, the head is left out."""
    betas: tuple[bounds.Beta, bounds.Beta] = (0.9, 0.999)
    """AdamW's decay rates of the two moments."""
    eps: bounds.Epsilon = 1e-8
    """AdamW's eps. At 1e-8 rounding alone moves weights whose true gradient is zero, as DeBERTa's key biases;
    its own recipes take 1e-6. The gradients of a large model's adapters are too small for that."""
    weight_decay: bounds.Decay = 0.01
    """On matrices only, never on norms and biases."""
    warmup: Share = 0.1
    """Share of the steps in which the learning rate rises linearly from zero."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay after warm-up: cosine or linear to zero, or constant."""
    label_smoothing: Share = 0.0
    """Share of the target that is spread evenly over the three classes."""
    max_grad_norm: bounds.Norm | None = 1.0
    """Gradients are scaled down to this global norm; none leaves them."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast dtype of the backbone: `auto` is bf16 on a GPU that has it, else fp32 (predictions on T4, V100: fp16).
    The loss is fp32. Training in fp16 is refused with its reason (tiebreak.compatibility)."""
    frozen_cache_gb: bounds.Gigabytes = 0.0
    """Most GB of $TIEBREAK_CACHE for what frozen layers give for a row, computed once and without dropout; 0: none."""
    gradient_checkpointing: bool | Literal["auto"] = False
    """Recompute activations in the backward pass: a third slower, much less memory. `auto`: unless they fit a GPU."""
    eval_every: bounds.Steps | None = None
    """Steps between evaluations; none means four evaluations per epoch."""
    early_stopping: bounds.Steps | None = None
    """Stop after this many evaluations in a row without a better log loss."""
    save_every: bounds.Steps | None = None
    """Steps between checkpoints; none means at evaluations only."""
    keep: bounds.Checkpoints = 2
    """Number of newest checkpoints kept, in addition to the best."""
    timeout_s: bounds.Wait = 600
    """Seconds without progress after which a rank is hung and the job aborted; above any micro-batch or save."""


class DistillSettings(Section):
    """Used by `distill`. A row's loss, v_t being the weight of teacher t:
    (ce CE + sum_t v_t (kl T^2 KL_t + cosine (1 - cos_t))) / (ce + sum_t v_t (kl + cosine))."""

    ce: bounds.Weight = 1.0
    """Weight of the cross-entropy on the label; rows without a label have none."""
    kl: bounds.Weight = 1.0
    """Weight of the divergence from the teacher's probabilities."""
    cosine: bounds.Weight = 1.0
    """Weight of 1 - cosine similarity of the student's and the teacher's three logits."""
    temperature: bounds.Temperature = 1.0
    """T of the divergence: both softmaxes are of logits / T."""
    soft_loss: Literal["kl", "cross-entropy"] = "kl"
    """`kl`: the divergence; `cross-entropy`: the same plus the teacher's own entropy. Both have the same gradient."""
    teacher_weights: Literal["equal", "log-loss"] | list[bounds.Weight] = "equal"
    """Each teacher's weight v_t, in the order of --teachers. `log-loss` weighs each by its gain over the class prior on
    the training rows, scaled to a mean of one."""
    calibrate: bool = False
    """First divide each teacher's logits by the temperature that minimises log loss on the training rows."""
    symmetrise: bool = False
    """First average each teacher's probabilities over both answer orders (predict --swap)."""
    soft_only: Share = 0.0
    """Share of the steps, from the first, that use the teachers only and no labels."""

    @model_validator(mode="after")
    def _teachers_count(self) -> "DistillSettings":
        if self.kl + self.cosine == 0:
            raise ValueError("kl and cosine are both 0, so the teachers have no effect: raise one of them")
        if isinstance(self.teacher_weights, list) and not any(self.teacher_weights):
            raise ValueError("teacher_weights are all 0, so the teachers have no effect: raise one of them")
        return self


class FsdpSettings(Section):
    """Used by `--engine fsdp`; changes memory and speed, never the result."""

    cpu_offload: bool = False
    """Keep weights, gradients and optimizer states in the host's memory."""
    reshard_after_forward: bool = True
    """Drop a layer's gathered weights after its forward pass: less memory, one more all-gather."""


class PredictSettings(Section):
    """How a prediction cuts and shares its rows."""

    tokens_per_block: bounds.Tokens = 16_384
    """Maximum tokens of one block of rows. Fixed by the recipe, so predictions do not depend on the ranks."""
    merge_adapters: bool = False
    """Add adapters to the base's weights in memory: fewer products, but a 4-bit base grows (docs/recipes.md)."""
    lease_s: bounds.Lease = 180.0
    """Seconds without a heartbeat after which another process takes over a block of rows."""


class LogSettings(Section):
    """Where a run is logged beside log.jsonl."""

    to: list[Literal["csv", "mlflow", "tensorboard", "wandb"]] = []
    """Trackers that rank 0 writes to (docs/trackers.md); `wandb` here is `log.wandb` online, where that is off."""
    wandb: Literal["off", "online", "offline"] = "off"
    """Weights & Biases, on rank 0."""
    project: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,128}$")] = "tiebreak"
    """Its project, and MLflow's experiment."""

    def trackers(self) -> list[str]:
        """Those of `to`, and `wandb` where it is on; each once."""
        return list(dict.fromkeys([*self.to, *(["wandb"] if self.wandb != "off" else [])]))

    @field_validator("wandb", mode="before")
    @classmethod
    def _yaml_off(cls, value: object) -> object:
        return "off" if value is False else value  # YAML reads a bare `off` as false


class Recipe(Section):
    """A system: all that decides what is trained, and how it predicts."""

    name: str = "custom"
    """Taken from the file's name."""
    description: str = ""
    """What the system is, in whole sentences; `tiebreak recipes` shows them."""
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
            raise ValueError(f"model.freeze is {self.model.freeze}; {self.model.method} freezes the base: leave it out")
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


def load_recipe(name_or_path: str, changes: Sequence[str] = (), base: str | None = None) -> Recipe:
    """A shipped recipe by name or a YAML file by path.

    Args:
        name_or_path: such as `gemma2-9b` or `mine.yaml`.
        changes: of single fields, each as `key.path=value`.
        base: a local model folder or hub name in place of the recipe's `model.base`.

    Raises:
        UserError: naming every unknown field and every value out of range.
    """
    path = find_recipe(name_or_path, "recipe")
    content = read_recipe_file(path, Recipe)
    content.setdefault("name", path.stem)
    where = name_or_path if path.parent == RECIPES else str(path)
    recipe = make_recipe(content, changes, base, where)
    if fault := fault_of_name(recipe.name):
        raise UserError(f"{where}: the recipe's name {fault}: it names run folders; choose another, --set name=NAME")
    return recipe


def make_recipe(
    content: Mapping[str, Any], changes: Sequence[str] = (), base: str | None = None, where: str | None = None
) -> Recipe:
    """A recipe from its fields, which stay as they are; `changes` and `base` as for `load_recipe`.

    Args:
        content: the fields.
        changes: as for `load_recipe`.
        base: as for `load_recipe`.
        where: the fields stand, for messages; by default the recipe's name.

    Raises:
        UserError: naming every unknown field and every value out of range.
    """
    fields = copy.deepcopy(dict(content))
    for change in changes:
        apply_change(fields, change)
    if base is not None and isinstance(model := fields.setdefault("model", {}), dict):
        model["base"] = base
    return validate(Recipe, fields, where or fields.get("name", "recipe"))


def shipped(folder: Path = RECIPES) -> list[str]:
    """Names of the recipes in a folder of the package."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML: every field with its value, readable as a recipe again."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=118)
