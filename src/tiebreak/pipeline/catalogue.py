"""`tiebreak recipes`: what ships with the package, each with its description."""

import textwrap
from collections.abc import Sequence

from tiebreak.config import dump_recipe, load_recipe, shipped
from tiebreak.pipeline.ablation import LADDERS, load_ablation
from tiebreak.pipeline.recipe import PIPELINES, load_pipeline
from tiebreak.preflight.memory import estimate
from tiebreak.recipe_files import FOLDERS, RECIPES


def list_recipes(columns: int = 120) -> str:
    """All shipped recipes, pipelines and ablations with their descriptions, wrapped to `columns`."""
    width = max(len(name) for folder in (RECIPES, PIPELINES, LADDERS) for name in shipped(folder)) + 2

    def entry(name: str, memory: str, description: str) -> str:
        start = f"{name:{width}}{memory:>5}  "
        return textwrap.fill(
            description, columns, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False
        )

    lines = [f"{'recipe':{width}}{'GiB':>5}  (memory of one GPU with bf16, estimated; demo models run on a CPU)"]
    for name in shipped():
        recipe = load_recipe(name)
        needs = estimate(recipe)
        lines.append(entry(name, "" if needs is None else f"{needs.gib:.0f}", recipe.description))
    lines += ["", "pipelines (tiebreak pipeline --recipe NAME)"]
    lines += [entry(name, "", load_pipeline(name).description) for name in shipped(PIPELINES)]
    lines += ["", "ablations (tiebreak ladder NAME)"]
    lines += [entry(name, "", load_ablation(name).description) for name in shipped(LADDERS)]
    return "\n".join(lines)


def show_recipe(name_or_path: str, changes: Sequence[str] = ()) -> str:
    """A recipe as YAML, every field resolved; of a pipeline's or an ablation's name, what its files hold.

    Args:
        name_or_path: a shipped name or a .yaml file of a recipe.
        changes: of the recipe, each `key.path=value`.

    Raises:
        UserError: no such name, or a faulty recipe or change.
    """
    files = [folder / f"{name_or_path}.yaml" for folder in FOLDERS.values()]
    if changes or files[0].is_file() or not any(file.is_file() for file in files):
        return dump_recipe(load_recipe(name_or_path, changes)).rstrip()
    there = [(kind, file) for kind, file in zip(FOLDERS, files, strict=True) if file.is_file()]
    return "\n".join(f"# {kind} {name_or_path}\n{file.read_text(encoding='utf-8').rstrip()}" for kind, file in there)
