"""Shared by all tests: one cache for the session, so that nothing of the user's is read or written."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm

ROOT = Path(__file__).parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
LONGEST = (
    "slurm/test_jobs.py engines/test_engines.py slurm/test_slurm_pipeline.py training/test_resume.py "
    "training/test_twins.py slurm/test_minislurm.py pipeline/test_pipeline.py "
    "training/test_stopping.py test_launch.py prediction/test_shared_folder.py training/test_distill.py "
    "training/test_training_run.py"
).split()
"""Files that take longest begin first, so that all workers end together. Slurm's jobs mostly wait: each of its files
stands before one that computes, for another worker."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order whole files; `make test` keeps a file on one worker and asks for the files in this order.

    Simulated GPUs, which need another build of torch, are left out unless `-m` names them.
    """
    if "simulated_gpu" not in config.getoption("markexpr"):
        left_out = [item for item in items if item.get_closest_marker("simulated_gpu")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)

    def turn(item: pytest.Item) -> int:
        name = item.path.relative_to(ROOT / "tests").as_posix()
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=turn)


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """$TIEBREAK_CACHE for this session and every process it starts."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("TIEBREAK_CACHE")
    os.environ["TIEBREAK_CACHE"] = str(folder)
    yield folder
    os.environ.pop("TIEBREAK_CACHE")
    if before is not None:
        os.environ["TIEBREAK_CACHE"] = before


@pytest.fixture(autouse=True)
def restored_state() -> Iterator[None]:
    """A command run in this process sets signal handlers, variables of its environment, and its output of messages."""
    environment = dict(os.environ)
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    logger = logging.getLogger("tiebreak")
    state = logger.level, logger.propagate, list(logger.handlers)
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    if dict(os.environ) != environment:
        os.environ.clear()
        os.environ.update(environment)
    logger.level, logger.propagate, logger.handlers[:] = *state[:2], state[2]
    logger.manager._clear_cache()


@pytest.fixture(scope="session")
def run():
    """Run a command of this environment from the repository's root, in a bounded time.

    Ours are forked from a warm process (warm.py), but with `cold=True`.
    """

    def run(*command: object, code: int | None = 0, timeout: float = 400, cold: bool = False, **environment: str):
        bin_folder = str(Path(sys.executable).parent)
        path = bin_folder + os.pathsep + os.environ["PATH"]
        process = (subprocess.Popen if cold else warm.Popen)(
            [str(part) for part in command],
            cwd=ROOT,
            env={**os.environ, "PATH": path, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # a launcher's ranks too
            stdout, stderr = process.communicate()
            pytest.fail(f"not done after {timeout} s: {command}\n{stdout[-4000:]}\n{stderr[-4000:]}")
        finally:
            if process.poll() is None:  # the test's own time has run out
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        done = subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
        if code is not None:
            assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done

    return run


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled sample table of 400 short rows."""
    from tiebreak.sample.generator import write_sample

    path = tmp_path_factory.mktemp("tables") / "sample.csv"
    write_sample(path, 400, seed=3, profile="short")
    return path


@pytest.fixture
def write_table(tmp_path: Path):
    """`handmade.write_csv` into the test's own folder, by file name."""
    from handmade import write_csv

    return lambda *rows, name="table.csv", **options: write_csv(tmp_path / name, *rows, **options)


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium. CI sets TIEBREAK_BROWSER=required, and then its absence is a failure."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
        if found is None and Path(own).is_file():
            found = own
        if found is None:
            missing = "no Chromium here: apt-get install chromium-headless-shell, or playwright install chromium"
            if os.environ.get("TIEBREAK_BROWSER") == "required":
                pytest.fail(missing)
            pytest.skip(missing)
        # Chromium refuses its sandbox to root; the page is our own and asks for nothing.
        instance = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield instance
        instance.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Each room's seconds; each job's on a cluster, as tests wait for jobs that run side by side; peaks of memory."""
    seconds: Counter[str] = Counter()
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if not isinstance(report, pytest.TestReport):
            continue
        seconds[report.location[0].rpartition("/")[0]] += report.duration
        for name, text in report.user_properties:
            if name in ("slurm", "peak") and report.when == "call":
                terminalreporter.write_line(f"{report.nodeid.rpartition('[')[2].rstrip(']'):16} {text}")
    terminalreporter.write_line("seconds: " + ", ".join(f"{room} {took:.0f}" for room, took in seconds.most_common()))
