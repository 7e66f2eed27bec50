"""Model folders from anywhere: what is checked of their files before one of them is loaded. Nothing imports torch.

A judge's manifest holds a hash of every file that its predictions depend on, so a changed byte is found. Beside that
nothing is taken on trust, since a stranger writes manifests too: weights are safetensors inside the folder, sizes of
the configuration are bounded and those of the weights, and an adapter is one of the kind that is made here.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiebreak.bounds import LONGEST_PLACE
from tiebreak.config import Recipe
from tiebreak.errors import UserError
from tiebreak.files import hash_once, sha256
from tiebreak.pretrained.base_files import CONFIG, read_config, read_header, read_headers, stored_quantization
from tiebreak.structured import read_json

_READ = re.compile(
    r"(config|generation_config|adapter_config|tokenizer.*|special_tokens_map|added_tokens|vocab.*|chat_template.*)"
    r"\.(json|txt|model|jinja)|merges\.txt|.*\.model|.*\.safetensors(\.index\.json)?|.*\.onnx(\.data)?|.*\.npy"
)
"""Files that decide what a judge says; not the manifest itself, nor the card, which reports write."""
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
SIZES: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "embedding_size", "pooler_hidden_size"), (1, 1_000_000)),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "head_dim"), (1, 100_000)),
    "num_hidden_layers": (1, 1_000),
    "vocab_size": (1, 10_000_000),
    "max_position_embeddings": (1, 100_000_000),
    "type_vocab_size": (0, 1_000),
    "num_local_experts": (1, 10_000),
    **dict.fromkeys(("max_relative_positions", "position_buckets", "pad_token_id"), (-1, 10_000_000)),
    "conv_kernel_size": (0, 1_000),
}
"""Numbers of a configuration that decide how much is allocated: the least and the most."""
RATES = ("layer_norm_eps", "rms_norm_eps", "initializer_range", "hidden_dropout_prob", "attention_probs_dropout_prob")
FORMS: dict[str, tuple[type, ...]] = {
    "id2label": (dict,),
    "label2id": (dict,),
    "architectures": (list,),
    "quantization_config": (dict,),
    "pos_att_type": (list, str),
    "hidden_act": (str,),
}
NOT_OURS = (
    *("use_dora", "use_rslora", "lora_bias", "use_qalora", "use_bdlora", "megatron_config", "loftq_config"),
    *("layers_to_transform", "rank_pattern", "alpha_pattern", "exclude_modules", "auto_mapping", "layer_replication"),
    *("trainable_token_indices", "target_parameters", "corda_config", "eva_config", "alora_invocation_tokens"),
)
"""Settings of peft that no adapter made here has."""
HEADS_SAVED = {"score", "classifier", "head", "pooler", "dense"}


def seal(folder: Path) -> dict[str, str]:
    """Hashes of a judge's files, by name."""
    return {path.name: sha256(path) for path in _sealed(folder)}


def verify(folder: Path, hashes: Mapping[str, str] | None) -> None:
    """Compare a judge's files with the hashes that its manifest holds.

    Takes as long as hashing the folder: about a second a gigabyte, once in a process.

    Args:
        folder: of the judge.
        hashes: by name; None in folders of earlier versions, which are not compared.

    Raises:
        UserError: a file that was changed, is absent or has come since the judge was saved.
    """
    if hashes is None:
        return
    found = {path.name: path for path in _sealed(folder)}
    for name in sorted(hashes.keys() | found.keys()):
        if name not in found:
            raise UserError(f"{folder}: no {name[:80]}, which was saved with this model: copy the folder again")
        if name not in hashes:
            raise UserError(f"{found[name]}: not saved with this model: remove it, or copy the folder again")
        if hash_once(found[name]) != hashes[name]:
            raise UserError(
                f"{folder}: not loadable: its {name[:80]} is not the one that was saved with this model (another "
                "hash): copy the folder again, or train again"
            )


def _sealed(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and is_sealed(path.name)]


def is_sealed(name: str) -> bool:
    """Whether a library or this project reads a file of this name in a judge's folder."""
    return _READ.fullmatch(name) is not None


def check_folder(folder: Path) -> None:
    """Check the files of a local base or judge, before any library opens one.

    Raises:
        UserError: pickled weights alone, a file that lies elsewhere, or a configuration of another form or size.
    """
    refuse_outside(folder)
    refuse_pickles(folder)
    if (folder / CONFIG).is_file():
        fields = read_config(folder)
        check_config(folder / CONFIG, fields)
        check_dtypes(folder, fields)


def refuse_outside(folder: Path) -> None:
    """Raise UserError for a link that leaves the folder, but into the blobs of the hub's cache."""
    inside = folder.resolve()
    blobs = inside.parent.parent / "blobs" if inside.parent.name == "snapshots" else inside
    for path in sorted(folder.iterdir()):
        if not path.is_symlink():
            continue
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):  # gone, or a link that goes round
            raise UserError(f"{path}: a link to nothing: copy the file itself there") from None
        if inside not in target.parents and blobs not in target.parents:
            raise UserError(f"{path}: a link that leaves the folder (to {target}): copy the file itself there")


def refuse_pickles(folder: Path) -> None:
    """Raise UserError if the weights are pickled, which may run code when it is read."""
    names = [path.name for path in sorted(folder.iterdir()) if path.is_file()]
    pickled = [
        name for name in names if Path(name).suffix in PICKLES and "training" not in name and "optim" not in name
    ]
    if pickled and not any(name.endswith((".safetensors", ".safetensors.index.json", ".onnx")) for name in names):
        raise UserError(
            f"{folder / pickled[0]}: pickled weights may run code when they are read, so take the model's "
            "safetensors, or write them from this file if you trust it (docs/trust.md)"
        )


def check_config(path: Path, fields: Mapping[str, Any]) -> None:
    """Check the numbers of a configuration that decide what is allocated, and the form of those that are no numbers.

    Raises:
        UserError: naming the field, its value and what it can be.
    """
    for name, (least, most) in SIZES.items():
        value = fields.get(name)
        if value is None or (name == "pad_token_id" and value == -1):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise _wrong(path, name, value, f"a whole number from {least:,} to {most:,}")
    for name in RATES:
        value = fields.get(name)
        if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= 1):
            raise _wrong(path, name, value, "a number from 0 to 1")
    for name, kinds in FORMS.items():
        value = fields.get(name)
        if value is not None and not isinstance(value, kinds):
            raise _wrong(path, name, value, " or ".join(kind.__name__ for kind in kinds))
    if set(fields.get("pos_att_type") or ()) - {"p2c", "c2p", "p2p", *"p2c|"}:
        raise _wrong(path, "pos_att_type", fields["pos_att_type"], "of p2c and c2p")
    stored = stored_quantization(fields)
    if stored is not None and stored[0] == "unknown":
        raise _wrong(path, "quantization_config", fields["quantization_config"], "one that names its quant_method")


def check_dtypes(folder: Path, fields: Mapping[str, Any]) -> None:
    """Raise UserError for whole weights that are no floats, unless the configuration says that they are quantised."""
    if stored_quantization(fields) is not None or not any(folder.glob("model*.safetensors*")):
        return
    for name, header in (read_headers(folder) or {}).items():
        for tensor, told in header.items():
            if not str(told["dtype"]).startswith(("F", "BF")) and not tensor.endswith(
                ("position_ids", "num_batches_tracked")
            ):
                raise UserError(
                    f"{folder / name}: {tensor[:200]} is of {told['dtype']}, and weights are floats: fetch it again"
                )


def count_weights(folder: Path) -> int | None:
    """How many numbers the weights of a folder hold; None where they are not there as safetensors."""
    headers = read_headers(folder) if any(folder.glob("model*.safetensors*")) else None
    if not headers:
        return None
    return sum(math.prod(told["shape"]) for header in headers.values() for told in header.values())


def check_adapter(folder: Path, recipe: Recipe | None = None) -> dict[str, Any]:
    """Check an adapter's configuration and the header of its weights; return the configuration.

    Args:
        folder: of the adapter.
        recipe: that it was trained by, whose rank and scale it must have.

    Raises:
        UserError: another kind of adapter than those made here, or matrices that are absent or of another rank.
    """
    refuse_outside(folder)
    path = folder / ADAPTER_CONFIG
    try:
        fields = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: absent, so this is no adapter: copy the folder again") from None
    refuse_pickles(folder)
    if not (folder / ADAPTER).is_file():
        raise UserError(f"{folder / ADAPTER}: absent, so the adapter has no weights: copy the folder again")
    for name, only in {"peft_type": "LORA", "task_type": "SEQ_CLS", "bias": "none"}.items():
        if fields.get(name, only) != only:
            raise _wrong(path, name, fields[name], repr(only))
    if other := [name for name in NOT_OURS if fields.get(name)]:
        raise _wrong(path, other[0], fields[other[0]], "unset: no judge is trained with it")
    if not isinstance(fields.get("init_lora_weights", True), bool):
        raise _wrong(path, "init_lora_weights", fields["init_lora_weights"], "true or false")
    saved = fields.get("modules_to_save")
    if not isinstance(saved, list) or not saved or not set(map(str, saved)) <= HEADS_SAVED:
        raise _wrong(path, "modules_to_save", saved, "the names of the head")
    place = fields.get("base_model_name_or_path")
    if place is not None and not (isinstance(place, str) and len(place) <= 4 * LONGEST_PLACE):
        raise _wrong(path, "base_model_name_or_path", place, "the name of a model")
    _check_targets(path, fields.get("target_modules"))
    scales: dict[str, float] = {"r": 0, "lora_alpha": 0}
    for name in scales:
        value = fields.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= 1e6:
            raise _wrong(path, name, value, "a number above 0")
        scales[name] = value
    if recipe is not None:
        for name, trained in {"r": recipe.model.lora.r, "lora_alpha": recipe.model.lora.alpha}.items():
            if scales[name] != trained:
                raise _wrong(path, name, fields[name], f"{trained:g}, as the judge was trained (tiebreak.json)")
    _check_matrices(folder / ADAPTER, int(scales["r"]))
    return fields


def _check_targets(path: Path, targets: Any) -> None:
    names = targets if isinstance(targets, list) else [targets]
    if not names or not all(isinstance(name, str) and 0 < len(name) <= LONGEST_PLACE for name in names):
        raise _wrong(path, "target_modules", targets, "a list of names, or a pattern")
    if isinstance(targets, str):
        try:
            re.compile(targets)
        except re.error as error:
            raise _wrong(path, "target_modules", targets, f"a regular expression ({error})") from None


def _check_matrices(path: Path, rank: int) -> None:
    """Each layer has both matrices, of one rank."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):  # which checks the header against the file
            header = read_header(path)[0]
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: truncated or damaged ({error}): copy the folder again") from None
    shapes = {name: told["shape"] for name, told in header.items()}
    pairs = 0
    for name, shape in shapes.items():
        for this, other, side in ((".lora_A.", ".lora_B.", 0), (".lora_B.", ".lora_A.", 1)):
            if this not in name:
                continue
            pairs += 1
            partner = shapes.get(name.replace(this, other))
            if partner is None or len(shape) != 2 or shape[side] != rank or partner[1 - side] != rank:
                told = f"{name[:200]} is {shape}, its partner {partner}, and the rank is {rank}"
                raise UserError(f"{path}: {told}: copy the folder again")
    if not pairs:
        raise UserError(f"{path}: holds no matrices of an adapter: copy the folder again")


def _wrong(path: Path, name: str, value: object, wanted: str) -> UserError:
    shown = repr(value)
    shown = shown if len(shown) <= 100 else f"{shown[:100]}..."
    return UserError(f"{path}: {name} is {shown}, and should be {wanted}: fetch the folder again")
