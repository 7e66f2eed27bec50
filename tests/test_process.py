"""What a command sets before torch is imported, and how it imports."""

import gc
import io
import logging
import os
import signal
import subprocess
import sys

import pytest

from tiebreak.errors import UserError
from tiebreak.process import configure_logging, import_bitsandbytes, importing, without_bars

CODE = """
import os, sys
from tiebreak.process import DEFAULTS, prepare_process
prepare_process()
assert "torch" not in sys.modules
for name in DEFAULTS:
    print(name, os.environ[name])
"""


def test_defaults_are_set_without_torch_and_never_replace_what_the_user_has_set():
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "TOKENIZERS_"))}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=ours | {"OMP_WAIT_POLICY": "ACTIVE"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    settings = dict(line.split() for line in done.stdout.splitlines())
    assert settings["OMP_WAIT_POLICY"] == "ACTIVE" and settings["TOKENIZERS_PARALLELISM"] == "true"


def test_the_package_is_light():
    """`import tiebreak` and the parser of the command need nothing but the standard library, pydantic and YAML."""
    code = (
        "import sys, tiebreak, tiebreak.cli; print(*{'torch', 'transformers', 'numpy', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "", done.stderr


def frozen_by_an_import(monkeypatch) -> int:
    """Objects that are set aside for good by an import of one new module."""
    gc.unfreeze()
    assert gc.get_freeze_count() == 0
    try:
        with importing():
            assert not gc.isenabled()
            monkeypatch.setitem(sys.modules, "tiebreak.made_up", sys)
        assert gc.isenabled()
        return gc.get_freeze_count()
    finally:
        gc.unfreeze()
        monkeypatch.delitem(sys.modules, "tiebreak.made_up")


def test_a_command_sets_aside_what_it_has_imported_and_a_users_program_does_not(monkeypatch):
    monkeypatch.setattr(logging.getLogger("tiebreak"), "handlers", [])  # a command of an earlier test left its own
    assert frozen_by_an_import(monkeypatch) == 0
    configure_logging()
    assert frozen_by_an_import(monkeypatch) > 10_000


def test_the_collector_stays_as_the_user_has_set_it():
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def in_locale(code: str, **variables: str) -> subprocess.CompletedProcess:
    """Run code with an ASCII locale and without Python's UTF-8 mode."""
    ours = {name: value for name, value in os.environ.items() if name not in ("PYTHONUTF8", "PYTHONIOENCODING", "LANG")}
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return subprocess.run(
        [sys.executable, "-c", code], env=ours | ascii_only | variables, capture_output=True, text=True
    )


@pytest.mark.parametrize("variables", [{}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}])
def test_a_terminal_without_a_character_gets_it_escaped(variables):
    done = in_locale(
        "import logging, sys; from tiebreak.process import configure_logging;"
        "from tiebreak.terminal import prepare_streams; prepare_streams();"
        "configure_logging(); logging.getLogger('tiebreak').info('log \\u2013'); print('print \\u2013 \\udcff');"
        "print('err \\u2013', file=sys.stderr)",
        **variables,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert done.stdout.splitlines() == ["log \\u2013", "print \\u2013 \\udcff"] and "err \\u2013" in done.stderr


def test_every_command_prepares_its_streams(write_table):
    path = write_table({"prompt": '["é"]'}, name="t.csv")
    bad = write_table({"winner_model_a": "é"}, name="bad.csv")
    for table, code in ((path, 0), (bad, 2)):
        done = in_locale(f"from tiebreak.cli import main; raise SystemExit(main(['check', {str(table)!r}]))")
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr


def test_closed_streams_are_no_error():
    code = "from tiebreak.cli import main; raise SystemExit(main(['recipes']))"
    done = subprocess.run(f'exec {sys.executable} -c "{code}" <&- >&- 2>&-', shell=True, check=False)
    assert done.returncode == 0


def test_a_stream_whose_descriptor_was_exchanged_is_left_as_it_is(tmp_path):
    code = (
        "import os, sys; from tiebreak.terminal import prepare_streams; read, write = os.pipe(); os.dup2(write, 1);"
        "prepare_streams(); print('told', flush=True); assert os.read(read, 9) == b'told\\n'"
    )
    with open(tmp_path / "out", "w") as out:
        done = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_is_gone_does_not_end_the_command():
    code = (
        "import logging, os; from tiebreak.process import configure_logging; configure_logging();"
        "log = logging.getLogger('tiebreak'); read, write = os.pipe(); os.dup2(write, 1);"
        "os.close(write); os.close(read);"
        "[log.info(str(k)) for k in range(3)]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert done.stderr.count("nobody reads the output") == 1


def test_what_bitsandbytes_compiles_is_compiled_at_its_first_call(monkeypatch, tmp_path):
    import torch

    (tmp_path / "bitsandbytes.py").write_text(
        "import torch\n@torch.compile(dynamic=False)\ndef double(x):\n    return 2 * x\n"
    )
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled.append(options) or function)
    ours = torch.compile
    for name in [name for name in sys.modules if name.split(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    import_bitsandbytes()
    module = sys.modules.pop("bitsandbytes")
    assert compiled == [] and torch.compile is ours
    assert module.double(3) == 6 and module.double(4) == 8
    assert compiled == [{"dynamic": False}]


def test_what_bitsandbytes_lacks_is_no_news(monkeypatch, tmp_path, capsys):
    """On CPUs with bf16 instructions it warns, while it is imported, of a kernel that it would fetch from a hub."""
    lines = "import logging", "logging.getLogger('bitsandbytes.backends').warning('Failed to load')"
    (tmp_path / "bitsandbytes.py").write_text("\n".join(lines), encoding="utf-8")
    for name in [name for name in sys.modules if name.split(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    logger = logging.getLogger("bitsandbytes")
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(sys.stderr)])
    logger.setLevel(logging.NOTSET)
    import_bitsandbytes()
    assert sys.modules.pop("bitsandbytes").__file__ == str(tmp_path / "bitsandbytes.py")
    assert capsys.readouterr().err == ""


def test_secrets_are_taken_away_for_a_while_and_come_back(monkeypatch):
    from tiebreak.process import without_secrets

    for name in ("HF_TOKEN", "SLURM_JWT", "MY_PASSWORD", "WANDB_API_KEY", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "x")
    with without_secrets(but="WANDB_"):
        left = {name for name in os.environ if os.environ[name] == "x"}
    assert left >= {"WANDB_API_KEY", "SLURM_JOB_ID"} and not left & {"HF_TOKEN", "SLURM_JWT", "MY_PASSWORD"}
    assert os.environ["HF_TOKEN"] == os.environ["SLURM_JWT"] == "x"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_a_signal_while_the_interpreter_ends_changes_nothing(name):
    code = (
        f"import atexit, os, signal, sys; atexit.register(os.kill, os.getpid(), signal.{name})\n"
        "from tiebreak.__main__ import start\nsys.exit(start(['--version']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_progress_bars_are_hidden_for_a_while_only(monkeypatch):
    """A notebook that is started later shows its own."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with pytest.raises(UserError), without_bars():
        assert os.environ["TQDM_DISABLE"] == "1"
        raise UserError("nothing there")
    assert "TQDM_DISABLE" not in os.environ


@pytest.mark.processes
@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_stop_whose_exception_python_drops_comes_once_more(number):
    """It came while a callback ran, of an import's lock for instance: without more the command would go on."""
    program = f"""
import signal, time, weakref
from tiebreak.preemption import stop_at_once
stop_at_once()
class Thing: pass
thing = Thing()
kept = weakref.ref(thing, lambda _: signal.raise_signal(signal.{number}))
del thing
time.sleep(30)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=25, check=False)
    assert done.returncode == {"SIGTERM": 75, "SIGINT": -signal.SIGINT}[number], done.stderr
    assert "Exception ignored" not in done.stderr
