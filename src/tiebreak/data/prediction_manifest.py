"""The manifests of a prediction's folder, `prediction.json` and `merged.json`: read and written here alone."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, Field, model_validator

from tiebreak.errors import UserError
from tiebreak.manifests import Manifest, Section, read_manifest, write_manifest

PREDICTION_FILE, MERGE_FILE = "prediction.json", "merged.json"
VERSION = 2
"""Version 1 had no version field, called the provenance `seal` and the degenerate rows `special`."""

Probabilities = Annotated[list[float], Field(min_length=3, max_length=3)]


class Provenance(Section):
    """What a prediction depends on, as hashes; each part carries the same three."""

    model: str
    """The fingerprint of the model folder."""
    table: str
    """Ids, prompts and answer lengths of all rows, in order."""
    settings: str
    """Token cache, blocks, answer orders and precision."""


class DegenerateRows(Section):
    """Rows whose answers say nothing, and the probabilities they get in place of the model's."""

    source: str = Field(validation_alias=AliasChoices("source", "from"))
    """Where the probabilities come from: the numbers or the table as given."""
    rows: dict[str, list[int]]
    """Row numbers of each kind, `empty` and `identical`."""
    outputs: dict[str, Probabilities]
    """Probabilities of A, B and tie of each kind."""


class PredictionManifest(Manifest):
    """`prediction.json` of one model's prediction."""

    parts: str
    """Name of the folder of parts."""
    part_count: int
    blocks: int = 0
    """Forward passes in one answer order."""
    rows: int
    swap: bool
    """Whether any row is seen in the order B, A too."""
    adaptive: float | None = None
    """With `swap`: only rows whose two likeliest classes are less than this probability apart; all if none."""
    provenance: Provenance = Field(validation_alias=AliasChoices("provenance", "seal"))
    ids: str | None = None
    """SHA-256 of the file of ids; early predictions kept none."""
    fingerprint: str
    """Of the model folder."""
    unreadable: list[int] = Field(default_factory=list)
    """Rows whose cells cannot be read."""
    reasons: dict[int, str] = Field(default_factory=dict)
    """Why, by row."""
    truncation: dict[str, int | str | None]
    """The recipe's `max_tokens`, `truncation` and `prompt_cap`."""
    tables: list[str] = Field(default_factory=list)
    """Names of the files of the rows; early predictions kept none."""
    fold: str | None = None
    """`K/N` where only the rows of fold K were predicted."""
    model: str
    """The model folder as it was given."""
    class_shares: Probabilities
    """The prior of the training rows: the probabilities of a row without logits."""
    base: str | None = None
    """The pretrained model that the judge was made from."""
    in_sample: list[str] = Field(default_factory=list)
    """What --allow-in-sample let through when the model was trained."""
    degenerate: DegenerateRows | None = Field(default=None, validation_alias=AliasChoices("degenerate", "special"))
    recipe: str
    """Name of the recipe."""
    recipe_hash: str

    @property
    def table(self) -> str:
        """The hash of the rows."""
        return self.provenance.table

    @property
    def identity(self) -> object:
        """What distinguishes this prediction from others of the same rows."""
        return self.parts

    @property
    def both_orders(self) -> bool:
        """Whether every row is seen in both answer orders."""
        return self.swap and self.adaptive is None


class AverageManifest(Manifest):
    """`prediction.json` of several models' average; each model's own prediction lies in a folder below."""

    models: dict[str, str]
    """The model folder by the name of the folder with its prediction."""
    table: str
    """The hash of the rows."""
    rows: int
    swap: bool = False
    adaptive: float | None = None

    @property
    def identity(self) -> object:
        """What distinguishes this prediction from others of the same rows."""
        return self.models


class MergeManifest(Manifest):
    """`merged.json`: the last merge of a prediction."""

    rows: int
    file: str
    """Name of the merged table."""
    sha256: str
    """Of the merged table."""
    token: str
    """Drawn for each merge, so that waiting processes can recognise a new one."""
    seconds: float | None = None
    """That the forward passes took, of all models and orders; unknown in version 1."""
    failed: int = 0
    """Rows that have the class prior, or one answer order only."""
    notes: list[str] = Field(default_factory=list)
    """Messages of the merge, for whoever started the prediction."""

    @model_validator(mode="before")
    @classmethod
    def _read_version_1(cls, values: Any) -> Any:
        """Version 1 had the hash under the table's name."""
        if isinstance(values, dict) and "file" not in values:
            for name in values.keys() - {"rows", "token", "version"}:
                values = values | {"file": name, "sha256": values[name]}
        return values


def read_prediction_manifest(folder: Path) -> PredictionManifest | AverageManifest:
    """Read what a prediction's folder holds.

    Raises:
        UserError: no prediction was begun here, or its manifest is damaged or of an unknown version.
    """
    path = folder / PREDICTION_FILE
    try:
        return read_manifest(path, AverageManifest) if _names_models(path) else read_manifest(path, PredictionManifest)
    except FileNotFoundError:
        raise UserError(f"{folder}: no {PREDICTION_FILE}, so no prediction was begun here") from None
    except UserError as error:
        raise UserError(f"{error}; predict again") from None


def read_models_behind(folder: Path) -> list[PredictionManifest]:
    """Read the manifest of each model behind a table of predictions; empty where the folder does not say."""
    try:
        manifest = read_prediction_manifest(folder)
    except (UserError, OSError):
        return []
    if isinstance(manifest, PredictionManifest):
        return [manifest]
    return [one for name in manifest.models for one in read_models_behind(folder / name)]


def read_merge_manifest(folder: Path) -> MergeManifest:
    """Read what the last merge left.

    Raises:
        FileNotFoundError: nothing was merged here.
        UserError: the manifest is damaged.
    """
    return read_manifest(folder / MERGE_FILE, MergeManifest)


def write_prediction_manifest(folder: Path, manifest: PredictionManifest | AverageManifest) -> None:
    """Write `prediction.json`, whole or not at all."""
    write_manifest(folder / PREDICTION_FILE, manifest)


def write_merge_manifest(folder: Path, manifest: MergeManifest) -> None:
    """Write `merged.json`, whole or not at all."""
    write_manifest(folder / MERGE_FILE, manifest)


def _names_models(path: Path) -> bool:
    try:
        return "models" in json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        return False
