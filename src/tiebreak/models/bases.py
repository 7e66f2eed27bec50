"""Where a recipe's base model lies. Light to import."""

from pathlib import Path

from tiebreak.errors import UserError
from tiebreak.models.demo import FAMILIES, demo_folder
from tiebreak.models.pretrained.weights import WEIGHTS, default_folder


def resolve_base(base: str) -> str:
    """A demo model's folder, one of `tiebreak weights`, a local folder, or a hub name as it stands."""
    if base in FAMILIES:
        return str(demo_folder(base))
    if base in WEIGHTS and not Path(base).exists():
        if not (folder := default_folder(base)).is_dir():
            raise UserError(f"{base}: not fetched yet; `tiebreak weights {base}` does that")
        return str(folder)
    if Path(base).exists() and not (Path(base) / "config.json").is_file():
        raise UserError(f"{base}: the folder holds no config.json, so it is no model folder")
    return base
