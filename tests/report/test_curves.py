"""Training curves: of real runs without asking, from broken logs as far as they go, and never at a run's cost."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from tiebreak.errors import UserError
from tiebreak.process import configure_logging
from tiebreak.report import curves
from tiebreak.report.curves import leave_curves, make_plots, read_history, summarise
from tiebreak.report.plots import palette, save


def write_log(folder, lines):
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text(
        "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    )
    return folder


def steps(count):
    return [
        {"step": k, "loss": 2.0 / k, "lr": 1e-4, "grad_norm": 1.0, "tokens": 100, "seconds": 0.5}
        for k in range(1, count + 1)
    ]


@pytest.mark.slow
def test_a_finished_run_leaves_curves_and_a_card(judged):
    assert (judged.run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (judged.run / "model" / "README.md").is_file()


def test_a_log_is_read_as_it_was_written(tmp_path):
    evaluation = {"step": 30, "best": True, "validation_log_loss": 0.9, "validation_accuracy": 0.5}
    history = read_history(write_log(tmp_path / "run", [*steps(40), evaluation, '{"step": 41, "lo']))
    assert len(history.steps) == 40 and history.evaluations == [evaluation]
    x, y = history.series("tokens_per_second")
    assert (x == np.arange(1, 41)).all() and (y == 200).all()
    found = summarise(history)
    assert (found.steps, found.best_step, found.best_validation_log_loss) == (40, 30, 0.9)
    assert found.tokens_per_second == pytest.approx(200)
    assert found.loss == pytest.approx(np.mean([2 / k for k in (37, 38, 39, 40)]))


def test_several_runs_share_each_plot_and_what_is_not_logged_has_none(tmp_path):
    one = read_history(write_log(tmp_path / "one", steps(5)))
    two = read_history(write_log(tmp_path / "two", steps(30)))
    plots = make_plots([one, two])
    assert [plot.name for plot in plots] == ["curve-loss", "curve-lr", "curve-grad-norm", "curve-tokens-per-second"]
    assert "one from 2 to 0.4; two from 2 to 0.06667" in plots[0].alt
    curves.plot_curves([one, two], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_names_are_no_markup_and_none_is_left_out_of_the_legend(tmp_path):
    names = ["$\\frac{$", "_hidden", "a_b^{"]
    logs = [curves.History(name, steps(5), []) for name in names]
    folder = tmp_path / "plots"
    folder.mkdir()
    for plot in make_plots(logs):
        figure = Figure()
        axes = figure.add_subplot()
        plot.draw(axes, palette("light"))
        assert [text.get_text().strip() for text in axes.get_legend().get_texts()] == names
        save(plot, folder)
    curves.plot_curves(logs, tmp_path / "curves.png")


def test_the_moving_average_is_the_mean_of_its_window():
    values = np.random.default_rng(0).normal(size=50)
    found = curves._moving_average(values, 5)
    expected = [values[max(0, k - 2) : k + 3].mean() for k in range(50)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("lines", "message"),
    [([], "no step"), (["nonsense}\n"], "line 1"), ([{"loss": 1}], "line 1")],
)
def test_a_broken_log_is_reported(lines, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_history(write_log(tmp_path / "run", lines))


def test_a_run_never_fails_for_want_of_its_picture(tmp_path, capsys):
    configure_logging()
    leave_curves(tmp_path)
    assert "no curves were drawn (UserError" in capsys.readouterr().out
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    "line",
    [
        '{"step":' * 100_000 + "}",
        '{"step": 1e400, "loss": 1}',
        f'{{"step": {10**400}, "loss": 1}}',
        '{"step": -1, "loss": 1}',
        '{"step": 2, "loss": "low"}',
        '{"step": 2, "loss": [1]}',
        '{"step": 2, "loss": NaN}',
        '{"step": 2, "loss": 1, "lr": 1e308}',
        '{"step": 2, "loss": 1, "seconds": true}',
        '{"step": 2, "loss": 1, "loss": 2}',
        "\xfe}",
    ],
    ids=lambda line: line[:30],
)
def test_a_line_of_a_log_that_no_run_writes_is_told_by_its_number(tmp_path, line):
    good = '{"step": 1, "loss": 1.0, "grad_norm": null}\n'
    (tmp_path / "log.jsonl").write_bytes(good.encode() + line.encode("latin-1") + b"\n")
    with pytest.raises(UserError, match=r"log\.jsonl, line 2: not a line of a run's log"):
        read_history(tmp_path)
    (tmp_path / "log.jsonl").write_text(good + good[:20])  # cut off by a kill
    assert len(read_history(tmp_path).steps) == 1
