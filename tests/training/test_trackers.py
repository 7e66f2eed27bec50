"""Trackers: what each holds of a run, that a resumed run goes on in it, and that what is absent is told first."""

import csv
import importlib.util
import logging
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tiebreak.config import load_recipe
from tiebreak.errors import UserError
from tiebreak.preflight.early import refuse_training
from tiebreak.training.log import RunLog
from tiebreak.training.trackers import OPENERS, close_trackers, open_trackers, track

EVALUATED = {"validation_log_loss": 1.01, "validation_accuracy": 0.5, "best": True}


def recipe(*to: str, **changes: str):
    return load_recipe("demo-deberta", [f"log.to=[{','.join(to)}]", *(f"log.{k}={v}" for k, v in changes.items())])


def step(number: int) -> dict[str, float]:
    return {"step": number, "loss": 1 / number, "lr": 1e-4, "tokens": 64, "seconds": 0.5}


def write_a_run_that_is_killed_and_resumed(folder: Path, name: str) -> None:
    """Four steps and an evaluation; the second process goes on after step 2, as the newest checkpoint is that old."""
    for done, records in ((0, [step(1), step(2), step(3)]), (2, [step(3), step(4), {"step": 4, **EVALUATED}])):
        opened = open_trackers(folder, recipe(name), done)
        for record in records:
            track(opened, record)
        assert list(opened) == [name]
        close_trackers(opened)


def test_trackers_are_named_once_and_wandb_may_be_switched_on_either_way():
    assert recipe().log.trackers() == []
    assert recipe(wandb="offline").log.trackers() == ["wandb"]
    both = recipe("csv", "wandb", wandb="offline").log
    assert both.trackers() == ["csv", "wandb"] and both.wandb == "offline"
    assert set(recipe(*OPENERS).log.trackers()) == set(OPENERS)
    with pytest.raises(UserError, match="'comet'"):
        recipe("comet")


def test_csv_has_a_row_for_each_step_and_evaluation(tmp_path: Path):
    write_a_run_that_is_killed_and_resumed(tmp_path, "csv")
    with open(tmp_path / "steps.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["loss"]) for row in rows] == [1, 1 / 2, 1 / 3, 1 / 4]
    with open(tmp_path / "evaluations.csv", newline="") as file:
        (evaluation,) = csv.DictReader(file)
    assert evaluation == {"step": "4", "validation_log_loss": "1.01", "validation_accuracy": "0.5", "best": "True"}


def test_csv_whose_last_row_was_cut_by_a_kill_goes_on(tmp_path: Path):
    for text in ("", "step,loss\r\n1,1.0\r\n2,0.", "step,loss\r\n1,1.0\r\n2"):
        (tmp_path / "steps.csv").write_text(text)
        opened = open_trackers(tmp_path, recipe("csv"), 1)
        track(opened, step(2))
        with open(tmp_path / "steps.csv", newline="") as file:
            assert [int(row["step"]) for row in csv.DictReader(file)][-1] == 2


@pytest.mark.slow
def test_tensorboard_shows_each_step_once(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_a_run_that_is_killed_and_resumed(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == [1, 2, 3, 4]
    assert [event.value for event in losses] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert [(event.step, event.value) for event in events.Scalars("best")] == [(4, 1.0)]


class Server:
    """Stands in for MLflow's client, with the signatures of mlflow 3: what it was told, by run."""

    experiments: dict[str, str]
    runs: dict[str, dict]

    def get_experiment_by_name(self, name: str):
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str, artifact_location=None, tags=None) -> str:
        self.experiments[name] = str(len(self.experiments) + 1)
        return self.experiments[name]

    def create_run(self, experiment_id: str, start_time=None, tags=None, run_name=None):
        run_id = f"run-{len(self.runs)}"
        self.runs[run_id] = {"of": experiment_id, "name": run_name, "status": "RUNNING", "params": {}, "metrics": []}
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def get_run(self, run_id: str):
        return self.runs[run_id]

    def update_run(self, run_id: str, status=None, name=None) -> None:
        self.runs[run_id]["status"] = status

    def log_batch(self, run_id: str, metrics=(), params=(), tags=(), synchronous=None) -> None:
        assert len(params) <= 100 and len(metrics) <= 1000
        self.runs[run_id]["params"] |= {param.key: param.value for param in params}
        self.runs[run_id]["metrics"] += [(metric.key, metric.value, metric.step) for metric in metrics]

    def set_terminated(self, run_id: str, status=None, end_time=None) -> None:
        self.runs[run_id]["status"] = status or "FINISHED"


class Metric(SimpleNamespace):
    def __init__(self, key: str, value: float, timestamp: int, step: int):
        assert isinstance(value, float) and isinstance(timestamp, int) and isinstance(step, int)
        super().__init__(key=key, value=value, timestamp=timestamp, step=step)


class Param(SimpleNamespace):
    def __init__(self, key: str, value: str):
        assert isinstance(value, str) and len(value) <= 500
        super().__init__(key=key, value=value)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> type[Server]:
    modules = {name: ModuleType(name) for name in ("mlflow", "mlflow.entities", "mlflow.tracking")}
    modules["mlflow.entities"].Metric, modules["mlflow.entities"].Param = Metric, Param
    modules["mlflow.tracking"].MlflowClient = Server
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    Server.experiments, Server.runs = {}, {}
    return Server


def test_mlflow_gets_one_run_of_the_project_with_the_recipe(tmp_path: Path, server: type[Server]):
    write_a_run_that_is_killed_and_resumed(tmp_path, "mlflow")
    ((run_id, run),) = server.runs.items()
    assert (tmp_path / "mlflow_run_id").read_text() == run_id
    assert run["of"] == server.experiments["tiebreak"] and run["name"] == tmp_path.name
    assert run["status"] == "FINISHED"
    assert run["params"]["train.lr"] == str(recipe().train.lr) and run["params"]["model.base"] == "demo-deberta"
    assert [at for key, _, at in run["metrics"] if key == "loss"] == [1, 2, 3, 3, 4]
    assert ("validation_log_loss", 1.01, 4) in run["metrics"]


def test_a_service_that_fails_is_left_and_the_others_go_on(tmp_path, server, monkeypatch, caplog):
    opened = open_trackers(tmp_path, recipe("mlflow", "csv"), 0)

    def fail(*_, **__):
        raise ConnectionError("http://user:geheim@mlflow.example:5000 is gone")

    monkeypatch.setattr(server, "log_batch", fail)
    with caplog.at_level(logging.WARNING, "tiebreak"):
        track(opened, step(1))
        track(opened, step(2))
    assert list(opened) == ["csv"] and "mlflow.example" in caplog.text and "geheim" not in caplog.text
    assert len((tmp_path / "steps.csv").read_text().splitlines()) == 3
    monkeypatch.setattr(server, "create_run", fail)
    with pytest.raises(UserError, match="mlflow cannot begin") as told:
        open_trackers(tmp_path / "other", recipe("mlflow"), 0)
    assert "geheim" not in str(told.value)


def test_only_the_first_rank_tracks(tmp_path: Path):
    for first in (False, True):
        with RunLog(tmp_path, recipe("csv"), 4, first) as log:
            log.step(step(1))
        assert (tmp_path / "steps.csv").is_file() == first


@pytest.mark.parametrize("name", sorted(set(OPENERS) - {"csv"}))
def test_a_package_that_is_not_installed_is_told_before_anything_else(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"{name} is not installed: pip install {name}"):
        refuse_training(recipe(name), data=[Path("not-there.csv")])
    assert importlib.util.find_spec("csv") is not None
    with pytest.raises(UserError, match="no such file"):
        refuse_training(recipe("csv"), data=[Path("not-there.csv")])


@pytest.mark.slow
def test_a_training_is_tracked_as_its_log_says(sample: Path, tmp_path: Path):
    import json

    import tiebreak

    small = {"train.max_steps": 2, "train.batch_size": 8, "data.max_tokens": 64, "log.to": ["csv", "tensorboard"]}
    tiebreak.train("demo-deberta", data=sample, out=tmp_path / "run", **small)
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    with open(tmp_path / "run" / "steps.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [record for record in logged if "loss" in record]
    assert len(rows) == len(steps) == 2
    for row, record in zip(rows, steps, strict=True):
        assert all(math.isclose(float(row[name]), value) for name, value in record.items())
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))
