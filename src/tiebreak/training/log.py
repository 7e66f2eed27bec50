"""Logs of a run: a line per step in log.jsonl, progress on the terminal, and the trackers that are asked for."""

import json
import logging
import math
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from tiebreak.config import Recipe
from tiebreak.files import write_atomically
from tiebreak.terminal import in_notebook
from tiebreak.training.trackers import Tracker, close_trackers, open_trackers, track

log = logging.getLogger(__name__)

LINE_EVERY_S = 10.0


class RunLog:
    """Rank 0's log, open as a context; on other ranks everything is silent.

    Args:
        folder: the run folder.
        recipe: of the run.
        steps: of the whole run.
        first: whether this is rank 0.
        done: steps before this process; later lines of log.jsonl are dropped.
        on_step: called with the record of every step.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        steps: int,
        first: bool,
        done: int = 0,
        on_step: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.first, self.steps, self._on_step = first, steps, on_step
        self._file: TextIO | None = None
        self._bar: Any = None
        self._trackers: dict[str, Tracker] = {}
        self._open = ExitStack()
        self._last_line = 0.0
        self._started: tuple[float, int] | None = None
        self._tokens, self._seconds = 0, 0.0  # since the last line
        if not first:
            return
        _forget_after(folder / "log.jsonl", done)
        self._file = open(folder / "log.jsonl", "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._trackers = open_trackers(folder, recipe, done)
        notebook = in_notebook()
        if notebook or sys.stderr.isatty():
            from tqdm import tqdm
            from tqdm.contrib.logging import logging_redirect_tqdm

            self._open.enter_context(logging_redirect_tqdm([logging.getLogger("tiebreak")]))  # lines above the bar
            self._bar = self._open.enter_context(
                tqdm(
                    total=steps,
                    initial=done,
                    unit="step",
                    dynamic_ncols=not notebook,
                    ncols=100 if notebook else None,
                    file=sys.stdout if notebook else sys.stderr,
                )
            )

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def step(self, record: dict[str, Any]) -> None:
        """Log a finished step: to the file always, to the terminal every 10 s."""
        if not self.first:
            return
        self._write(record)
        if self._on_step is not None:
            self._on_step(record)
        self._tokens += record["tokens"]
        self._seconds += record["seconds"]
        shown = f"loss {record['loss']:.4f}  {self._tokens / self._seconds:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.n = record["step"]
            self._bar.set_postfix_str(shown)
            return
        now = time.monotonic()
        if self._started is None:
            self._started = (now - record["seconds"], record["step"] - 1)
        if now - self._last_line >= LINE_EVERY_S or record["step"] == self.steps:
            self._last_line = now
            self._tokens, self._seconds = 0, 0.0
            began, before = self._started
            left = (now - began) / (record["step"] - before) * (self.steps - record["step"])
            log.info(f"step {record['step']}/{self.steps}  {shown}  {left:.0f} s left")

    def evaluation(self, record: dict[str, Any]) -> None:
        """Log an evaluation of the held-out rows."""
        self._write(record)
        log.info(
            f"step {record['step']}/{self.steps}  validation log loss {record['validation_log_loss']:.4f}  "
            f"accuracy {record['validation_accuracy']:.3f}" + ("  (best)" if record["best"] else "")
        )

    def close(self) -> None:
        """Close the progress bar, the file and the trackers."""
        self._open.close()
        if self._file is not None:
            self._file.close()
        close_trackers(self._trackers)

    def _write(self, record: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")
            track(self._trackers, record)


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run will do again."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        write_atomically(path, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))


def _step_of(line: str) -> float:
    """The step that a line is of; beyond all steps where it is damaged."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return math.inf
