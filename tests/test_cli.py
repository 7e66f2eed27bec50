"""The command itself."""

import importlib.metadata
import resource
import sys

from tiebreak.cli import COMMANDS, main


def test_help_answers_in_half_a_second(run):
    """Of CPU time, which other processes do not lengthen; the best of three. Torch alone would take two seconds."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run("tiebreak", "--help", cold=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert all(name in done.stdout for name in COMMANDS)
    assert min(seconds) < 0.5


def test_no_command_is_the_users_mistake(run):
    assert "COMMAND" in run("tiebreak", code=2).stderr


def test_env_names_versions_and_hardware_without_importing_them(run):
    code = "import sys; from tiebreak.cli import main; main(['env']); assert not {'torch', 'peft'} & set(sys.modules)"
    done = run(sys.executable, "-c", code, SLURM_JOB_ID="17", SLURM_JOB_NODELIST="n[1-2]", PATH="/nowhere")
    facts = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert facts["torch"] == importlib.metadata.version("torch")
    assert facts["slurm"] == "job 17 on n[1-2]" and facts["gpu"].startswith("none")
    assert {"python", "transformers", "flash-attn", "datasets", "cpu", "cache"} <= facts.keys()


def test_baseline_takes_its_table_as_a_plain_argument(sample, capsys):
    assert main(["baseline", str(sample), "--folds", "2"]) == 0
    plain = capsys.readouterr().out
    assert main(["baseline", "--data", str(sample), "--folds", "2"]) == 0
    assert capsys.readouterr().out == plain and "prior" in plain
    assert main(["baseline"]) == 2
    assert "labelled table" in capsys.readouterr().err
