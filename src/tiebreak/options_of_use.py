"""The options of the commands that put a judge to use."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tiebreak.parsers import CommandParser, add_engine, add_launch, add_on_bad_row, number

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[CommandParser]

EXPORTS = {
    "onnx": "a graph for onnxruntime, in fp32",
    "int8": "the same with int8 weights",
    "merged": "a model without adapters, in bf16",
    "vllm": "the same for vLLM's /classify",
    "tei": "the same for text-embeddings-inference's /predict",
}
"""The forms of an export, each an option."""
BAD_ROWS = "labelled rows that cannot be read: exit 2 (fail, the default) or leave them out (skip)"


def add_commands_of_use(commands: "Commands") -> None:
    """Add them to the parser of all commands."""
    _add_bench_command(commands)
    _add_compare_command(commands)
    _add_best_of_command(commands)
    _add_decide_command(commands)
    _add_export_command(commands)
    _add_leaderboard_command(commands)
    launch_files = commands.add_parser("launch-files")
    launch_files.add_argument("folder", type=Path, metavar="DIR", help="where slurm/, launch/ and ds_configs/ shall be")
    _add_sweep_command(commands)


def _add_bench_command(commands: "Commands") -> None:
    bench = commands.add_parser("bench")
    text = "files of RewardBench 1 or 2, JudgeBench, LLMBar, MT-bench, Auto-J or PandaLM, known by their columns"
    bench.add_argument("files", nargs="+", metavar="FILE", help=text)
    judge = bench.add_mutually_exclusive_group()
    judge.add_argument("--model", metavar="DIR", help="the judge: a model folder, or the run folder above it")
    text = "or finished predictions of the table that --pairs wrote, best made with --swap"
    judge.add_argument("--predictions", metavar="PRED", help=text)
    text = "write the comparisons as a table for tiebreak predict, and stop"
    bench.add_argument("--pairs", type=Path, metavar="F.csv", help=text)
    text = "tables that the judge was trained on: near-duplicates of the suites' prompts are looked for"
    bench.add_argument("--trained", nargs="+", default=[], metavar="F", help=text)
    text = "similarity from which on two prompts are near-duplicates (default 0.5; docs/bench.md)"
    bench.add_argument(
        "--alike", type=number(0, 1, "it is a share", above=True), default=0.5, metavar="SHARE", help=text
    )
    bench.add_argument("--out", type=Path, metavar="DIR", help="a folder for bench.json and items.csv")
    text = "rows of the suites that cannot be read: exit 2 (fail, the default) or leave them out (skip)"
    bench.add_argument("--on-bad-row", choices=["fail", "skip"], default="fail", help=text)


def _add_compare_command(commands: "Commands") -> None:
    compare = commands.add_parser("compare")
    text = "with --prompt, an answer; else a file of answers (prompt, response), or alone a table of pairs"
    compare.add_argument("first", metavar="A", help=text)
    compare.add_argument("second", nargs="?", metavar="B", help="the other answer, or the other file of answers")
    compare.add_argument("--prompt", metavar="TEXT", help="what A and B answer")
    compare.add_argument("--model", required=True, metavar="DIR", help="a model folder, or the run folder above it")
    compare.add_argument("--json", action="store_true", help="print every figure as JSON")


def _add_best_of_command(commands: "Commands") -> None:
    best = commands.add_parser("best-of")
    text = "a row for each candidate (prompt, response), or for each prompt (prompt, responses: a list)"
    best.add_argument("candidates", metavar="FILE", help=text)
    best.add_argument("--model", required=True, metavar="DIR", help="a model folder, or the run folder above it")
    best.add_argument(
        "--out", required=True, type=Path, metavar="F", help="a .csv or .jsonl file, a row for each prompt"
    )


def _add_decide_command(commands: "Commands") -> None:
    decide = commands.add_parser("decide")
    decide.add_argument("predictions", metavar="PRED", help="predictions.csv of the rows to decide, or its folder")
    text = "a labelled table to find the threshold on; with its predictions, where PRED is of other rows"
    decide.add_argument("--calibrate", nargs="+", required=True, metavar="LABELLED", help=text)
    text = "share of the decided rows on which people agree, at least (default 0.8)"
    decide.add_argument("--agree", type=float, default=0.8, metavar="SHARE", help=text)
    text = "probability that this share is reached (default 0.95)"
    decide.add_argument("--certainty", type=float, default=0.95, metavar="P", help=text)
    text = "verdict: a tie is a verdict too (default); wrong: only A and B are, and people's ties contradict them; "
    text += "ignore: only A and B are, and people's ties are not counted"
    decide.add_argument("--ties", choices=["verdict", "wrong", "ignore"], default="verdict", help=text)
    text = "a second judge's predictions, for the rows that the first leaves; two files where --calibrate has two"
    decide.add_argument("--then", nargs="+", metavar="PRED", help=text)
    text = "what a row costs by the judge, by the second judge if there is one, and by people"
    decide.add_argument("--cost", nargs="+", type=float, metavar="X", help=text)
    text = "a folder for decisions.csv, decision.json and risk_coverage.csv"
    decide.add_argument("--out", required=True, type=Path, metavar="DIR", help=text)
    decide.add_argument("--on-bad-row", choices=["fail", "skip"], default="fail", help=BAD_ROWS)


def _add_export_command(commands: "Commands") -> None:
    export = commands.add_parser("export")
    export.add_argument("run", metavar="RUN", help="the model folder, or the run folder above it")
    form = export.add_mutually_exclusive_group(required=True)
    for name, text in EXPORTS.items():
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=text)
    export.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    export.add_argument("--data", nargs="+", default=[], metavar="F", help="labelled tables (default: the sample)")
    export.add_argument(
        "--rows",
        type=number(1, 10_000_000, "each is scored twice", whole=True),
        default=2_000,
        metavar="N",
        help="most rows of them (default 2000)",
    )
    text = "most nats by which the log loss may change (default .002)"
    export.add_argument(
        "--tolerance", type=number(0, 10, "it is a difference of log losses"), default=0.002, metavar="NATS", help=text
    )
    text = "least share of verdicts that stay (default .99)"
    export.add_argument("--agreement", type=number(0, 1, "it is a share"), default=0.99, metavar="SHARE", help=text)
    text = "divide the logits, inside the ONNX graph (default 1)"
    export.add_argument(
        "--temperature", type=number(1e-3, 1e3, "logits are divided by it"), default=1.0, metavar="T", help=text
    )
    add_on_bad_row(export, "labelled rows")


def _add_leaderboard_command(commands: "Commands") -> None:
    board = commands.add_parser("leaderboard")
    text = "a judge's predictions of the battles, or their folder; without them, people's votes alone count"
    board.add_argument("predictions", nargs="?", metavar="PRED", help=text)
    text = "tables of battles, with model_a and model_b"
    board.add_argument("--data", nargs="+", required=True, metavar="F", help=text)
    text = "people's votes (id and winners) on a random part of the battles; without PRED: those of --data by default"
    board.add_argument("--labels", metavar="F", help=text)
    text = "rate at equal length, style, readability or position, e.g. length,style"
    board.add_argument("--control", type=_names, default=[], metavar="NAME,NAME", help=text)
    text = "leave out models in fewer battles (default 1)"
    board.add_argument(
        "--least-rows",
        type=number(1, 2**31, "it is a number of battles", whole=True),
        default=1,
        metavar="N",
        help=text,
    )
    text = "a folder for index.html, leaderboard.csv, leaderboard.json and plots"
    board.add_argument("--out", required=True, type=Path, metavar="DIR", help=text)
    board.add_argument("--on-bad-row", choices=["fail", "skip"], default="fail", help=BAD_ROWS)


def _add_sweep_command(commands: "Commands") -> None:
    sweep = commands.add_parser("sweep")
    sweep.add_argument("space", type=Path, metavar="SPACE.yaml", help="what varies, and how trials are drawn")
    sweep.add_argument("--recipe", required=True, help="what all trials start from: a shipped recipe or a .yaml file")
    text = "labelled tables (default: the sample)"
    sweep.add_argument("--data", nargs="+", type=Path, default=[], metavar="F", help=text)
    sweep.add_argument("--out", required=True, type=Path, metavar="DIR", help="gets table.csv, best.yaml and trials/")
    sweep.add_argument("--fold", default="0/5", metavar="K/N", help="what every trial holds out (default 0/5)")
    text = "a local model folder or hub name in place of the recipe's"
    sweep.add_argument("--model", dest="base", metavar="M", help=text)
    add_launch(sweep)
    add_engine(sweep)
    add_on_bad_row(sweep, "rows")
    text = "change a field of every trial's recipe, e.g. train.epochs=2"
    sweep.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help=text)
    which = sweep.add_mutually_exclusive_group()
    text = "list the stages: name, what it needs, cpu or gpu, done or todo, places to run"
    which.add_argument("--stages", action="store_true", help=text)
    which.add_argument("--stage", metavar="NAME", help="run this stage alone, under any launcher")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
