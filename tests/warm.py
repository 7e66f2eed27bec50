"""Processes of tests that start in milliseconds: forked from one that has done the imports, which take seconds.

`warm.Popen` is `subprocess.Popen`. A command that it knows, `python SCRIPT`, `python -m tiebreak` or either of them
under a plain `torchrun`, is not executed but forked from a server, one for each process of pytest, that has imported
what our commands import and has done nothing else: it has one thread, no model, no CUDA. Everything else is started
as ever.

What is forked is a child of pytest, in its process group and session, with the environment, the folder, the words and
the files that were asked for, the signal handlers of a new process, and the end of one: exit handlers run, threads are
waited for; only the modules are not taken apart. So signals, exit codes and kills are real. Two things differ from a
new process: modules are imported already (a test of imports needs a real process: `run(..., cold=True)`), and all of
them hash strings alike. The ranks of a `torchrun` are forked too, with its environment, but without its store and its
handling of signals: the launchers are tried for real in test_launch.py and test_training_run.py.

How a child of the server becomes one of pytest: its parent, which the server forked for this, has died, and pytest
has told the kernel that it adopts such children (PR_SET_CHILD_SUBREAPER), for as long as this takes.
"""

import atexit
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

FIXED = ("PYTHON", "OMP_", "MKL_", "CUDA_", "HF_", "LD_")
"""Variables that libraries read when they are imported: with others than the server's, a real process is started."""
TORCHRUN = ("--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint", "--master-port")
"""Options of torchrun, each with a value, with which ranks are forked."""
HEAVY = (
    "deepspeed bitsandbytes peft datasets torch.distributed.fsdp torch.distributed.checkpoint matplotlib.pyplot "
    "transformers.models.deberta_v2.modeling_deberta_v2 transformers.models.gemma2.modeling_gemma2 "
    "transformers.models.llama.modeling_llama transformers.models.qwen2.modeling_qwen2 sklearn.linear_model "
    "sklearn.feature_extraction.text"
).split()
PR_SET_CHILD_SUBREAPER = 36
ARROWS = "jemalloc_bg_thd"
"""The thread of pyarrow's memory allocator, which expects forks and starts another in a child."""
KILL_AFTER_S = 30.0


class Popen(subprocess.Popen):
    """A process, forked from the warm server where that is possible."""

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any,
                       env: Any, *rest: Any) -> None:  # fmt: skip
        """The method of `subprocess.Popen` that all others build upon; they see no difference."""
        shell, pipes, new_session = rest[2], rest[3:9], rest[14]
        environment = dict(os.environ if env is None else env)
        job = None if shell or executable or preexec_fn or pass_fds else understand(args, environment)
        if job is None:
            return super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest)
        job |= {"cwd": os.fspath(cwd or os.getcwd()), "environment": environment, "new_session": new_session}
        standard = [own if pipe == -1 else pipe for own, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
        self.pid = _server().fork(job, standard)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def understand(command: Any, environment: dict[str, str]) -> dict[str, Any] | None:
    """What to fork for a command; None for one that needs a real process."""
    if isinstance(command, str) or Path("/dev/nvidiactl").exists():
        return None
    words, ranks = [os.fspath(word) for word in command], 0
    if Path(words[0]).name == "torchrun":
        options = words[1:]
        words = [sys.executable]
        while options and options[0] in TORCHRUN:
            ranks = int(options[1]) if options[0] == TORCHRUN[0] else ranks
            options = options[2:]
        words += options
        if not ranks:
            return None
    module = words[1:3] == ["-m", "tiebreak"]
    if words[0] != sys.executable or len(words) < 2 or not (module or words[1].endswith(".py")):
        return None
    base = _server().environment
    names = [name for name in {**base, **environment} if name.startswith(FIXED)]
    if any(base.get(name) != environment.get(name) for name in names):
        return None
    return {"module": module, "argv": words[3:] if module else words[1:], "ranks": ranks}


class Server:
    """The warm process, seen from pytest."""

    def __init__(self) -> None:
        self.owner, self.environment = os.getpid(), dict(os.environ)
        self._socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        atexit.register(self.close)

    def fork(self, job: dict[str, Any], standard: list[int]) -> int:
        """The pid of a new child of this process that does the job; its input, output and errors are `standard`."""
        adopt(True)
        try:
            content = json.dumps(job).encode()
            socket.send_fds(self._socket, [len(content).to_bytes(8, "big")], standard)
            self._socket.sendall(content)
            if not (answer := self._socket.recv(8, socket.MSG_WAITALL)):
                raise RuntimeError("the warm process has ended; its error stands above")
            return int.from_bytes(answer, "big")
        finally:
            adopt(False)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


_running: list[Server] = []


def _server() -> Server:
    """The one of this process; a process that pytest forks has its own."""
    if not _running or _running[0].owner != os.getpid():
        _running[:] = [Server()]
    return _running[0]


def adopt(orphans: bool) -> None:
    """Whether children of this process's children become its own when their parents die."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(orphans), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def serve(requests: socket.socket) -> dict[str, Any]:
    """In the server: fork for each request; returns its job in the process that shall do it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest and the children
    import_all()
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    if len(threads) - threads.count(ARROWS) > 1:
        sys.exit(f"warm.py: no process can be forked from this one, as imports have started threads: {threads}")
    gc.collect()
    gc.freeze()  # else the first collection of each child copies all pages
    while True:
        length, files, _, _ = socket.recv_fds(requests, 8, 3)
        if not length:
            os._exit(0)
        job = json.loads(requests.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
        pid, told = os.pipe()
        if not (parent := os.fork()):
            if child := os.fork():
                os.write(told, child.to_bytes(8, "big"))
                os._exit(0)
            requests.close()
            os.close(pid)
            os.close(told)
            become(job, files)
            return job
        os.waitpid(parent, 0)
        requests.sendall(os.read(pid, 8))
        for file in (pid, told, *files):
            os.close(file)


def import_all() -> None:
    """What our commands import sooner or later."""
    os.environ |= {"DS_ACCELERATOR": "cpu", "DEEPSPEED_LOG_LEVEL": "warning", "OMP_WAIT_POLICY": "PASSIVE"}
    import tiebreak

    names = [module.name for module in pkgutil.walk_packages(tiebreak.__path__, "tiebreak.")]
    for name in (*names, *HEAVY):
        if not name.endswith("__main__"):
            importlib.import_module(name)


def become(job: dict[str, Any], files: list[int]) -> None:
    """In a new child: the surroundings of the process that was asked for."""
    import numpy as np

    signal.signal(signal.SIGINT, signal.default_int_handler)
    if job["new_session"]:
        os.setsid()
    for standard, file in enumerate(files):
        os.dup2(file, standard)
        os.close(file)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["environment"])
    np.random.seed()


def launch(ranks: int) -> None:
    """As torchrun: fork the ranks and wait for them; returns in a rank, with its environment set."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0, "GROUP_WORLD_SIZE": 1}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": False}
    common |= {"TORCHELASTIC_RESTART_COUNT": 0, "TORCHELASTIC_MAX_RESTARTS": 0, "TORCHELASTIC_RUN_ID": "none"}
    running: set[int] = set()
    for rank in range(ranks):
        if not (pid := os.fork()):
            os.environ.update(
                {name: str(value) for name, value in (common | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            )
            return
        running.add(pid)
    failed = 0.0
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG if failed else 0)
        running.discard(pid)
        if pid and status and not failed:
            failed = time.monotonic()
            print(f"warm.py: a rank ended with {os.waitstatus_to_exitcode(status)}", file=sys.stderr, flush=True)
            kill(running, signal.SIGTERM)
        elif failed and not pid:
            time.sleep(0.05)
            if time.monotonic() - failed > KILL_AFTER_S:
                kill(running, signal.SIGKILL)
    sys.exit(1 if failed else 0)


def kill(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:  # not waited for, so there
        os.kill(pid, number)


def execute(module: bool, argv: list[str]) -> None:
    """As the interpreter does `python SCRIPT WORDS` or `python -m tiebreak WORDS`."""
    script = importlib.util.find_spec("tiebreak.__main__").origin if module else argv.pop(0)  # type: ignore[union-attr]
    sys.path[0] = os.getcwd() if module else str(Path(script).absolute().parent)
    sys.argv = [script, *argv]
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=script, __builtins__=__builtins__)
    sys.modules["__main__"] = main
    exec(compile(Path(script).read_bytes(), script, "exec"), main.__dict__)


def end(code: object) -> None:
    """As the interpreter ends, but that it does not take half a second to take thousands of modules apart."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0) & 0xFF)


if __name__ == "__main__":
    task = serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        if task["ranks"]:
            launch(task["ranks"])
        execute(task["module"], task["argv"])
    except SystemExit as ended:
        end(ended.code)
    end(0)  # other exceptions: as the interpreter does
