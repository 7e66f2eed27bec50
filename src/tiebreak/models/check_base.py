"""Whether a judge can be made of a base: asked of its files, without torch, by the loader and the preflight alike."""

from pathlib import Path
from typing import Any

from tiebreak.compatibility import FAMILIES, UNTESTED
from tiebreak.config import Recipe
from tiebreak.errors import UserError
from tiebreak.models.architectures import COUNTED, complete
from tiebreak.models.guard import check_folder
from tiebreak.pretrained.base_files import read_config, read_headers, stored_quantization

WRAPPERS = {"_orig_mod.": "torch.compile", "module.": "DDP or DeepSpeed", "base_model.model.": "peft"}
"""What programs put before the names of all weights when a wrapped model is saved."""
Shapes = dict[str, tuple[int, int]]


def check_base(folder: Path, recipe: Recipe | None = None) -> list[str]:
    """Check a base's family, quantisation and weights, as far as its files show them.

    Args:
        folder: of the base, or of a judge that is whole in itself.
        recipe: that it is to be trained by.

    Returns:
        Notes for the user.

    Raises:
        UserError: no judge can be made of it; says why.
    """
    check_folder(folder)
    fields = read_config(folder)
    notes = check_model_type(str(fields.get("model_type")), str(folder))
    if recipe is not None:
        check_quantization(folder, fields, recipe)
    headers = read_headers(folder)
    if headers is not None:
        shapes = {name: tuple(told["shape"]) for header in headers.values() for name, told in header.items()}
        _check_weights(folder, fields, shapes)
    return notes


def check_model_type(model_type: str, base: str) -> list[str]:
    """Refuse a model type of which no judge is made; return a note for one that no test covers.

    Raises:
        UserError: it is neither supported nor known to run.
    """
    if model_type in FAMILIES:
        return []
    if model_type in UNTESTED:
        return [f"note: {base}: no test of this project covers model type {model_type}"]
    raise UserError(
        f"{base}: model type {model_type} is not supported; supported: {', '.join(FAMILIES)} "
        f"(deberta-v2 is DeBERTa v2 and v3), and untested: {', '.join(UNTESTED)}"
    )


def check_quantization(folder: Path, fields: dict[str, Any], recipe: Recipe) -> None:
    """Refuse a base whose quantisation on the disk does not go with the recipe's method.

    Raises:
        UserError: another quantisation than that of bitsandbytes, or one under full fine-tuning.
    """
    stored = stored_quantization(fields)
    if stored is None:
        return
    method, bits = stored
    if bits is None:
        raise UserError(
            f"{folder}: the base is quantised by {method}, which is not supported: take the base as it was before, or "
            "one in 4 or 8 bits of bitsandbytes"
        )
    if recipe.model.method == "full":
        raise UserError(
            f"{folder}: the base is stored in {bits} bits, of which full fine-tuning trains nothing: take "
            "model.method=qlora, or the base as it was before it was quantised"
        )


def _check_weights(folder: Path, fields: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    """Compare names and shapes of the weights with those of the configuration.

    Raises:
        UserError: names with a foreign prefix, or matrices that are absent or do not fit.
    """
    for prefix, program in WRAPPERS.items():
        if shapes and all(name.startswith(prefix) for name in shapes):
            raise UserError(
                f"{folder}: the names of all {len(shapes)} weights begin with {prefix!r}: the model was saved inside "
                f"its wrapper ({program}): save the model itself, or remove the prefix from the names"
            )
    if fields.get("model_type") not in set(COUNTED) - {"phi3", "modernbert"}:
        return  # the names of its matrices are not known here: transformers compares them when it loads the base
    wanted = expected_shapes(fields)
    own = {"bert": "bert.", "deberta-v2": "deberta."}.get(fields["model_type"], "model.")
    prefix = own if any(name.startswith(own) for name in shapes) else ""
    packed = stored_quantization(fields) is not None
    wrong = [name for name, shape in wanted.items() if not _fits(shapes.get(prefix + name), shape, packed)]
    if wrong:
        found = shapes.get(prefix + wrong[0])
        told = "is not there" if found is None else f"is {list(found)}, and config.json says {list(wanted[wrong[0]])}"
        raise UserError(
            f"model {folder}: {len(wrong)} weights are absent or do not fit, for example {prefix}{wrong[0]}, which "
            f"{told}: take weights and configuration of one model"
        )


def _fits(found: tuple[int, ...] | None, wanted: tuple[int, int], packed: bool) -> bool:
    return found is not None and (packed or found == wanted)


def expected_shapes(fields: dict[str, Any]) -> Shapes:
    """Shapes (outputs, inputs) of embeddings and of the matrices of every layer, by name without the backbone's prefix.

    Args:
        fields: of the config.json of a supported family.

    Raises:
        UserError: a size is not given.
    """
    try:
        told = complete(fields)
        width, inner, vocabulary = (int(told[name]) for name in ("hidden_size", "intermediate_size", "vocab_size"))
        heads, key_heads, each = (
            int(told[name]) for name in ("num_attention_heads", "num_key_value_heads", "head_dim")
        )
        layers = int(told["num_hidden_layers"])
    except KeyError as error:
        raise UserError(f"config.json of the base ({fields['model_type']}) lacks {error}: fetch it again") from None
    if FAMILIES[fields["model_type"]].decoder:
        queries, keys = heads * each, key_heads * each
        layer: Shapes = {
            "self_attn.q_proj": (queries, width),
            "self_attn.k_proj": (keys, width),
            "self_attn.v_proj": (keys, width),
            "self_attn.o_proj": (width, queries),
            "mlp.gate_proj": (inner, width),
            "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
        }
        first, place = "embed_tokens.weight", "layers"
    else:
        ends = "_proj" if fields["model_type"] == "deberta-v2" else ""
        layer = {f"attention.self.{name}{ends}": (width, width) for name in ("query", "key", "value")}
        layer |= {"attention.output.dense": (width, width), "intermediate.dense": (inner, width)}
        layer |= {"output.dense": (width, inner)}
        first, place = "embeddings.word_embeddings.weight", "encoder.layer"
        width = int(told.get("embedding_size", width))
    shapes = {f"{place}.{index}.{name}.weight": shape for index in range(layers) for name, shape in layer.items()}
    return {first: (vocabulary, width), **shapes}
