"""A pipeline's recipe: teachers, folds and student, each by the recipe of its own training."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from tiebreak import bounds
from tiebreak.config import Section, load_recipe
from tiebreak.recipe_files import FOLDERS, find_recipe, read_recipe_file, validate

PIPELINES = FOLDERS["pipeline"]


class Trained(Section):
    """A model to train."""

    recipe: str
    """The recipe of its training: a shipped one or a YAML file."""
    set: list[str] = Field(default_factory=list)
    """Changes to it, each `key.path=value`."""
    model: str | None = None
    """A local model folder or hub name in place of the recipe's."""

    @property
    def words(self) -> list[str]:
        """Its part of a training command."""
        model = ["--model", self.model] if self.model else []
        return ["--recipe", self.recipe, *model, *(word for change in self.set for word in ("--set", change))]


class SampleTables(Section):
    """The embedded sample's tables, where no others are given."""

    rows: bounds.SampleRows = 3_000
    extra_rows: Annotated[bounds.Whole, bounds.within(0, 50_000_000, "the sample is written to a file")] = 0
    test_rows: bounds.SampleRows = 1_000
    profile: Literal["arena", "short"] = "short"
    seed: bounds.Seed = 100


class Pipeline(Section):
    """A pipeline: folds of each teacher, their out-of-fold predictions, a student, predictions of a test table."""

    description: str = ""
    """What the pipeline is, in whole sentences."""
    folds: bounds.Folds = 2
    """Folds of each teacher; a row is taught by those that did not see its prompt."""
    swap: bool = False
    """Predict in both answer orders."""
    teachers: dict[Annotated[str, Field(pattern=r"^\w[\w.-]{0,99}$")], Trained] = Field(min_length=1, max_length=100)
    """By name."""
    student: Trained
    """Distilled from all teachers."""
    beside: Annotated[bounds.Whole, Field(ge=1, le=64)] = 1
    """Stages that run at once on the cores of one machine without a GPU, each on its share of them."""
    from_labels: bool = False
    """Also train the student on the labels alone, to see what distillation gained."""
    sample: SampleTables = SampleTables()
    """Sizes of the embedded sample's tables, used when none are given."""

    @field_validator("teachers")
    @classmethod
    def _names_free(cls, teachers: dict[str, Trained]) -> dict[str, Trained]:
        if taken := teachers.keys() & {"student", "from-labels", "tables", "report", "teachers"}:
            raise ValueError(f"a teacher cannot be named {', '.join(sorted(taken))}: that folder has another use")
        return teachers


def load_pipeline(name_or_path: str) -> Pipeline:
    """A shipped pipeline by name or a YAML file by path, its models' recipes checked too.

    Raises:
        UserError: naming every unknown field, every value out of range, and the first faulty training recipe.
    """
    path = find_recipe(name_or_path, "pipeline")
    pipeline = validate(
        Pipeline, read_recipe_file(path, Pipeline), str(path) if path.parent != PIPELINES else path.stem
    )
    for trained in (*pipeline.teachers.values(), pipeline.student):
        load_recipe(trained.recipe, trained.set)
    return pipeline
