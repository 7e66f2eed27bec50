"""What a stage was made of: its words, its tables and recipes and what the stages before it left, all by their hashes.

A stage is done if its last file is there, is the one that the stage left, and was made of what is there now. Else its
command runs again: it goes on, begins anew, or says what is another than before.
"""

import logging
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from tiebreak.errors import UserError
from tiebreak.files import hash_once, sha256
from tiebreak.manifests import Manifest, read_manifest, write_manifest
from tiebreak.pretrained.base_files import CONFIG, hash_base
from tiebreak.storage import make_folder

FOLDER = "stages"

log = logging.getLogger(__name__)


class StageRecord(Manifest):
    """`stages/NAME.json` of a chain's folder."""

    arguments: list[str]
    """Words of the command."""
    inputs: dict[str, str]
    """Hash of each file or base that the words name, and of each stage's last file that it waits for."""
    before: str | None = None
    """Hash of a last file that was there already, made of something else: not what this stage leaves."""
    sha256: str | None = None
    """Of the file that the stage writes last, as soon as somebody has seen it."""
    others: dict[str, str] | None = None
    """Of further files that it leaves and later stages read."""


def record_path(out: Path, name: str) -> Path:
    """Where the record of a stage lies in its chain's folder."""
    return out / FOLDER / f"{''.join(letter if letter.isalnum() or letter in '.-_' else '~' for letter in name)}.json"


def make_record(arguments: Iterable[str], waited_for: Iterable[Path], done: Path) -> StageRecord:
    """The record of a stage as it would be made now; `done`, its last file, is none of its inputs."""
    words = list(arguments)
    paths = [path for path in (*map(Path, words), *waited_for) if path != done]
    files = {str(path): digest for path in paths if (digest := _digest(path)) is not None}
    return StageRecord(arguments=words, inputs=files)


def is_done(name: str, done: Path, now: StageRecord, path: Path | None, also: Sequence[Path] = ()) -> bool:
    """Whether a stage has left its last file, and that is whole and made of what is there now.

    Args:
        name: of the stage.
        done: the file that it writes last.
        now: of what it would be made now.
        path: of its record; None trusts the last file, and so does an absent file, as in chains of earlier versions,
            but says so and records what is there now.
        also: further files that it leaves.
    """
    if not all(file.is_file() for file in (done, *also)) or _lacks_model(done):
        return False
    try:
        stored = None if path is None else read_manifest(path, StageRecord)
    except FileNotFoundError:
        stored = None
    except (UserError, OSError) as error:
        log.info(f"{name}: {error}; the stage runs again, and sees whether it is done")
        return False
    if path is None:
        return True
    found = sha256(done)
    if stored is None:
        _say_unrecorded(path.parent)
        stored = now.model_copy(update={"sha256": found, "others": _hashes(also)})
        make_folder(path.parent)
        write_manifest(path, stored)
    changed = [key for key in sorted({*stored.inputs, *now.inputs}) if stored.inputs.get(key) != now.inputs.get(key)]
    changed += ["its options"] * (stored.arguments != now.arguments)
    if changed or found == stored.before:
        log.info(f"{name}: {done} was made of something else ({', '.join(changed) or 'see above'}): it runs again")
        return False
    others = _hashes(also)
    if stored.sha256 is None:
        write_manifest(path, stored.model_copy(update={"sha256": found, "others": others}))
    elif stored.sha256 != found or stored.others not in (None, others):
        log.info(f"{name}: {done} is not as the stage left it: it runs again")
        return False
    return True


def begin(now: StageRecord, done: Path, path: Path | None) -> None:
    """Keep what a stage is about to be made of; a last file that is there is not its own."""
    if path is not None:
        make_folder(path.parent)
        before = sha256(done) if done.is_file() else None
        write_manifest(path, now.model_copy(update={"before": before}))


def end(now: StageRecord, done: Path, path: Path | None, also: Sequence[Path] = ()) -> None:
    """Keep what a stage has left."""
    if path is not None:
        make_folder(path.parent)
        write_manifest(path, now.model_copy(update={"sha256": sha256(done), "others": _hashes(also)}))


@cache
def _say_unrecorded(folder: Path) -> None:
    """Say once what comes of stages without a record."""
    log.info(
        f"{folder.parent}: made by an earlier tiebreak, which kept no record of what its stages were made of: those "
        "whose last file is there count as done, and as made of what is there now; to make them anew, give a new --out"
    )


def _hashes(files: Sequence[Path]) -> dict[str, str]:
    return {str(file): sha256(file) for file in files if file.is_file()}


def _lacks_model(done: Path) -> bool:
    """Whether this is the last file of a training whose model is gone."""
    run = done.parent
    return done.name == "metrics.json" and (run / "recipe.yaml").is_file() and not (run / "model").is_dir()


def _digest(path: Path) -> str | None:
    """Hash of a file, or of a plain model's folder; None for other words."""
    try:
        if path.is_file():
            return hash_once(path)
        return hash_base(path) if (path / CONFIG).is_file() else None
    except (UserError, OSError, ValueError):  # words that are no paths
        return None
