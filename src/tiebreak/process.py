"""The process that a command runs in: environment variables, thread settings and log output, set in one place."""

import contextlib
import gc
import importlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TextIO

from tiebreak.errors import UserError
from tiebreak.terminal import complain, silence, visible

DEFAULTS = {
    # Large tensors on a CPU in huge pages: without, a third of the time of long rows goes into page faults.
    "THP_MEM_ALLOC_ENABLE": "1",
    # Packed batches are of a new size at every step: without, a GPU's free memory falls into pieces.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    # Waiting threads sleep: spinning ones made a demo 15 times slower on two busy cores.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DEEPSPEED_LOG_LEVEL": "warning",
}
"""Environment variables that a command needs; what the user has set stays."""


SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSW", "CREDENTIAL", "AUTH", "JWT")
"""In the names of variables whose values are nobody's business."""


def is_secret(name: str) -> bool:
    """Whether an environment variable of this name holds what no file and no terminal may show."""
    return any(word in name.upper() for word in SECRET_WORDS)


@contextmanager
def without_secrets(but: str) -> Iterator[None]:
    """Take variables that hold secrets away for a while: wandb, for one, keeps all of Slurm's.

    Args:
        but: what the names of those that stay begin with.
    """
    taken = {name: value for name, value in os.environ.items() if is_secret(name) and not name.startswith(but)}
    for name in taken:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(taken)


@contextmanager
def without_bars() -> Iterator[None]:
    """Let libraries show no progress bars meanwhile where nobody looks; processes of later times show theirs."""
    hidden = not sys.stderr.isatty() and "TQDM_DISABLE" not in os.environ
    if hidden:
        os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if hidden:
            os.environ.pop("TQDM_DISABLE", None)


def check_interpreter() -> None:
    """Refuse a Python without docstrings, of which transformers makes its classes, a folder that is gone, and a number
    of threads that is none, in whose place a thread per core would start in every process.

    Raises:
        UserError: it was started so, or there.
    """
    try:
        os.getcwd()
    except OSError:
        raise UserError("the working folder is gone: change to one that is there (cd)") from None
    if sys.flags.optimize > 1:
        raise UserError("PYTHONOPTIMIZE=2 (python -OO) takes away what transformers needs: unset it, or set it to 1")
    threads = os.environ.get("OMP_NUM_THREADS", "").strip()
    if threads and not re.fullmatch(r"[1-9]\d*(\s*,\s*[1-9]\d*)*", threads):
        raise UserError(f"OMP_NUM_THREADS={threads}: not a number of threads: unset it, or set it to 1 or more")


def prepare_process() -> None:
    """Set environment variables and log filters that must be in place before torch is imported.

    Nothing here changes a result, and nothing that is set already is changed, so a notebook may call it too.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    quieten_bitsandbytes()
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\..*")
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm, in a notebook: bars here are text
    warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from", category=UserWarning)  # in a model's name
    warnings.filterwarnings("ignore", message=r".*torch\.distributed\.\w+. is deprecated", category=FutureWarning)


@contextmanager
def importing() -> Iterator[None]:
    """Hold back the garbage collector while modules are imported, which make a million objects that stay.

    Looking through them again and again takes a quarter of the time of an import. Then they count as old. A command
    sets them aside for good, so that later collections and the end of the process pass them over; not so a program of
    the user's, where that would keep the user's own garbage too.
    """
    enabled, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
        if len(sys.modules) > known and (_is_command() or not gc.get_freeze_count()):
            gc.freeze()
            if not _is_command():
                gc.unfreeze()  # into the oldest generation, where a collection looks last
    finally:
        if enabled:
            gc.enable()


def use_cpu_in_deepspeed() -> None:
    """Tell DeepSpeed, which transformers imports, that there is no GPU: it would warn while it looks for one."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")


def share_cores(processes: int) -> None:
    """Set torch's threads to this process's share of the cores, unless OMP_NUM_THREADS says how many.

    Two ranks that each start a thread per core spend their time waiting for one another: ten times slower was measured
    on two cores.

    Args:
        processes: how many of this job's processes run on this machine.
    """
    import torch

    if not torch.cuda.is_available():
        use_cpu_in_deepspeed()
    if not os.environ.get("OMP_NUM_THREADS", "").strip():
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def quieten_bitsandbytes() -> None:
    """Silence its warnings of every optional kernel that it lacks, and would fetch from a hub."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def import_bitsandbytes() -> None:
    """Import bitsandbytes without TorchInductor, a tenth of a short run's time, which its decorators would load.

    What they decorate, quantised optimizers and the kernels of devices that have no own, is compiled at its first call.
    """
    import torch

    quieten_bitsandbytes()
    compile_now = torch.compile

    def compile_later(function: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
        if function is None:
            return partial(compile_later, **options)
        compiled = cache(lambda: compile_now(function, **options))
        return lambda *args, **keywords: compiled()(*args, **keywords)

    torch.compile = compile_later  # type: ignore[assignment]
    try:
        with contextlib.suppress(ImportError):  # who needs it says so
            importlib.import_module("bitsandbytes")
    finally:
        torch.compile = compile_now


@contextmanager
def saving_unwrapped() -> Iterator[None]:
    """Keep transformers from unwrapping the models that it saves, which are not wrapped.

    To see whether they are, it would import DeepSpeed and FSDP: a tenth of a short run's time.
    """
    from transformers import modeling_utils

    unwrap = modeling_utils.unwrap_model
    modeling_utils.unwrap_model = lambda model, recursive=False: model
    try:
        yield
    finally:
        modeling_utils.unwrap_model = unwrap


def quieten_transformers() -> None:
    """Silence transformers' progress bars and expected warnings, such as that of a new head. Imports transformers."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


if TYPE_CHECKING:
    TextHandler = logging.StreamHandler[TextIO]
else:
    TextHandler = logging.StreamHandler  # which Python 3.10 does not subscript


class _StdoutHandler(TextHandler):
    """Writes to what `sys.stdout` is at the moment of writing, which tests and notebooks replace."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    @property
    def stream(self) -> TextIO:
        return sys.stdout

    @stream.setter
    def stream(self, value: TextIO) -> None:
        pass

    def format(self, record: logging.LogRecord) -> str:
        """The message, safe to show."""
        return visible(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on without messages where nobody can read them: `train | head -1` still leaves a model."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        silence(self.stream)
        reason = "nobody reads the output any more" if isinstance(error, BrokenPipeError) else f"output: {error}"
        complain(f"tiebreak: {reason}; the command goes on without messages")


def _is_command() -> bool:
    """Whether `configure_logging` was called: this process runs a command, not a program of the user's."""
    return any(isinstance(handler, _StdoutHandler) for handler in logging.getLogger("tiebreak").handlers)


def configure_logging(first: bool = True) -> None:
    """Send the package's messages to stdout as plain lines; ranks other than the first say warnings only.

    Commands call this. The library itself never does, so a program or a notebook decides what it shows.
    """
    logger = logging.getLogger("tiebreak")
    if not _is_command():
        handler = _StdoutHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.INFO if first else logging.WARNING)
