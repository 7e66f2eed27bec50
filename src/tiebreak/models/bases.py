"""Where a recipe's base lies, which one it is, and how it is quantised. Nothing here imports torch."""

import json
import logging
from pathlib import Path

from tiebreak.config import Recipe
from tiebreak.errors import UserError
from tiebreak.manifests import Section
from tiebreak.models.demo import FAMILIES, demo_folder, demo_path, is_built
from tiebreak.pretrained.base_files import CONFIG, hash_base, read_config, stored_quantization
from tiebreak.pretrained.weights import WEIGHTS, default_folder

log = logging.getLogger(__name__)

JUDGE, ADAPTERS = "tiebreak.json", "adapter_config.json"
"""Files that tell what a folder is, beside config.json."""


class BaseRecord(Section):
    """Which base a judge was trained over."""

    path: str | None = None
    """Where it lay; None for one that has a name of its own."""
    sha256: str
    """`hash_base` of it."""


def resolve_base(base: str) -> str:
    """Where a recipe's base lies: a demo model, one of `tiebreak weights`, a local folder, or a hub name as it stands.

    Raises:
        UserError: weights that were not fetched yet, or a folder without a model.
    """
    if base in FAMILIES:
        return str(demo_folder(base))
    if base in WEIGHTS and not Path(base).exists():
        if not (folder := default_folder(base)).is_dir():
            raise UserError(f"{base}: not fetched yet; `tiebreak weights {base}` does that")
        return str(folder)
    if Path(base).exists() and not (Path(base) / CONFIG).is_file():
        hint = look_around(Path(base)) or "; give a folder that holds one"
        raise UserError(f"{base}: not a model folder: {CONFIG} is missing{hint}")
    return base


def is_hub_name(base: str) -> bool:
    """Whether a base that is no folder may be a name on a hub: OWNER/NAME."""
    return not Path(base).is_absolute() and not base.startswith((".", "~", "runs/")) and base.count("/") == 1


def locate(base: str) -> Path | None:
    """The folder of a base on this machine, the hub's cache included; builds and fetches nothing."""
    if base in FAMILIES:
        return demo_path(base) if is_built(base) else None
    if Path(base).is_dir():
        return Path(base)
    if base in WEIGHTS:
        return folder if (folder := default_folder(base)).is_dir() else None
    if Path(base).exists() or not is_hub_name(base):
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(base, CONFIG)
    return Path(cached).parent if isinstance(cached, str) else None


def record_base(base: str) -> BaseRecord | None:
    """The record of a base for the judges made from it; None where its files cannot be read here."""
    folder = locate(base)
    try:
        digest = None if folder is None else hash_base(folder)
    except (UserError, OSError):
        return None
    if folder is None or digest is None:
        return None
    named = base in FAMILIES or (base in WEIGHTS and not Path(base).exists())
    return BaseRecord(path=None if named else str(folder.resolve()), sha256=digest)


def settle_quantization(recipe: Recipe) -> Recipe:
    """The recipe with the quantisation that its base has on the disk, which counts in place of the recipe's own.

    Adapters over a base stored in 4 or 8 bits are `qlora` with as many bits, whatever the recipe says. What cannot be
    trained at all stays, for `tiebreak.models.check_base` to refuse.
    """
    folder = locate(recipe.model.base)
    try:
        stored = None if folder is None else stored_quantization(read_config(folder))
    except (UserError, OSError):
        return recipe
    if stored is None or stored[1] is None or recipe.model.method == "full":
        return recipe
    bits = stored[1]
    if (recipe.model.method, recipe.model.bits) == ("qlora", bits):
        return recipe
    told = f"model.method={recipe.model.method}"
    told += f" model.bits={recipe.model.bits}" if recipe.model.method == "qlora" else ""
    log.info(f"{recipe.model.base} is stored in {bits} bits: model.method=qlora model.bits={bits} counts, not {told}")
    return with_model(recipe, method="qlora", bits=bits)


def with_model(recipe: Recipe, **fields: object) -> Recipe:
    """The recipe with other settings of its model."""
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=fields)})


def look_around(folder: Path) -> str:
    """What a folder that is no model is, or which folder near it is one: the end of a message, or nothing."""
    if not folder.exists():
        return ""
    if folder.is_file():
        return "; this is a file: give the folder that holds it"
    inside = [path for path in (folder / "model", *sorted(folder.glob("checkpoint-*"), key=_number)) if _is_model(path)]
    if (folder / ADAPTERS).is_file():
        whole = "tiebreak merge-adapters --into-base" if (folder / JUDGE).is_file() else "peft's merge_and_unload"
        return f"; these are adapters over {_adapted(folder)}: merge them into it first ({whole}), and give the result"
    if inside:
        return f"; {inside[-1]} is one: give that"
    if (folder / "cursor.json").is_file() or folder.name == "checkpoints":
        run = next((path for path in folder.parents if (path / "recipe.yaml").is_file()), None)
        if run is not None and (run / "model").is_dir():
            return f"; this is a checkpoint of the run {run}: give {run / 'model'}"
        if run is not None:
            return f"; this is a checkpoint of the run {run}, which has no model yet: --resume auto ends it"
    return ""


def _number(path: Path) -> int:
    number = path.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (CONFIG, ADAPTERS, JUDGE))


def _adapted(folder: Path) -> str:
    try:
        return str(json.loads((folder / ADAPTERS).read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError):
        return "another base"


def find_record(named: str, base: str, record: BaseRecord | None) -> str:
    """Where the base of adapters lies now.

    Args:
        named: the base as it was when the judge was trained.
        base: as it is to be now: the same, or another place that the user names.
        record: which base it was; None in judges of earlier versions.

    Returns:
        `base`, or the place of the record where `base` is gone or is another one.

    Raises:
        UserError: the base is not there any more, or is another than the judge was trained over.
    """
    if base in FAMILIES:
        demo_folder(base)
    found = locate(base)
    if record is None:
        if base != named:
            log.info(f"warning: this judge keeps no hash of its base {named}: make sure that {base} is the same")
        if found is None and not is_hub_name(base):
            resolve_base(base)
            raise UserError(_gone(base, None))
        return base
    if found is not None and hash_base(found) == record.sha256:
        return base
    earlier = Path(record.path) if base == named and record.path else None
    if earlier is not None and (earlier / CONFIG).is_file() and hash_base(earlier) == record.sha256:
        log.info(f"base {base}: taken from {earlier}, where it was when the judge was trained")
        return str(earlier)
    if found is not None:
        raise UserError(
            f"{base} is another base than the one that this judge was trained over: its configuration or weights differ"
            f"{f' (that one lay in {record.path})' if record.path else ''}; --set model.base=FOLDER names the right one"
        )
    was_folder = record.path is not None and "snapshots" not in Path(record.path).parts  # those are of the hub's cache
    if not is_hub_name(base) or (base == named and was_folder):
        resolve_base(base)
        raise UserError(_gone(base, record.path))
    return base


def _gone(base: str, path: str | None) -> str:
    place = f" ({path})" if path else ""
    return (
        f"{base}{place}: the base of this judge's adapters is not there any more: give --set model.base=FOLDER, the "
        "folder where it lies now, or its hub name"
    )
