"""The manifests of a prediction's folder, `prediction.json` and `merged.json`: read and written here alone."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import AfterValidator, AliasChoices, Field, model_validator

from tiebreak.errors import UserError
from tiebreak.manifests import Manifest, Section, read_manifest, write_manifest
from tiebreak.structured import read_json

PREDICTION_FILE, MERGE_FILE = "prediction.json", "merged.json"
VERSION = 2
"""Version 1 had no version field, called the provenance `seal` and the degenerate rows `special`."""

MOST_ROWS, MOST_PARTS = 2**31 - 1, 2**20


def _sum_to_one(values: list[float]) -> list[float]:
    if abs(sum(values) - 1) > 1e-3:
        raise ValueError(f"{values} do not sum to one")
    return values


def _one_name(name: str) -> str:
    if name in ("", ".", "..") or len(name) > 255 or any(c in "/\\" or ord(c) < 32 for c in name):
        raise ValueError(f"{name[:80]!r} is not the name of a file or folder right here")
    return name


Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Probabilities = Annotated[list[Share], Field(min_length=3, max_length=3), AfterValidator(_sum_to_one)]
FolderName = Annotated[str, AfterValidator(_one_name)]
"""Of a folder right below another: no path, and nothing hidden."""


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

    newest: ClassVar[int] = VERSION

    parts: FolderName
    """Name of the folder of parts."""
    part_count: int = Field(ge=0, le=MOST_PARTS)
    blocks: int = 0
    """Forward passes in one answer order."""
    rows: int = Field(ge=0, le=MOST_ROWS)
    swap: bool
    """Whether any row is seen in the order B, A too."""
    adaptive: Annotated[float, Field(allow_inf_nan=False)] | None = None
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

    @model_validator(mode="after")
    def _rows_are_there(self) -> "PredictionManifest":
        degenerate = self.degenerate.rows if self.degenerate else {}
        for named, rows in {"unreadable": self.unreadable, "reasons": self.reasons, **degenerate}.items():
            if (beyond := next((row for row in rows if not 0 <= row < self.rows), None)) is not None:
                raise ValueError(f"{named}: row {beyond} of {self.rows}")
        if self.degenerate and (bare := degenerate.keys() - self.degenerate.outputs.keys()):
            raise ValueError(f"degenerate: no probabilities of {', '.join(sorted(bare))[:200]}")
        if self.adaptive is not None and not self.swap:
            raise ValueError("adaptive without swap")
        return self

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

    newest: ClassVar[int] = VERSION

    models: dict[FolderName, str] = Field(min_length=1)
    """The model folder by the name of the folder with its prediction."""
    table: str
    """The hash of the rows."""
    rows: int = Field(ge=0, le=MOST_ROWS)
    swap: bool = False
    adaptive: float | None = None

    @property
    def identity(self) -> object:
        """What distinguishes this prediction from others of the same rows."""
        return self.models


class MergeManifest(Manifest):
    """`merged.json`: the last merge of a prediction."""

    newest: ClassVar[int] = VERSION

    rows: int = Field(ge=0, le=MOST_ROWS)
    file: FolderName
    """Name of the merged table."""
    sha256: str
    """Of the merged table."""
    token: str
    """Drawn for each merge, so that waiting processes can recognise a new one."""
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """That the forward passes took, of all models and orders; unknown in version 1."""
    failed: int = Field(default=0, ge=0, le=MOST_ROWS)
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
        raise UserError(
            f"{folder}: no {PREDICTION_FILE}, so no prediction was begun here; give the --out of tiebreak predict"
        ) from None
    except UserError as error:
        raise UserError(f"{error}; predict again") from None


BAYES, BASELINE = "bayes", "baseline"
"""Words of --teachers that stand for no folder: the sample's own law, and the strongest baseline."""


def split_teacher(word: str) -> tuple[str | None, list[str]]:
    """The name, if one is given, and the folders of a word of --teachers: `FOLDER,FOLDER` or `NAME=FOLDER,FOLDER`.

    Names and folders may hold equals signs and commas, so the first reading is meant of which all folders are there.
    """
    places = [place for place, letter in enumerate(word) if letter == "=" and "/" not in word[:place]]
    readings = [(None, _split_folders(word)), *((word[:at], _split_folders(word[at + 1 :])) for at in places)]
    there = (reading for reading in readings if reading[1] and all(map(os.path.exists, reading[1])))
    return next(there, readings[:2][-1])


def _split_folders(text: str) -> list[str]:
    """The text cut at commas, but for those within the name of what is there."""
    folders, rest = [], text.split(",")
    while rest:
        joined = (count for count in range(1, len(rest) + 1) if os.path.exists(",".join(rest[:count]) or "."))
        count = next(joined, 1)
        folders.append(",".join(rest[:count]))
        rest = rest[count:]
    return [folder for folder in folders if folder]


def hash_ids(chunks: Iterable[list[str]]) -> str:
    """SHA-256 of ids as a prediction's folder keeps them, a line of JSON each."""
    digest = hashlib.sha256()
    for ids in chunks:
        digest.update(id_lines(ids))
    return digest.hexdigest()


def id_lines(ids: list[str]) -> bytes:
    """Ids as the file of ids has them."""
    return "".join(json.dumps(row_id) + "\n" for row_id in ids).encode()


def hash_rows(ids: str, groups: np.ndarray, chars: np.ndarray) -> str:
    """The hash of a table's rows, in order: `Provenance.table`.

    Args:
        ids: their hash.
        groups: of the prompts, int64 (n,).
        chars: of the two answers, int64 (n, 2).
    """
    digest = hashlib.sha256(ids.encode())
    for column in (groups, chars):
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


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
    return "models" in read_json(path)
