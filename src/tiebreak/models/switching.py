"""One judge in memory at a time: adapters over one base are switched, other models loaded in its place."""

import gc
import json
from collections.abc import Callable
from pathlib import Path

import torch

from tiebreak.config import Recipe
from tiebreak.models.loading import load_model, told
from tiebreak.models.preference import PreferenceModel

NOT_OF_THE_BASE = ("lora", "freeze")
"""Settings of a model that adapters over one base may differ in."""


class LoadedModels:
    """The judges of several model folders, each loaded when it is asked for."""

    def __init__(self, device: torch.device, say: Callable[[str], None]) -> None:
        self._device, self._say = device, say
        self._judge: PreferenceModel | None = None
        self._base = ""
        self._loaded: dict[Path, str] = {}
        self._active: Path | None = None

    def get(self, folder: Path, recipe: Recipe, precision: torch.dtype) -> PreferenceModel:
        """The judge of a model folder, in evaluation mode; the one asked for before is no longer to be used."""
        if folder == self._active and self._judge is not None:
            return self._judge
        base = base_of(recipe, precision)
        if self._judge is None or recipe.model.method == "full" or base != self._base:
            self._judge = None
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            self._judge = load_model(folder, recipe, self._device, precision)
            self._base, self._loaded = base, {folder: "default"}
        else:
            if folder not in self._loaded:
                self._loaded[folder] = add_adapter(self._judge, folder)
                self._say(f"{folder}: its adapter joins the base that is in memory")
            self._judge.network.set_adapter(self._loaded[folder])
        self._active = folder
        return self._judge


def base_of(recipe: Recipe, precision: torch.dtype) -> str:
    """What two judges must have in common to differ in their adapters alone."""
    settings = {name: value for name, value in recipe.model.model_dump().items() if name not in NOT_OF_THE_BASE}
    return json.dumps([settings, recipe.data.features, str(precision)])


def add_adapter(judge: PreferenceModel, folder: Path) -> str:
    """Load one more adapter beside those that a judge has; its name."""
    name = f"adapter_{len(judge.network.peft_config)}"
    told(str(folder), lambda: judge.network.load_adapter(str(folder), adapter_name=name))
    judge.eval()
    return name
