"""Adapters of k folds made one, and merged into their base on request."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tiebreak.config import make_recipe
from tiebreak.errors import UserError
from tiebreak.files import TEMPORARY, write_json
from tiebreak.models.loading import SETTINGS_FILE, find_model_folder, load_model, load_saved_tokenizer, save_model

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
UNLIKE = ("r", "lora_alpha")


def merge_adapters(
    folders: Sequence[Path], out: Path, how: str = "updates", into_base: bool = False, say=print
) -> None:
    """Average adapters over the same base, and leave a model folder.

    Args:
        folders: model or run folders of judges trained by `lora` or `qlora` with the same settings.
        how: `updates` averages the update matrices B A exactly, in an adapter of the rank of all together;
            `factors` averages A and B each, which keeps the rank and is another function.
        into_base: add the update to the base's weights, in fp32: a plain model without adapters.

    Raises:
        UserError: a folder without an adapter, adapters of different shape, or an `out` that is there.
    """
    if out.exists():
        raise UserError(f"{out} is there already: choose another --out")
    found = [find_model_folder(folder) for folder in folders]
    for folder, _ in found:
        if not (folder / WEIGHTS).is_file():
            raise UserError(f"{folder}: no {WEIGHTS} here, so it holds no adapter")
    configs = [json.loads((folder / CONFIG).read_text(encoding="utf-8")) for folder, _ in found]
    weights = [load_file(folder / WEIGHTS) for folder, _ in found]
    for (folder, _), config, tensors in zip(found[1:], configs[1:], weights[1:], strict=True):
        shapes = [{name: tensor.shape for name, tensor in one.items()} for one in (weights[0], tensors)]
        if shapes[0] != shapes[1] or any(config[key] != configs[0][key] for key in UNLIKE):
            raise UserError(
                f"{folder}: an adapter of another shape than that of {found[0][0]}; only like can be merged"
            )
    merged = average(weights, how)
    config, count = dict(configs[0]), len(folders)
    if how == "updates":
        config |= {"r": config["r"] * count, "lora_alpha": config["lora_alpha"] * count}
    settings = json.loads((found[0][0] / SETTINGS_FILE).read_text(encoding="utf-8"))
    settings["baselines"] = average_baselines([stored["baselines"] for _, stored in found])
    settings["merged"] = [str(folder) for folder, _ in found]
    settings["recipe"]["model"]["lora"] |= {"r": config["r"], "alpha": config["lora_alpha"]}
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=out.parent)) / "model"
    shutil.copytree(found[0][0], temporary, ignore=shutil.ignore_patterns("*.safetensors", "README.md"))
    save_file(merged, temporary / WEIGHTS, metadata={"format": "pt"})
    write_json(temporary / CONFIG, config)
    write_json(temporary / SETTINGS_FILE, settings)
    if into_base:
        _into_base(temporary, settings)
    temporary.rename(out)
    temporary.parent.rmdir()
    say(
        f"{out}: {count} adapters averaged ({how}), rank {config['r']}"
        + (", merged into the base" if into_base else "")
    )


def average(weights: Sequence[dict[str, torch.Tensor]], how: str) -> dict[str, torch.Tensor]:
    """One adapter's tensors from several of the same shapes.

    The mean of the updates (1/k) sum B_i A_i is the update of the stacked factors [A_1; ...; A_k] and
    [B_1, ..., B_k] / k, as alpha / r stays what it was. Modules that are trained whole are averaged.
    """
    merged = {}
    for name in weights[0]:
        tensors = [one[name].float() for one in weights]
        if how == "updates" and ".lora_A." in name:
            merged[name] = torch.cat(tensors, 0)
        elif how == "updates" and ".lora_B." in name:
            merged[name] = torch.cat(tensors, 1) / len(weights)
        else:
            merged[name] = torch.stack(tensors).mean(0)
    return merged


def average_baselines(fitted: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first's, with the mean of the class priors."""
    priors = torch.tensor([one["prior"] for one in fitted], dtype=torch.float64)
    return {**fitted[0], "prior": priors.mean(0).tolist()}


def _into_base(folder: Path, settings: dict[str, Any]) -> None:
    """Replace an adapter's model folder by the whole model's; a quantised base is loaded as it was before."""
    recipe = make_recipe(dict(settings["recipe"]), ["model.method=lora"])
    judge = load_model(folder, recipe, torch.device("cpu"), torch.float32)
    judge.network = judge.network.merge_and_unload()
    tokenizer = load_saved_tokenizer(folder)
    whole = make_recipe(dict(settings["recipe"]), ["model.method=full"])
    save_model(judge, tokenizer, whole, settings["baselines"], folder)
