"""Inject faults into small runs, and see what the user is told and whether the same command ends as if undisturbed.

    python tests/hostile/faults.py                   # all, some minutes
    python tests/hostile/faults.py --only disk       # those with `disk` in their name
    python tests/hostile/faults.py --short           # a sample of each kind

Prints one line for each fault that went wrong, and the tally. Exit code 0 only where every fault was told or survived,
and no result was lost.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import fault_harness
from fault_harness import Fault, Verdict, judge, warm

SHORT_COMMANDS = ("train", "predict", "check", "baseline")
SHORT = (
    "disk full/train", "read-only/predict", "ENOENT of the root/baseline", "EDQUOT while writing/baseline",
    "output over input/check", "output over another/baseline", "path, link loop/check", "path, endless/predict",
    "cache, read-only/predict", "ranks, RANK beyond/predict", "environment, no HOME/check", "encoding, ascii/baseline",
    "closed streams (0, 1, 2)/predict", "stdout full/check", "broken pipe/train", "limit, files of 1 kB/predict",
    "SIGTERM/0 process/train", "SIGKILL/1/predict", "lease of the future/part, another machine/predict",
    "clock stands still/predict", "damaged, half/run/log.jsonl/train", "token cache, half/state.json/predict",
    "stale/15 <lambda>/predict", "leftovers, checkpoints_alone/train", "terminal, ids/check", "secrets/train",
)  # fmt: skip
"""A fault of each kind, of the commands above."""


def all_faults(home: Path) -> list[Fault]:
    import faults_of_clocks
    import faults_of_disks
    import faults_of_folders
    import faults_of_places
    import faults_of_processes
    import faults_of_surroundings
    import faults_of_text

    modules = (faults_of_places, faults_of_surroundings, faults_of_text, faults_of_processes, faults_of_clocks)
    found = [fault for module in modules for fault in module.faults()] + faults_of_folders.faults(home)
    return found + faults_of_disks.faults()


def tally(verdicts: list[Verdict]) -> str:
    count = lambda name: sum(getattr(verdict, name) for verdict in verdicts)  # noqa: E731
    return (
        f"injected {len(verdicts)}, told {count('told')}, survived {count('survived')}, "
        f"equal results {count('equal')}, lost {count('lost')}, tracebacks {count('traceback')}, "
        f"hangs {count('hang')}, "
        f"otherwise wrong {sum(bool(v.wrong) and not (v.lost or v.traceback or v.hang) for v in verdicts)}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="NAME", help="a pattern in faults' names")
    parser.add_argument("--short", action="store_true", help="a sample of each kind")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of those, only each N-th")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="begin with the K-th, counted from 0")
    parser.add_argument(
        "--patience", type=float, default=1.0, metavar="N", help="time limits times N, on a busy machine"
    )
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--show", action="store_true", help="what each command printed")
    parser.add_argument("--home", type=Path, help="keep all folders here; inputs that are there are used again")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warm.import_all()
    import fault_commands

    fault_harness.patience = options.patience
    home = (options.home or Path(tempfile.mkdtemp(prefix="faults-"))).resolve()
    calm = home / "calm"
    if not calm.is_dir():
        fault_commands.build(home, SHORT_COMMANDS if options.short else fault_commands.COMMANDS)
    chosen = [fault for fault in all_faults(home) if re.search(options.only, fault.name)]
    if options.short:
        chosen = [fault for fault in chosen if fault.name in SHORT]
        assert len(chosen) == len(SHORT), set(SHORT) - {fault.name for fault in chosen}
    left_out = [fault for fault in chosen if not fault.needs()]
    if left_out:
        print(f"NOT TRIED, as this user may not mount or limit disks: {len(left_out)}, such as {left_out[0].name}")
    chosen = [fault for fault in chosen if fault not in left_out]
    chosen = chosen[options.first :: options.every]
    if options.list:
        print("\n".join(fault.name for fault in chosen))
        return 0
    verdicts, began = [], time.monotonic()
    for fault in chosen:
        place = fault_commands.place_for(fault, home)
        words, results = fault_commands.COMMANDS[fault.command]
        verdict = judge(fault, place, words, calm, results)
        verdicts.append(verdict)
        if verdict.wrong or options.show:
            print(f"{'ok   ' if verdict.fine else 'WRONG'} {fault.name}: {'; '.join(verdict.wrong)}", flush=True)
            for result in verdict.results:
                tail = result.text if options.show else result.text[-700:]
                print(
                    "".join(f"        {line}\n" for line in [f"[{result.code}]", *tail.splitlines()[-12:]]), flush=True
                )
        if os.path.ismount(disk := place / "disk"):
            subprocess.run(["umount", "-l", str(disk)], check=False)
        if verdict.fine:
            shutil.rmtree(place.folder, ignore_errors=True)
    print(f"faults: {tally(verdicts)} ({time.monotonic() - began:.0f} s)")
    if options.home is None:
        shutil.rmtree(home, ignore_errors=True)
    return 0 if all(verdict.fine for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
