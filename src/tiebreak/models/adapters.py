"""LoRA adapters: made, and loaded whole or not at all."""

import reprlib
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from tiebreak.config import ModelSettings
from tiebreak.errors import UserError
from tiebreak.models.folder import load_or_refuse
from tiebreak.models.guard import ADAPTER
from tiebreak.models.heads import backbone_of, heads_of
from tiebreak.plurals import plural
from tiebreak.pretrained.base_files import read_header


def add_adapters(classifier: Any, settings: ModelSettings) -> Any:
    """The classifier with fresh LoRA adapters, and its heads trained whole.

    Raises:
        UserError: `model.lora.targets` are not layers that can have an adapter; names those that can.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    lora = settings.lora
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # fractions are fine
        lora_dropout=lora.dropout,
        target_modules=linear_layers(classifier) if lora.targets == "all-linear" else lora.targets,
        modules_to_save=list(heads_of(classifier)),
    )
    try:
        return get_peft_model(classifier, config)
    except ValueError:  # of no layer, or of one that is not linear
        known = ", ".join(sorted(_linear_names(classifier)))
        raise UserError(
            f"model.lora.targets is {reprlib.repr(lora.targets)}, and the base has the layers {known}: name some, or "
            "all-linear"
        ) from None


def keep_input_types(network: Any) -> None:
    """Stop adapters from turning each layer's input into fp32, which autocast at once turns back.

    The products are the same, bit for bit, and need no copy of the input for the backward pass. To be called where the
    forward pass has autocast, or runs in fp32.
    """
    from peft.tuners.lora import LoraLayer

    for module in network.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False


def linear_layers(classifier: Any) -> str:
    """A pattern that matches every linear layer of the backbone, and of nothing else; its pooler is a head."""
    return rf"(.*\.)?{classifier.base_model_prefix}\.(?!pooler\.).*\.({'|'.join(sorted(_linear_names(classifier)))})"


def _linear_names(classifier: Any) -> set[str]:
    modules = backbone_of(classifier).named_modules()
    return {name.rpartition(".")[2] for name, module in modules if isinstance(module, nn.Linear)}


def load_adapters(base: Any, folder: Path) -> Any:
    """The base with the adapters of a folder, which `tiebreak.models.guard.check_adapter` has looked at.

    Raises:
        UserError: weights that are absent, of another shape, or of no layer of this base.
    """
    from peft import PeftModel  # after bitsandbytes

    place = str(base.device)  # peft would take the first GPU in every process
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # told below
        network = load_or_refuse(str(folder), lambda: PeftModel.from_pretrained(base, folder, torch_device=place))
    refuse_incomplete(network, folder, "default")
    return network


def refuse_incomplete(network: Any, folder: Path, name: str) -> None:
    """Raise UserError if an adapter's file lacks weights that peft has made room for, or holds others."""
    from peft import get_peft_model_state_dict

    wanted = set(load_or_refuse(str(folder), lambda: get_peft_model_state_dict(network, adapter_name=name)))
    held = set(read_header(folder / ADAPTER)[0])
    for what, names in (("absent", wanted - held), ("of no layer of its base", held - wanted)):
        if names:
            told = f"{plural(len(names), 'weight')} {what}, for example {min(names)[:200]}"
            raise UserError(f"{folder / ADAPTER}: {told}: copy the folder again")
