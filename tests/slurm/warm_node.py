"""Python for the jobs of a test's cluster that starts in milliseconds: forked from a warm process (../warm.py).

A third of a small cluster's work is imports, done anew by every task. `warm_python` writes a program to be given to
batch files as $PYTHON. Slurm starts, tracks and signals that program as it would Python. It asks a server outside the
nodes, which has imported everything, for a child that does the work, and stands for it:

- the child lives in the namespaces of the node (process ids, mounts, network, host name), so that it dies with its
  node, is cut off with it, and knows itself by its name;
- a signal that Slurm sends goes on to the child; when the program is killed, so is the child;
- the program ends as the child does, by its exit code or its signal.

What Slurm cannot do to the child by way of the program is to stop it (SIGSTOP): tests of that take a real Python.
Words other than a script or `-m tiebreak` are given to a real Python too.
"""

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAMESPACES = ("net", "uts", "ipc", "pid", "mnt")
FORWARDED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PROGRAM = """#!{python} -S
import json, os, signal, socket, sys
words = sys.argv[1:]
try:
    if not (words[:1] and words[0].endswith(".py") or words[:2] == ["-m", "tiebreak"]):
        raise OSError
    server = socket.socket(socket.AF_UNIX)
    server.connect({address!r})
except OSError:
    os.execv({python!r}, [{python!r}, *words])
for number in {forwarded}:
    signal.signal(number, lambda number, frame: server.send(bytes([number])))
module = words[0] == "-m"
job = dict(module=module, argv=words[2:] if module else words, ranks=0, cwd=os.getcwd(), environment=dict(os.environ))
content = json.dumps(job | dict(new_session=True, python=__file__)).encode()
socket.send_fds(server, [len(content).to_bytes(8, "big")], [0, 1, 2])
server.sendall(content)
answer = server.recv(8)
code = int.from_bytes(answer, "big", signed=True) if answer else 1
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@contextmanager
def warm_python(folder: Path) -> Iterator[Path]:
    """The program, for as long as its server runs."""
    with tempfile.TemporaryDirectory(prefix="warm-") as short:  # addresses have at most 107 bytes
        address, program = f"{short}/socket", folder / "warm-python"
        program.write_text(PROGRAM.format(python=sys.executable, address=address, forwarded=[*map(int, FORWARDED)]))
        program.chmod(0o755)
        server = subprocess.Popen([sys.executable, __file__, address], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        try:
            assert server.stdout is not None and server.stdout.readline() == b"ready\n"
            yield program
        finally:
            server.kill()
            server.wait()


def serve(address: str) -> dict:
    """Fork a helper for each program that asks; returns its job in the process that shall do it."""
    warm.import_all()
    gc.collect()
    gc.freeze()  # else the first collection of each child copies all pages
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for helpers
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        with connection:
            if os.fork():
                continue
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return help_one(connection)


def help_one(connection: socket.socket) -> dict:
    """Have a child do a program's job where the program is; ends with it, and returns in the child alone."""
    length, files, _, _ = socket.recv_fds(connection, 8, 3)
    if len(files) < 3:
        os._exit(1)
    job = json.loads(connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
    program = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    cores = os.sched_getaffinity(program)
    enter_namespaces(program)
    if not (child := os.fork()):
        connection.close()
        os.sched_setaffinity(0, cores)
        warm.become(job, files)
        sys.executable = job["python"]  # a stage that becomes its command is warm too
        return job
    for file in files:
        os.close(file)
    ended = os.pidfd_open(child)
    while ended not in (ready := select.select([connection, ended], [], [])[0]):
        numbers = connection.recv(64) if connection in ready else b""
        for number in numbers or [signal.SIGKILL]:  # nothing to read: the program is gone
            os.kill(child, number)
        if not numbers:
            break
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):  # the program is gone
        connection.sendall(code.to_bytes(8, "big", signed=True))
    os._exit(0)


def enter_namespaces(pid: int) -> None:
    """Take this process, and its children's process ids, to where another process is."""
    libc = ctypes.CDLL(None, use_errno=True)
    files = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in NAMESPACES]
    for name, file in zip(NAMESPACES, files, strict=True):
        if os.fstat(file).st_ino != os.stat(f"/proc/self/ns/{name}").st_ino and libc.setns(file, 0):
            raise OSError(ctypes.get_errno(), f"setns {name}")
        os.close(file)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    import warm

    task = serve(sys.argv[1])
    try:
        warm.execute(task["module"], task["argv"])
    except SystemExit as stopped:
        warm.end(stopped.code)
    warm.end(0)
