"""One model in memory at a time: adapters over one base are switched, other models loaded in its place."""

import gc
import json
import logging
from pathlib import Path

import torch

from tiebreak.config import Recipe
from tiebreak.models.adapters import refuse_incomplete
from tiebreak.models.folder import check_judge, load_or_refuse
from tiebreak.models.guard import check_adapter
from tiebreak.models.loading import load_model
from tiebreak.models.merged import merge_for_prediction
from tiebreak.models.preference import PreferenceModel

log = logging.getLogger(__name__)

NOT_OF_THE_BASE = ("lora", "freeze")
"""Settings of a model that adapters over one base may differ in."""


class LoadedModels:
    """The models of several folders, each loaded when it is asked for.

    Args:
        device: to load them to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._judge: PreferenceModel | None = None
        self._base = ""
        self._loaded: dict[Path, str] = {}
        self._active: Path | None = None

    def get(self, folder: Path, recipe: Recipe, precision: torch.dtype) -> PreferenceModel:
        """The model of a folder, in evaluation mode; the one returned before must not be used any more."""
        if folder == self._active and self._judge is not None:
            return self._judge
        merging = recipe.predict.merge_adapters and recipe.model.method != "full"
        base = "" if merging else base_of(recipe, precision)
        if self._judge is None or recipe.model.method == "full" or merging or base != self._base:
            self._judge = None
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            self._judge = load_model(folder, recipe, self._device, precision)
            if merging:
                merge_for_prediction(self._judge)
            self._base, self._loaded = base, {folder: "default"}
        else:
            if folder not in self._loaded:
                self._loaded[folder] = add_adapter(self._judge, folder, recipe)
                log.info("%s: adapter loaded onto the base already in memory", folder)
            self._judge.network.set_adapter(self._loaded[folder])
        self._active = folder
        return self._judge


def base_of(recipe: Recipe, precision: torch.dtype) -> str:
    """The settings that two models must share to differ in their adapters alone."""
    settings = {name: value for name, value in recipe.model.model_dump().items() if name not in NOT_OF_THE_BASE}
    return json.dumps([settings, recipe.data.features, str(precision)])


def add_adapter(judge: PreferenceModel, folder: Path, recipe: Recipe) -> str:
    """Load one more adapter beside those that a model has, and return its name."""
    name = f"adapter_{len(judge.network.peft_config)}"
    check_judge(folder)
    check_adapter(folder, recipe)
    place = str(judge.classifier.device)  # peft would take the first GPU in every process
    load_or_refuse(str(folder), lambda: judge.network.load_adapter(str(folder), adapter_name=name, torch_device=place))
    refuse_incomplete(judge.network, folder, name)
    judge.eval()
    return name
