"""The Python front door: a judge in memory, and training from objects or files.

Functions that take and leave files (`predict`, `merge`, `write_report`, ...) live in the rooms below;
`tiebreak/__init__.py` offers all of them. The command line calls the same functions.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tiebreak.config import Recipe, cache_folder, load_recipe, make_recipe
from tiebreak.data.encode import encode_pairs
from tiebreak.errors import UserError
from tiebreak.files import write_atomically
from tiebreak.labels import CLASSES
from tiebreak.process import importing, prepare_process
from tiebreak.sample.generator import sample_file
from tiebreak.storage import make_folder
from tiebreak.tables.pairs import as_labelled_pairs, as_pairs
from tiebreak.tables.rows import Pair
from tiebreak.tables.table import OnBadRow
from tiebreak.verdict import RankedAnswer, Text, Verdict

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tiebreak.evaluation.holdout import SplitBy
    from tiebreak.models.folder import ModelManifest
    from tiebreak.models.preference import PreferenceModel
    from tiebreak.prediction.swap import SwapPolicy
    from tiebreak.training.finish import Run


class Judge:
    """A trained judge in memory.

    Example:
        >>> import tiebreak
        >>> judge = tiebreak.Judge.load("runs/demo/student")  # doctest: +SKIP
        >>> judge.compare("What is 2+2?", "4", "5").winner  # doctest: +SKIP
        'a'
    """

    def __init__(
        self,
        model: "PreferenceModel",
        tokenizer: "PreTrainedTokenizerBase",
        manifest: "ModelManifest",
        recipe: Recipe,
        folder: Path,
    ) -> None:
        self.model, self.tokenizer, self.manifest = model, tokenizer, manifest
        self.recipe, self.folder = recipe, folder

    @classmethod
    def load(
        cls, folder: str | Path, device: str = "auto", precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    ) -> "Judge":
        """Load a judge from its model folder or the run folder above it.

        Args:
            folder: as `tiebreak train`, `distill` or `pipeline` left it.
            device: `auto` is the GPU where there is one; else a name that torch knows, such as `cpu` or `cuda:1`.
            precision: of the forward passes; `auto` is what the judge's recipe says. Rows that fp16 cannot hold are
                computed again in fp32.

        Raises:
            UserError: not a tiebreak model folder, or one that is not whole.
        """
        prepare_process()
        with importing():
            import torch

            from tiebreak.models.folder import find_model_folder, judge_recipe
            from tiebreak.models.loading import choose_precision, load_model
            from tiebreak.models.tokenizer import load_saved_tokenizer

        path, manifest = find_model_folder(folder)
        recipe = judge_recipe(manifest)
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        dtype = choose_precision(recipe.train.precision if precision == "auto" else precision, place, predicting=True)
        tokenizer = load_saved_tokenizer(path)
        return cls(load_model(path, recipe, place, dtype), tokenizer, manifest, recipe, path)

    def predict(self, pairs: Iterable[object], *, swap: "bool | SwapPolicy" = False) -> np.ndarray:
        """Predict many comparisons in memory: no file is written, nothing is cached.

        Args:
            pairs: dicts with `prompt`, `response_a` and `response_b`, tuples (prompt, a, b), a pandas DataFrame or a
                `datasets.Dataset` with these columns, or a table as `read_table` returns it. A text is a string, or a
                list of strings with one entry per turn; None is an empty text.
            swap: look at both answer orders and average them, as `compare` does by default and `tiebreak predict` with
                `--swap`; a `SwapPolicy` does so for close rows only. False is the order given alone.

        Returns:
            Probabilities (n, 3) float64 of A, B and a tie, in the order of `pairs`: those of `tiebreak predict`, which
            writes nine decimals of them. `swap=True` gives its predictions.csv with `--swap`, and False the
            predictions_ab.csv beside it, which is predictions.csv without `--swap`.

        Raises:
            UserError: a pair that cannot be read; names its position and what is wrong.

        Example:
            >>> judge.predict([("What is 2+2?", "4", "5")]).shape
            (1, 3)
        """
        from tiebreak.prediction.compute import predict_tokens

        rows = as_pairs(pairs)
        if not rows:
            return np.empty((0, len(CLASSES)))
        template = self.manifest.text_template(self.recipe)
        tokens = encode_pairs(rows, self.tokenizer, template, self.recipe.data)
        per_block, prior = self.recipe.predict.tokens_per_block, self.manifest.baselines["prior"]
        return predict_tokens(self.model, tokens, swap, tokens_per_block=per_block, prior=prior).probabilities

    def compare(self, prompt: Text, a: Text, b: Text, *, swap: bool = True) -> Verdict:
        """Compare two answers to a prompt.

        Args:
            prompt: a string, or a list of strings with one entry per turn; so are the answers. None is an empty text,
                as a null turn in a table is.
            a: the first answer.
            b: the second answer.
            swap: look at both answer orders and average them, so that the position of an answer does not count. This
                is the default here, not of `predict`. The winner of two identical
                answers is then `tie`.

        Example:
            >>> judge.compare("What is 2+2?", "4", "5").winner in ("a", "b", "tie")
            True
        """
        return Verdict(*self.predict([(prompt, a, b)], swap=swap)[0].tolist())

    def rank(self, prompt: Text, answers: Sequence[Text]) -> list[RankedAnswer]:
        """Rank several answers to a prompt, the best first, by comparing each with every other in both orders.

        Answers of the same score keep their order.

        Args:
            prompt: a string, or a list of strings with one entry per turn; so is each answer.
            answers: k of them; k (k - 1) forward passes of a row.

        Raises:
            UserError: fewer than two answers.

        Example:
            >>> [place.index for place in judge.rank("What is 2+2?", ["4", "5", "four"])]  # doctest: +SKIP
            [0, 2, 1]
        """
        if isinstance(answers, str) or len(answers) < 2:
            raise UserError("rank: give a list of at least two answers")
        games = list(combinations(range(len(answers)), 2))
        results = self.predict([(prompt, answers[i], answers[j]) for i, j in games], swap=True)
        scores = np.zeros(len(answers))
        for (i, j), (a, b, tie) in zip(games, results, strict=True):
            scores[i] += a + tie / 2
            scores[j] += b + tie / 2
        scores /= len(answers) - 1
        order = np.argsort(-scores, kind="stable")
        return [RankedAnswer(int(i), answers[i], float(scores[i])) for i in order]

    def __repr__(self) -> str:
        device = next(self.model.parameters()).device
        return f"Judge({str(self.folder)!r}, base={self.recipe.model.base!r}, device={str(device)!r})"


Tables = str | Path | Sequence[str | Path]
OnStep = Callable[[dict[str, Any]], None]


def train(
    recipe: str | Path | Recipe = "demo-gemma2",
    *,
    data: Tables | Iterable[object] = (),
    valid: Tables | Literal["none"] | Iterable[object] | None = None,
    fold: tuple[int, int] | None = None,
    split: "SplitBy" = "prompts",
    out: str | Path | None = None,
    base: str | None = None,
    teachers: Sequence[str | Path] = (),
    extra: Tables | Iterable[object] = (),
    allow_in_sample: bool = False,
    engine: str = "auto",
    ds: str | Path | None = None,
    resume: bool = False,
    on_bad_row: OnBadRow = "fail",
    on_step: OnStep | None = None,
    **settings: object,
) -> "Run":
    """Train a judge, as `tiebreak train` and `tiebreak distill` do.

    Under a launcher every rank calls this; a job of several ranks ends its processes instead of returning.

    Args:
        recipe: a shipped recipe's name, a .yaml file, or a `Recipe`.
        data: labelled tables, or labelled comparisons in memory as `Judge.predict` takes them; the embedded sample if
            nothing is given.
        valid: a table or comparisons to validate on; `"none"` trains on every row.
        fold: (k, n) validates on fold k of n. Without `valid` and `fold` a tenth of the prompts is held out.
        split: what a fold is: `prompts`; `models` holds out whole model families, `time` the rows after those trained
            on, which must be in the order of time. Then `fold` is (0, 5) or (9, 10) by default.
        out: the run folder; a new one in runs/ by default.
        base: a local model folder or hub name in place of the recipe's.
        teachers: predictions to distil from: folders, `NAME=FOLDER,FOLDER` for folds, `bayes` or `baseline`.
        extra: tables or comparisons that are learnt without labels, from the teachers alone.
        allow_in_sample: accept teachers that were trained on these rows.
        engine: `auto`, `ddp`, `fsdp` or `deepspeed`.
        ds: DeepSpeed's configuration file.
        resume: go on from the newest whole checkpoint in `out`.
        on_bad_row: `fail` or `skip` rows that cannot be read.
        on_step: called with the record of every optimizer step, as log.jsonl has it.
        **settings: fields of the recipe to change: `**{"train.lr": 1e-4}`.

    Raises:
        UserError: a mistake that the caller can correct, in one message.
        Stopped: a SystemExit with code 75: stopped by a signal, a checkpoint is saved; call again with `resume`.

    Example:
        >>> run = train("demo-deberta", data=rows, out=folder / "run", **{"train.max_steps": 2})
        >>> run.steps, run.model.name
        (2, 'model')
    """
    prepare_process()
    from tiebreak.preflight.checks import enabled
    from tiebreak.preflight.early import refuse_training

    changes = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    if isinstance(recipe, Recipe):
        recipe = make_recipe(recipe.model_dump(mode="json"), changes, base)
    else:
        recipe = load_recipe(str(recipe), changes, base)
    held_out: Path | Literal["none"] | None = None
    if valid is not None:
        held_out = "none" if isinstance(valid, str) and valid == "none" else _one_file(valid)
    files, more, ds = _files(data, as_labelled_pairs), _files(extra), None if ds is None else Path(ds)
    if split != "prompts" and more:
        raise UserError("--extra and --split: extra tables may hold what the split holds out; give one of them")
    if split != "prompts":
        files, held_out, fold = _split(files or [sample_file(recipe.data)], split, fold, valid, on_bad_row)
    if not enabled():  # the preflight says all that is wrong, and on which node
        tables = [*files, *more, *([held_out] if isinstance(held_out, Path) and fold is None else [])]
        refuse_training(recipe, data=tables, teachers=list(map(str, teachers)), engine=engine, ds=ds)
    with importing():
        from tiebreak.training.run import train as run_training

    return run_training(
        recipe,
        data=files,
        valid=held_out,
        fold=fold,
        out=None if out is None else Path(out),
        teachers=[str(teacher) for teacher in teachers],
        extra=more,
        allow_in_sample=allow_in_sample,
        engine=engine,
        ds=ds,
        resume=resume,
        on_bad_row=on_bad_row,
        on_step=on_step,
        on_done=_describe_run,
    )


def distill(recipe: str | Path | Recipe = "distill-demo", *, teachers: Sequence[str | Path], **arguments: Any) -> "Run":
    """Train a student from teachers' predictions: `train` with another default recipe and teachers required.

    Args:
        recipe: a shipped recipe's name, a .yaml file, or a `Recipe`.
        teachers: predictions to distil from: folders, `NAME=FOLDER,FOLDER` for folds, `bayes` or `baseline`.
        **arguments: all others of `train`.
    """
    if not teachers:
        raise UserError("distill needs teachers: folders of predictions, or `bayes` on the embedded sample")
    return train(recipe, teachers=teachers, **arguments)


def _describe_run(run: "Run") -> None:
    """Add the model card and the training curves to a finished run."""
    from tiebreak.report.card import leave_card
    from tiebreak.report.curves import leave_curves

    leave_card(run.folder)
    leave_curves(run.folder)


def _files(data: Tables | Iterable[object], read: Callable[[Iterable[object]], list[Pair]] = as_pairs) -> list[Path]:
    """Tables as paths; comparisons in memory become a file of the cache, named by its content."""
    if isinstance(data, (str, Path)):
        return [Path(data)]
    if isinstance(data, Sequence) and all(isinstance(item, (str, Path)) for item in data):
        return [Path(str(item)) for item in data]
    lines = "".join(json.dumps(_record(pair), ensure_ascii=False) + "\n" for pair in read(data))
    path = cache_folder() / "tables" / f"{hashlib.sha256(lines.encode()).hexdigest()[:32]}.jsonl"
    if not path.is_file():
        make_folder(path.parent)
        write_atomically(path, lines)
    return [path]


def _record(pair: Pair) -> dict[str, object]:
    """A row of a JSON Lines table."""
    record = {name: value for name, value in asdict(pair).items() if name not in ("file", "row", "unreadable", "label")}
    if pair.label is not None:
        record |= {name: int(index == pair.label) for index, name in enumerate(CLASSES)}
    return {name: value for name, value in record.items() if value is not None}


def _split(
    files: list[Path], by: "SplitBy", fold: tuple[int, int] | None, valid: object, on_bad_row: OnBadRow
) -> tuple[list[Path], Path, None]:
    """The tables of a split, in the cache: to train on, and to validate on; no fold is left to take."""
    from tiebreak.evaluation.split_tables import default_fold, split_key, split_tables
    from tiebreak.preflight.early import refuse_absent

    if valid is not None:
        raise UserError("--valid and --split both say what to validate on: give one of them")
    refuse_absent(files)
    fold = fold or default_fold(by)
    folder = cache_folder() / "splits" / split_key(files, by, fold, 0, on_bad_row)[:32]
    tables = split_tables(files, folder, by, fold, on_bad_row=on_bad_row)
    log.info(str(tables.manifest))
    return [tables.train], tables.held_out, None


def _one_file(data: Tables | Iterable[object]) -> Path:
    files = _files(data, as_labelled_pairs)
    if len(files) != 1:
        raise UserError(f"valid: give one table ({len(files)} are given)")
    return files[0]
