"""Adapters of k folds averaged into one, and merged into their base on request."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from tiebreak.data.templates import Template
from tiebreak.errors import UserError
from tiebreak.files import new_folder, write_json
from tiebreak.manifests import write_manifest
from tiebreak.models.folder import (
    MANIFEST_FILE,
    ModelManifest,
    check_judge,
    find_model_folder,
    judge_recipe,
    save_model,
)
from tiebreak.models.guard import check_adapter, seal
from tiebreak.models.loading import load_model
from tiebreak.models.tokenizer import load_saved_tokenizer

log = logging.getLogger(__name__)

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
SCALE_FIELDS = ("r", "lora_alpha")
How = Literal["updates", "factors"]


def merge_adapters(folders: Sequence[Path], out: Path, how: How = "updates", into_base: bool = False) -> None:
    """Average adapters over the same base, and write a model folder.

    Args:
        folders: model or run folders of judges trained by `lora` or `qlora` with the same settings.
        out: the folder to write.
        how: `updates` averages the update matrices B A exactly, in an adapter whose rank is the sum of all ranks;
            `factors` averages A and B each, which keeps the rank and is another function.
        into_base: add the update to the base's weights, in fp32: a plain model without adapters.

    Raises:
        UserError: a folder without an adapter, adapters that do not match, or an `out` that exists.
    """
    if out.exists():
        raise UserError(f"{out} exists: choose another --out")
    found = [find_model_folder(folder) for folder in folders]
    for folder, _ in found:
        if not (folder / WEIGHTS).is_file():
            raise UserError(
                f"{folder}: not an adapter: {WEIGHTS} is missing; give runs with model.method=lora or qlora"
            )
    for folder, _ in found:
        check_judge(folder)
    configs = [check_adapter(folder, manifest.make_recipe()) for folder, manifest in found]
    config = configs[0]
    weights = [load_file(folder / WEIGHTS) for folder, _ in found]
    _check_alike(found, weights, configs)
    merged, count = average(weights, how), len(folders)
    if how == "updates":
        config |= {field: config[field] * count for field in SCALE_FIELDS}
    manifest = found[0][1].model_copy(deep=True)
    manifest.baselines = average_baselines([one.baselines for _, one in found])
    manifest.merged = [str(folder) for folder, _ in found]
    manifest.recipe["model"]["lora"] |= {"r": config["r"], "alpha": config["lora_alpha"]}
    with new_folder(out) as temporary:
        adapter = temporary / "adapter"
        shutil.copytree(found[0][0], adapter, ignore=shutil.ignore_patterns("*.safetensors", "README.md"))
        save_file(merged, adapter / WEIGHTS, metadata={"format": "pt"})
        write_json(adapter / CONFIG, config)
        manifest.files = seal(adapter)
        write_manifest(adapter / MANIFEST_FILE, manifest)
        if into_base:
            _merge_into_base(adapter, manifest)
        for path in adapter.iterdir():
            path.rename(temporary / path.name)
        adapter.rmdir()
    place = ", merged into the base" if into_base else ""
    log.info("%s: %d adapters averaged (%s), rank %d%s", out, count, how, config["r"], place)


def _check_alike(
    found: Sequence[tuple[Path, ModelManifest]],
    weights: Sequence[dict[str, torch.Tensor]],
    configs: Sequence[dict[str, Any]],
) -> None:
    """Refuse adapters of another shape, scale, base or template than the first."""
    first, manifest = found[0]
    shapes = {name: tensor.shape for name, tensor in weights[0].items()}
    config = configs[0]
    for (folder, other), tensors, theirs in zip(found[1:], weights[1:], configs[1:], strict=True):
        same = {name: tensor.shape for name, tensor in tensors.items()} == shapes
        if not same or any(theirs[field] != config[field] for field in SCALE_FIELDS):
            raise UserError(
                f"{folder}: its adapter has another shape or scale than that of {first}: merge runs of one recipe"
            )
        if other.base and manifest.base and other.base.sha256 != manifest.base.sha256:
            raise UserError(
                f"{folder}: its adapter was trained over another base than that of {first}: merge runs over one base"
            )
        if _template(other) != _template(manifest):
            raise UserError(f"{folder}: trained with another template than {first}: merge runs of one template")


def average(weights: Sequence[dict[str, torch.Tensor]], how: How) -> dict[str, torch.Tensor]:
    """One adapter's tensors from several of the same shapes.

    The mean of the updates (1/k) sum B_i A_i is the update of the stacked factors [A_1; ...; A_k] and
    [B_1, ..., B_k] / k, as alpha / r stays what it was. Modules that are trained whole are averaged.

    Args:
        weights: of each adapter, by name.
        how: as in `merge_adapters`.
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


def _template(manifest: ModelManifest) -> Template:
    return manifest.text_template(manifest.make_recipe())


def _merge_into_base(folder: Path, manifest: ModelManifest) -> None:
    """Replace an adapter's model folder by the whole model's; a quantised base is loaded as it was before."""
    recipe = judge_recipe(manifest, ["model.method=lora"])
    if recipe.model.method != "lora":
        raise UserError(
            f"--into-base: {recipe.model.base} is stored in {recipe.model.bits} bits, into which nothing can be added: "
            "average the adapters without it"
        )
    judge = load_model(folder, recipe, torch.device("cpu"), torch.float32)
    judge.network = judge.network.merge_and_unload()
    save_model(
        judge,
        load_saved_tokenizer(folder),
        manifest.make_recipe(["model.method=full"]),
        manifest.baselines,
        folder,
        in_sample=manifest.in_sample,
        template=_template(manifest),
        merged=manifest.merged,
        base=manifest.base,
    )
