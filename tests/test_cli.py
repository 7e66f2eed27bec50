"""The command itself."""

import importlib.metadata
import resource
import sys
from pathlib import Path

import pytest

from tiebreak import overview
from tiebreak.cli import COMMANDS, main


def test_help_answers_in_three_tenths_of_a_second(run):
    """Of CPU time, which other processes do not lengthen; the best of three. Torch alone would take two seconds."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run("tiebreak", "--help", cold=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert all(name in done.stdout for name in COMMANDS)
    assert min(seconds) < 0.3


def test_help_lists_every_command_in_one_group_on_one_line(run):
    listed = [name for group in overview.GROUPS.values() for name in group]
    assert len(listed) == len(set(listed)) and set(listed) == set(COMMANDS)
    lines = run("tiebreak", "--help").stdout.splitlines()
    for group, commands in overview.GROUPS.items():
        start = lines.index(f"{group}:") + 1
        assert [line.split()[0] for line in lines[start : start + len(commands)]] == list(commands)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_begins_with_what_it_is_for(name, run):
    words = run("tiebreak", name, "--help").stdout.split()
    assert " ".join(overview.COMMANDS[name].split()[1:]) in " ".join(words)


def test_no_command_is_shown_what_one_can_do(run):
    done = run("tiebreak", code=0)
    assert done.stderr == ""
    for words in (
        "pipeline --recipe demo --out runs/demo",
        "train",
        "weights minilm-l6",
        "predict",
        "report",
        "COMMAND --help",
    ):
        assert f"tiebreak {words}" in done.stdout
    assert "--model minilm-l6" in done.stdout and "runs/first" not in done.stdout, "the demo's bases know the sample"


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["trainn"], ["no command trainn", "did you mean train?"]),
        (["--verison"], ["did you mean --version?"]),
        (["xyzzy"], ["no command xyzzy", "tiebreak --help"]),
        (["train", "--reciep", "x"], ["no option --reciep", "did you mean --recipe", "tiebreak train --help"]),
        (["train", "--max_steps=3"], ["no option --max_steps", "tiebreak train --help"]),
        (["check", "a.csv", "--tset=b.csv"], ["no option --tset", "did you mean --test"]),
        (["train", "a.csv"], ["a.csv"]),
        (["predict"], ["--model, --out"]),
        (["train", "--recipe", "demo-gema2"], ["did you mean demo-gemma2"]),
        (["train", "--recipe", "first-place"], ["is a pipeline", "tiebreak pipeline --recipe first-place"]),
        (["folds", "--recipe", "deberta", "--out", "x"], ["is a ladder", "tiebreak ladder deberta"]),
        (["ladder", "first-place", "--out", "x"], ["is a pipeline"]),
        (["pipeline", "--recipe", "gemma2-9b", "--out", "x"], ["is a recipe", "tiebreak train --recipe gemma2-9b"]),
    ],
    ids=lambda value: " ".join(value[:3]),
)
def test_near_misses_are_answered_with_what_was_meant(words, facts, capsys):
    assert main(words) == 2
    told = capsys.readouterr()
    assert not told.out and all(fact in told.err for fact in facts), told.err


def test_recipes_lists_and_shows_pipelines_and_ablations_too(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert "tiebreak pipeline --recipe NAME" in listed and "first-place" in listed and "tiebreak ladder NAME" in listed
    assert main(["recipes", "first-place"]) == 0
    assert "teachers:" in capsys.readouterr().out
    assert main(["recipes", "demo"]) == 0
    shown = capsys.readouterr().out
    assert "# pipeline demo" in shown and "# ladder demo" in shown
    assert main(["recipes", "demo-gemma2"]) == 0
    assert capsys.readouterr().out.startswith("name: demo-gemma2")


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


def test_mistakes_are_told_before_torch_is_imported(run, tmp_path, sample):
    """Torch and transformers take seconds to import, and a missing file can be seen without."""
    mistakes = [
        ("train --data absent.csv", "absent.csv: no such file"),
        ("train --valid absent.csv", "absent.csv: no such file"),
        ("train --model runs/absent", "runs/absent: there is no such folder"),
        ("train --model demo-gema2", "did you mean demo-gemma2"),
        ("train --set train.lrr=1", "train.lrr: no such field"),
        ("train --ds absent.json", "absent.json: no such file"),
        ("train --fold 3", "--fold 3"),
        ("train --lr 3", "no option --lr"),
        ("distill --teachers absent", "absent: no prediction.json"),
        ("distill --teachers bayes --extra absent.csv", "absent.csv: no such file"),
        ("predict --model absent --out o", "absent does not exist"),
        (f"predict --model absent --data {sample} --out o --swap x", "--swap x"),
        ("predict --model absent --out o --labels absent.csv", "absent.csv: no such file"),
        ("folds --data absent.csv --out o", "absent.csv: no such file"),
        ("folds --model runs/absent --out o", "runs/absent: there is no such folder"),
        ("pipeline --data absent.csv --test absent.csv --out o", "absent.csv, absent.csv: no such file"),
        ("pipeline --ds absent.json --out o", "absent.json: no such file"),
        ("ladder demo --data absent.csv --out o", "absent.csv: no such file"),
        ("ladder demo --set train.lrr=1 --out o", "train.lrr: no such field"),
        ("preflight --data absent.csv", "absent.csv: no such file"),
        ("report absent --labels absent.csv --out o", "absent.csv: no such file"),
        ("merge absent", "absent: no prediction.json"),
        ("leaderboard --data absent.csv --out o", "absent.csv: no such file"),
        ("compare absent.csv --model absent", "absent.csv: no such file"),
        ("best-of absent.csv --model absent --out o.csv", "absent.csv: no such file"),
        ("bench absent.jsonl --model absent", "absent.jsonl: no such file"),
        ("decide absent --calibrate absent.csv --out o", "absent.csv: no such file"),
        ("ensemble absent absent2 --out o", "absent"),
        ("baseline absent.csv", "absent.csv: no such file"),
        ("check absent.csv", "absent.csv: no such file"),
        ("attack --data absent.csv --out o.csv", "absent.csv: no such file"),
        ("merge-adapters absent absent2 --out o", "absent does not exist"),
    ]
    code = (
        "import os, sys\nfrom tiebreak.cli import main\nos.chdir(sys.argv[1])\n"
        "for words in sys.argv[2:]:\n"
        "    print('>>', words, file=sys.stderr, flush=True)\n"
        "    assert main(words.split()) == 2, words\n"
        "    assert not {'torch', 'transformers'} & set(sys.modules), words\n"
        "assert not os.listdir(), os.listdir()\n"
    )
    folder = tmp_path / "empty"
    folder.mkdir()
    told = run(sys.executable, "-c", code, folder, *(words for words, _ in mistakes), cold=True).stderr
    answers = dict(part.split("\n", 1) for part in told.split(">> ")[1:])
    for words, fact in mistakes:
        assert fact in answers[words], answers[words]


def test_a_module_of_the_user_s_in_the_working_folder_is_not_taken_for_python_s(tmp_path, run):
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong module')")
    code = f"import os, sys; os.chdir({str(tmp_path)!r}); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    source = str(Path(__file__).parents[1] / "src")
    done = run(sys.executable, "-c", code, "-m", "tiebreak", "check", "absent.csv", code=2, PYTHONPATH=source)
    assert "absent.csv" in done.stderr and "wrong module" not in done.stderr
