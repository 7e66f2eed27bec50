"""The model folder: weights, tokenizer, and `tiebreak.json` with all else that its predictions depend on.

Nothing here imports torch at module level.
"""

import hashlib
import io
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import field_validator

from tiebreak import __version__
from tiebreak.arrays import BadArrays, read_npy
from tiebreak.config import Recipe, make_recipe
from tiebreak.data.templates import TEMPLATES, Template
from tiebreak.errors import UserError
from tiebreak.files import hash_once, new_folder, sha256, write_atomically
from tiebreak.labels import CLASSES
from tiebreak.manifests import Manifest, Section, read_manifest, write_manifest
from tiebreak.models.bases import BaseRecord, find_record, look_around, record_base, settle_quantization, with_model
from tiebreak.models.guard import check_folder, seal, verify
from tiebreak.models.sharded import state_of
from tiebreak.pretrained.base_files import refuse_pointers
from tiebreak.process import saving_unwrapped

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from tiebreak.models.preference import PreferenceModel

MANIFEST_FILE, PROMPTS_FILE = "tiebreak.json", "trained_prompts.npy"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
Loaded = TypeVar("Loaded")
SUM_TOLERANCE, LONGEST_TEMPLATE, LONGEST_REASON = 1e-3, 20_000, 300


class TrainedPrompts(Section):
    """The record of the prompts a model was trained on; the file beside the manifest holds their hashes."""

    prompts: int
    """How many distinct ones."""
    sha256: str
    """Of the file."""


class ModelManifest(Manifest):
    """What `tiebreak.json` of a model folder says."""

    tiebreak: str = ""
    """Version of the package that wrote the folder."""
    classes: tuple[str, ...] = CLASSES
    """Names of the three logits, in their order."""
    baselines: dict[str, Any]
    """Of the training rows (tiebreak.evaluation.baselines); `prior` is the prediction for an unreadable row."""
    recipe: dict[str, Any]
    """The recipe as it was when the model was trained, truncation and features included."""
    template: Template | None = None
    """The text around prompt and answers, word for word; None in folders of versions that stored its name alone."""
    tokenizer: str | None = None
    """Hash of the tokenizer's files; None in folders of earlier versions."""
    base: BaseRecord | None = None
    """The base that it was trained over; None in folders of earlier versions."""
    trained: TrainedPrompts | None = None
    files: dict[str, str] | None = None
    """SHA-256 of each file that predictions depend on, by name; None in folders of earlier versions."""
    in_sample: tuple[str, ...] = ()
    """What --allow-in-sample allowed: every result repeats it."""
    merged: list[str] | None = None
    """The folders whose adapters were averaged."""

    @field_validator("classes")
    @classmethod
    def _are_ours(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if classes != CLASSES:
            raise ValueError(f"should be {', '.join(CLASSES)}, in this order")
        return classes

    @field_validator("baselines")
    @classmethod
    def _have_a_prior(cls, baselines: dict[str, Any]) -> dict[str, Any]:
        if "prior" in baselines:
            class_shares(baselines)
        return baselines

    @field_validator("template")
    @classmethod
    def _is_short(cls, template: Template | None) -> Template | None:
        if template is not None and len(repr(template)) > LONGEST_TEMPLATE:
            raise ValueError(f"should have at most {LONGEST_TEMPLATE:,} characters")
        return template

    def make_recipe(self, changes: Sequence[str] = ()) -> Recipe:
        """The recipe, with `key.path=value` changes.

        Raises:
            UserError: naming every unknown field and every value out of range.
        """
        return make_recipe(self.recipe, changes)

    def text_template(self, recipe: Recipe) -> Template:
        """The template that the model was trained with, word for word, or another one that a change asks for.

        Args:
            recipe: this manifest's, with changes.
        """
        stored = recipe.model.template == self.make_recipe().model.template
        return self.template if self.template is not None and stored else TEMPLATES[recipe.model.template]


def class_shares(baselines: Mapping[str, Any]) -> list[float]:
    """The prior of a judge's baselines: the prediction for a row that cannot be read.

    Raises:
        ValueError: it is absent, or no probabilities.
    """
    prior: Any = baselines.get("prior")
    numbers = isinstance(prior, list) and len(prior) == len(CLASSES) and all(isinstance(p, float | int) for p in prior)
    if not numbers or min(prior) < 0 or not abs(sum(prior) - 1) < SUM_TOLERANCE:
        raise ValueError(f"prior should be three probabilities that sum to one, not {reprlib.repr(prior)}")
    return list(map(float, prior))


def find_model_folder(folder: Path | str) -> tuple[Path, ModelManifest]:
    """The model folder, given itself or by the run folder that holds it as `model`, and its manifest.

    Raises:
        UserError: there is none, or its manifest cannot be read.
    """
    for candidate in (Path(folder), Path(folder) / "model"):
        if (candidate / MANIFEST_FILE).is_file():
            try:
                return candidate, read_manifest(candidate / MANIFEST_FILE, ModelManifest)
            except UserError as error:
                raise UserError(f"{error}; copy the folder again, or train again") from None
    if not Path(folder).exists():
        seen = "" if Path(folder).is_absolute() else f" in {Path.cwd()}"
        raise UserError(f"{folder} does not exist{seen}; give a model folder, or the run folder that holds it")
    hint = look_around(Path(folder)) or "; a judge is trained from a plain model by tiebreak train --model"
    raise UserError(
        f"{folder} is not a tiebreak model folder: {MANIFEST_FILE} is missing here and in {folder}/model{hint}"
    )


def judge_recipe(manifest: ModelManifest, changes: Sequence[str] = ()) -> Recipe:
    """The recipe that a judge runs with: its base found, compared with the one it was trained over, and as stored.

    Args:
        manifest: of the judge.
        changes: settings to change, each as `key.path=value`; `model.base` says where the base lies now.

    Raises:
        UserError: settings that do not exist, or a base that is gone or is another.
    """
    recipe = manifest.make_recipe(changes)
    if recipe.model.method == "full":
        return recipe
    base = find_record(manifest.make_recipe().model.base, recipe.model.base, manifest.base)
    return settle_quantization(with_model(recipe, base=base))


def refuse_other_base(folder: Path, base: str) -> None:
    """Raise UserError if a base that is loaded is not the one that the adapters in a folder were trained over."""
    path = folder / MANIFEST_FILE
    record = read_manifest(path, ModelManifest).base if path.is_file() else None
    now = record_base(base) if record is not None else None
    if record is not None and now is not None and now.sha256 != record.sha256:
        raise UserError(f"{folder}: its adapters were trained over another base than {base}: give the right one")


def fingerprint(folder: Path) -> str:
    """A hash of the folder's weights and manifest: what its predictions depend on."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.onnx*"), folder / MANIFEST_FILE])
    return hashlib.sha256("".join(hash_once(path) for path in files).encode()).hexdigest()


def check_judge(folder: Path) -> None:
    """Check a judge's files before one of them is loaded; a folder without a manifest is not looked at.

    Raises:
        UserError: a file that was changed since the judge was saved, that lies elsewhere or is of another form.
    """
    if (folder / MANIFEST_FILE).is_file():
        verify(folder, read_manifest(folder / MANIFEST_FILE, ModelManifest).files)
        check_folder(folder)


def hash_tokenizer(folder: Path) -> str:
    """A hash of the files that decide how a model folder's tokenizer cuts a text."""
    paths = [path for name in TOKENIZER_FILES if (path := folder / name).is_file()]
    return hashlib.sha256("".join(f"{path.name} {sha256(path)}\n" for path in paths).encode()).hexdigest()


def read_prompts(folder: Path) -> np.ndarray | None:
    """Hashes of the prompts, sorted, that the model in this folder was trained on; None where there is no record.

    This record, not a folder's name, decides whether a prediction is out-of-fold.

    Raises:
        UserError: the record is not the one that was saved with the model.
    """
    manifest = folder / MANIFEST_FILE
    record = read_manifest(manifest, ModelManifest).trained if manifest.is_file() else None
    if record is None:
        return None
    path = folder / PROMPTS_FILE
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise UserError(
            f"{path}: absent, or not the record that was saved with this model; copy the folder again, or train again"
        )
    try:
        return read_npy(content)
    except BadArrays as error:
        raise UserError(f"{path}: {error}; copy the folder again, or train again") from None


def save_model(
    judge: "PreferenceModel",
    tokenizer: "PreTrainedTokenizerBase",
    recipe: Recipe,
    baselines: Mapping[str, Any],
    folder: Path,
    trained: np.ndarray | None = None,
    in_sample: Sequence[str] = (),
    template: Template | None = None,
    merged: list[str] | None = None,
    base: BaseRecord | None = None,
    weights: Mapping[str, "torch.Tensor"] | None = None,
) -> None:
    """Write the model folder; it takes the place of an older one when it is whole.

    Args:
        judge: with full tensors, or a sharded engine's part of them beside `weights`.
        tokenizer: with the template's special tokens.
        recipe: that the model was trained by.
        baselines: fitted on the training rows (`tiebreak.evaluation.baselines`).
        folder: to write.
        trained: prompt hashes (n,) of all rows that were trained on; a prompt may occur several times.
        in_sample: what was allowed by --allow-in-sample.
        template: that the model was trained with; None means the one that the recipe names.
        merged: folders whose adapters this model averages.
        base: that it was trained over; None takes the one that lies there now.
        weights: full tensors by the judge's names, in place of its own parameters: all that are to be saved.

    Raises:
        RuntimeError: a saved tensor is empty, as sharded engines leave them when not gathered.
    """
    manifest = ModelManifest(
        tiebreak=__version__,
        baselines=dict(baselines),
        recipe=recipe.model_dump(mode="json"),
        template=template or TEMPLATES[recipe.model.template],
        in_sample=tuple(in_sample),
        merged=merged,
        base=base or record_base(recipe.model.base),
    )
    with new_folder(folder, existing="replace") as temporary:
        with saving_unwrapped():
            judge.network.save_pretrained(temporary, **state_of(judge, weights))
        tokenizer.save_pretrained(temporary)
        manifest.tokenizer = hash_tokenizer(temporary)
        if trained is not None:
            buffer, prompts = io.BytesIO(), np.unique(trained)
            np.save(buffer, prompts)
            content = buffer.getvalue()
            write_atomically(temporary / PROMPTS_FILE, content)
            manifest.trained = TrainedPrompts(prompts=len(prompts), sha256=hashlib.sha256(content).hexdigest())
        _check_tensors(temporary)
        manifest.files = seal(temporary)
        write_manifest(temporary / MANIFEST_FILE, manifest)


def _check_tensors(folder: Path) -> None:
    from safetensors import safe_open

    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            empty = [name for name in file.keys() if 0 in file.get_slice(name).get_shape()]  # noqa: SIM118
            if empty or not list(file.keys()):
                raise RuntimeError(f"{path.name}: saved without content ({', '.join(empty[:3]) or 'no tensors'})")


def load_or_refuse(base: str, load: Callable[[], Loaded]) -> Loaded:
    """Run a loader; raise UserError where the model or tokenizer is not there or not whole."""
    try:
        return load()
    except (UserError, MemoryError):
        raise
    except Exception as error:  # the libraries raise what they like, tokenizers a bare Exception
        if "OutOfMemory" in type(error).__name__:
            raise
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        local = Path(base).is_dir()
        if local:
            refuse_pointers(Path(base))
        what = "fetch the folder again" if local else "give a local folder or a hub name"
        raise UserError(f"model {base}: not loadable ({reason[:LONGEST_REASON]}); {what}") from error


def usage(manifest: ModelManifest) -> str | None:
    """Python lines for the model card: score one pair with peft and transformers alone.

    Args:
        manifest: of the model folder.

    Returns:
        The lines, of which the first names the folder; None for a model that only this package loads: with another
        head or pooling than transformers has, or with features.
    """
    recipe = manifest.make_recipe()
    if recipe.model.head != "linear" or recipe.model.pooling != "auto" or recipe.data.features:
        return None
    template = manifest.text_template(recipe)
    if recipe.model.method == "full":
        imports, load = "", 'judge = pipeline("text-classification", model=folder, top_k=None)\n'
    else:
        imports = "from peft import AutoPeftModelForSequenceClassification\n"
        load = (
            f"names = {list(manifest.classes)}\n"
            "ids = {name: i for i, name in enumerate(names)}\n"
            "model = AutoPeftModelForSequenceClassification.from_pretrained(\n"
            "    folder, num_labels=3, id2label=dict(enumerate(names)), label2id=ids\n"
            ")\n"
            "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
            'judge = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)\n'
        )
    return (
        f'folder = "."  # the folder of this card\n{imports}'
        f"from transformers import {'AutoTokenizer, ' if imports else ''}pipeline\n\n{load}"
        'prompt, a, b = "What is 2 + 2?", "4", "5"\n'
        f"text = {template.head!r} + prompt + {template.before_first!r} + a\n"
        f"text += {template.before_second!r} + b + {template.tail!r}\n"
        "print(judge([text], add_special_tokens=False)[0])\n"
    )
