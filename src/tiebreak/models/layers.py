"""Which of a base's layers a judge has, and which of them are trained."""

from typing import Any

from torch import nn

from tiebreak.compatibility import find_family
from tiebreak.errors import UserError
from tiebreak.models.heads import backbone_of
from tiebreak.models.preference import PreferenceModel

LAST_NORMS = ("norm", "final_norm", "final_layernorm", "ln_f")
"""What families call the norm behind the last layer."""


def keep_layers(classifier: Any, kept: list[int]) -> None:
    """Leave a classifier these of its transformer layers, in this order, and its configuration with as many.

    Raises:
        UserError: a layer that it does not have.
    """
    config = classifier.config
    path, _, name = find_family(config.model_type).layers.rpartition(".")
    layers = getattr(parent := backbone_of(classifier).get_submodule(path), name)
    if max(kept) >= len(layers):
        raise UserError(f"model.layers has {max(kept)}, but the base has 0 to {len(layers) - 1}: name some of these")
    setattr(parent, name, nn.ModuleList([layers[index] for index in kept]))
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[index] for index in kept]
    config.num_hidden_layers = len(kept)


def freeze(judge: PreferenceModel, what: str | int) -> None:
    """Stop parameters from training.

    Args:
        judge: changed in place.
        what: `none`; `embeddings`, the table of tokens alone; an integer n for all that comes before layer n, counted
            from 0, and what is shared with it, as DeBERTa's relative positions; `backbone`.

    Raises:
        UserError: more layers than the base has.
    """
    if what == "none":
        return
    named = dict(judge.backbone.named_parameters())
    trained = {id(parameter) for head in judge.heads.values() for parameter in head.parameters()}
    if what == "embeddings":
        named = dict(judge.classifier.get_input_embeddings().named_parameters())
    elif isinstance(what, int):
        if what > (count := len(judge.layers)):
            raise UserError(f"model.freeze is {what}, but the base has {count} layers: lower it, or take `backbone`")
        trained |= {id(parameter) for layer in judge.layers[what:] for parameter in layer.parameters()}
        trained |= {id(parameter) for name, parameter in named.items() if name.split(".")[0] in LAST_NORMS}
    for parameter in named.values():
        if id(parameter) not in trained:
            parameter.requires_grad_(False)
