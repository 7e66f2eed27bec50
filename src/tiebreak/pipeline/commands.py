"""The command line of every stage, built in one place: words after `tiebreak`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tiebreak.pipeline.recipe import Trained


@dataclass(frozen=True)
class StageCommands:
    """Builds the commands of a chain's stages, which share tables and engine.

    Attributes:
        data: labelled tables.
        on_bad_row: `fail` or `skip`.
        engine: auto, ddp, fsdp or deepspeed.
        ds: DeepSpeed's configuration, in place of `engine`.
    """

    data: tuple[Path, ...]
    on_bad_row: str = "fail"
    engine: str = "auto"
    ds: Path | None = None

    def train(
        self,
        trained: Trained,
        out: Path,
        fold: str = "",
        teachers: Sequence[str] = (),
        extra: Sequence[Path] = (),
    ) -> list[str]:
        """Train a model in the run folder `out`, or go on with it; `fold` is K/N, and teachers make it a student, which
        also learns the rows of the `extra` tables from them."""
        start = ["distill", "--teachers", *teachers] if teachers else ["train"]
        engine = ["--ds", as_word(self.ds)] if self.ds else ["--engine", self.engine]
        words = [*start, *trained.words, *engine, *self._rows(), *_option("--fold", fold), *_paths("--extra", extra)]
        return [*words, "--out", as_word(out), "--resume", "auto"]

    def predict_fold(self, run: Path, fold: str, out: Path, swap: bool = False) -> list[str]:
        """Predict the rows that the run's training held out."""
        words = ["predict", "--model", as_word(run), *self._rows(), "--fold", fold]
        return [*words, *_swap(swap), "--out", as_word(out)]

    def _rows(self) -> list[str]:
        return ["--data", *map(as_word, self.data), "--on-bad-row", self.on_bad_row]


def as_word(path: Path) -> str:
    """A path as a word of a command, which is no option whatever its name."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def predict_tables(models: Sequence[Path], tables: Sequence[Path], out: Path, swap: bool) -> list[str]:
    """Predict whole tables by the average of the models."""
    return ["predict", *_paths("--model", models), *_paths("--data", tables), *_swap(swap), "--out", as_word(out)]


def _swap(swap: bool) -> list[str]:
    return ["--swap"] if swap else []


def _option(name: str, value: str) -> list[str]:
    return [name, value] if value else []


def _paths(name: str, paths: Sequence[Path]) -> list[str]:
    return [name, *map(as_word, paths)] if paths else []
