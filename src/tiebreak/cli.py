"""The `tiebreak` command. Imports nothing heavy until a command is chosen."""

import argparse
import logging
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

from tiebreak.cluster.ranks import own_rank, print_error
from tiebreak.errors import UserError
from tiebreak.files import write_atomically
from tiebreak.options import build_parser, check_command
from tiebreak.outputs import refuse_over
from tiebreak.overview import FIRST_STEPS
from tiebreak.plurals import plural
from tiebreak.preemption import INTERRUPTED, stop_at_once, was_interrupted
from tiebreak.process import check_interpreter, configure_logging, prepare_process, use_cpu_in_deepspeed, without_bars
from tiebreak.storage import explain, explain_shortage, make_folder
from tiebreak.terminal import complain, finish_streams, prepare_streams, say
from tiebreak.uses import USES

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 2 the user's mistake, 75 stopped with a checkpoint."""
    words = sys.argv[1:] if arguments is None else arguments
    prepare_streams()
    return finish_streams(_run(words))


def _run(words: list[str]) -> int:
    try:
        stop_at_once()
        check_interpreter()
        if not words:
            say(FIRST_STEPS.rstrip())
            return 0
        check_command(words)
        options = build_parser().parse_args(words)
        prepare_process()
        configure_logging(first=own_rank() == 0)
        return COMMANDS[options.command](options)
    except UserError as error:
        return print_error(error)
    except KeyboardInterrupt:
        complain("tiebreak: interrupted")
        return INTERRUPTED
    except SystemExit as ended:  # of --help, and of stages and runs that were stopped
        if ended.code is None or isinstance(ended.code, int):
            raise SystemExit(finish_streams(ended.code or 0)) from None
        raise
    except BaseException as error:
        if was_interrupted():
            complain("tiebreak: interrupted")
            return INTERRUPTED
        told = explain(error) if isinstance(error, OSError) else explain_shortage(error)
        if told is None:
            raise
        return print_error(told)


def _named(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Options by their names, for a function that calls its arguments the same."""
    return {name: getattr(options, name) for name in names}


def _sample(options: argparse.Namespace) -> int:
    from tiebreak.sample.generator import write_sample

    make_folder(Path(options.out).parent)
    made = write_sample(options.out, options.rows, options.seed, options.profile, not options.no_labels)
    say(f"{options.out}: {made}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from tiebreak.preflight.inspect_tables import check

    if options.out:
        refuse_over(options.out, [*options.files, *options.test])
    result = check([Path(name) for name in options.files], [Path(name) for name in options.test])
    say(result)
    if result.problems and options.on_bad_row == "fail":
        raise UserError(
            f"{plural(len(result.problems), 'bad row')} (see above): correct them, or use --on-bad-row=skip"
        )
    if options.out:
        make_folder(options.out.parent)
        write_atomically(options.out, f"{result}\n")
    return 0


def _convert(options: argparse.Namespace) -> int:
    from tiebreak.tables.convert import convert

    say(f"{options.out}: {plural(convert(options.files, options.out, options.columns, options.on_bad_row), 'row')}")
    return 0


def _train(options: argparse.Namespace) -> int:
    from tiebreak.api import train
    from tiebreak.config import load_recipe
    from tiebreak.data.folds import parse_fold

    train(
        load_recipe(options.recipe, options.set, options.model),
        data=options.data,
        valid=options.valid,
        fold=parse_fold(options.fold) if options.fold else None,
        split=options.split,
        out=options.out,
        teachers=options.teachers,
        extra=options.extra,
        allow_in_sample=options.allow_in_sample,
        engine=options.engine,
        ds=options.ds,
        resume=options.resume is not None,
        on_bad_row=options.on_bad_row,
    )
    return 0


def _preflight(options: argparse.Namespace) -> int:
    from tiebreak.config import load_recipe
    from tiebreak.data.folds import parse_fold

    recipe, data = load_recipe(options.recipe, options.set, options.model), [Path(name) for name in options.data]
    valid = Path(options.valid) if options.valid not in (None, "none") else None
    if options.fake_world:
        from tiebreak.preflight.simulate import simulate

        fold = parse_fold(options.fold) if options.fold else None
        table: Path | Literal["none"] | None = "none" if options.valid == "none" else valid
        say(simulate(recipe, options.fake_world, data=data, valid=table, fold=fold, on_bad_row=options.on_bad_row))
        return 0
    from tiebreak.preflight.checks import preflight

    preflight(
        recipe,
        data=data,
        valid=valid,
        out=Path(options.out) if options.out else None,
        engine=options.engine,
        ds=options.ds,
        on_bad_row=options.on_bad_row,
        nodes=options.nodes,
        gpus_per_node=options.gpus_per_node,
        gpu_gib=options.gpu_gib,
        timeout_s=options.timeout,
    )
    return 0


def _folds(options: argparse.Namespace) -> int:
    from tiebreak.pipeline.cross_validation import cross_validate
    from tiebreak.pipeline.unseen import validate_on_unseen

    named = _named(options, "folds", "swap", "engine", "ds", "on_bad_row", "launch")
    named |= {"data": [Path(name) for name in options.data], "changes": options.set, "base": options.model}
    if options.split == "prompts":
        say(cross_validate(options.recipe, Path(options.out), **named))
    else:
        say(validate_on_unseen(options.recipe, Path(options.out), by=options.split, **named))
    return 0


def _pipeline(options: argparse.Namespace) -> int:
    from tiebreak.data.folds import parse_fold
    from tiebreak.pipeline.run_pipeline import open_pipeline, plan_stages, run_one_stage, run_pipeline
    from tiebreak.pipeline.stages import list_stages
    from tiebreak.pipeline.summary import next_steps
    from tiebreak.pipeline.unseen import split_for_pipeline

    data, test = [Path(name) for name in options.data], Path(options.test) if options.test else None
    if options.split and options.extra:
        raise UserError("--extra and --split: extra tables may hold what the split holds out; give one of them")
    if options.split:
        fold, out = parse_fold(options.fold) if options.fold else None, Path(options.out)
        data, test = split_for_pipeline(data, test, out, options.split, fold, options.on_bad_row)
    elif options.fold:
        raise UserError("--fold goes with --split in a pipeline, whose teachers have folds of their own")
    settings = open_pipeline(
        options.recipe,
        Path(options.out),
        data=data,
        extra=[Path(name) for name in options.extra],
        test=test,
        on_bad_row=options.on_bad_row,
        engine=options.engine,
        ds=options.ds,
    )
    if options.stages:
        say(list_stages(plan_stages(settings)))
        return 0
    summary = run_one_stage(settings, options.stage) if options.stage else run_pipeline(settings, options.launch)
    if summary is not None:
        say("\n\n".join(filter(None, (str(summary), summary.in_words(), next_steps(settings.out)))))
    return 0


def _ladder(options: argparse.Namespace) -> int:
    from tiebreak.pipeline.ablation import run_ablation

    data, named = [Path(name) for name in options.data], _named(options, "fold", "engine", "ds", "on_bad_row", "launch")
    compared = run_ablation(options.ladder, Path(options.out), data=data, changes=options.set, **named)
    say(compared)
    return 0


def _predict(options: argparse.Namespace) -> int:
    from tiebreak.data.folds import parse_fold
    from tiebreak.evaluation.baselines import render_comparison
    from tiebreak.prediction.degenerate import parse_degenerate
    from tiebreak.prediction.predict import predict
    from tiebreak.prediction.swap import parse_swap

    if options.on_bad_row in ("fail", "skip") and not options.fold:
        log.info("note: --on-bad-row counts with --fold only; else unreadable rows stay, and get the class shares")
    run = predict(
        options.model,
        options.data,
        options.out,
        fold=None if options.fold is None else parse_fold(options.fold),
        swap=parse_swap(options.swap),
        degenerate=None if options.special is None else parse_degenerate(options.special),
        labels=options.labels,
        changes=options.set,
        on_bad_row=options.on_bad_row or "fail",
        runtime=options.runtime,
    )
    log.info(f"{run.path}: {plural(run.rows, 'row')}")
    if run.scores is not None:
        log.info(f"{plural(int(run.scores['model']['rows']), 'labelled row')}:\n{render_comparison(run.scores)}")
    return 0


def _merge(options: argparse.Namespace) -> int:
    from tiebreak.prediction.merge import merge

    merged = merge(options.folder, options.format)
    say("\n".join([*merged.notes, f"{merged.path}: {plural(merged.rows, 'row')}"]))
    return 0


def _ensemble(options: argparse.Namespace) -> int:
    from tiebreak.prediction.ensemble import ensemble

    named = _named(options, "weights", "fit", "calibrate", "space", "format", "on_bad_row")
    blended = ensemble(options.predictions, options.out, **named)
    say(f"{blended.path}: {plural(len(blended.ids), 'row')}; how it was made: {blended.record_path}")
    return 0


def _attack(options: argparse.Namespace) -> int:
    from tiebreak.tables.attack import attack

    rows = attack([Path(name) for name in options.data], Path(options.out), options.kinds, options.rows)
    what = "edited" if options.kinds else "doubled"
    say(f"{options.out}: {plural(rows, 'row')}, one answer of each {what}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from tiebreak.evaluation.wording import render_scores
    from tiebreak.report.build import write_report

    out = Path(options.out)
    named = _named(options, "attacked", "runs", "family", "model", "resamples", "seed", "on_bad_row")
    made = write_report(options.predictions, options.labels, out, **named)
    for note in made.notes:
        say(f"note: {note}")
    if made.judges:
        say(render_scores(made))
    say(f"report: {out / 'index.html'}")
    return 0


def _merge_adapters(options: argparse.Namespace) -> int:
    use_cpu_in_deepspeed()
    from tiebreak.models.folder import find_model_folder

    for folder in options.folders:
        find_model_folder(folder)  # before torch is imported
    from tiebreak.models.merging import merge_adapters

    merge_adapters(options.folders, options.out, options.how, options.into_base)
    return 0


def _recipes(options: argparse.Namespace) -> int:
    from tiebreak.pipeline.catalogue import list_recipes, show_recipe

    if options.memory:
        from tiebreak.pipeline.cards import list_memory

        say(list_memory(options.name, options.set))
    else:
        columns = shutil.get_terminal_size((120, 24)).columns
        say(show_recipe(options.name, options.set) if options.name else list_recipes(columns))
    return 0


def _use(options: argparse.Namespace) -> int:
    USES[options.command](**{name: value for name, value in vars(options).items() if name != "command"})
    return 0


def _weights(options: argparse.Namespace) -> int:
    from tiebreak.pretrained.weights import ask_at_terminal, install_weights, listing

    if options.name is None:
        say(listing())
        return 0
    use_cpu_in_deepspeed()
    with without_bars():
        install_weights(options.name, options.out, options.given, options.accept_licence, ask_at_terminal())
    return 0


def _baseline(options: argparse.Namespace) -> int:
    from tiebreak.data.predictions import refuse_table, write_predictions
    from tiebreak.evaluation.baselines import baseline

    if not (given := [*options.files, *options.data]):
        raise UserError("name at least one labelled table: tiebreak baseline train.csv")
    files = [Path(name) for name in given]
    fitted = baseline(files, folds=options.folds, classes=options.classes, on_bad_row=options.on_bad_row)
    say(fitted)
    if options.out:
        make_folder(options.out)
        for name in fitted.probabilities:
            refuse_table(options.out / f"{name}.csv", files)
        for name, probabilities in fitted.probabilities.items():
            write_predictions(options.out / f"{name}.csv", fitted.ids, probabilities)
        say(f"out-of-fold predictions: {options.out}/{{{','.join(fitted.probabilities)}}}.csv")
    return 0


COMMANDS = {
    **{"check": _check, "convert": _convert, "baseline": _baseline, "sample": _sample},
    **{"train": _train, "distill": _train, "folds": _folds, "pipeline": _pipeline, "merge-adapters": _merge_adapters},
    **{"predict": _predict, "merge": _merge, "ensemble": _ensemble},
    **{"report": _report, "attack": _attack, "ladder": _ladder},
    **{"recipes": _recipes, "weights": _weights, "preflight": _preflight},
    **dict.fromkeys(USES, _use),
}
"""What runs each command; `tiebreak.overview` says what each is for."""
