"""The batch files on a cluster: the results of one process on any number of nodes, through every fault.

All jobs are submitted when the first test asks for one of them. Slurm runs them as nodes become free, and the tests
wait for what is theirs.
"""

import json
import sys
from collections.abc import Callable
from functools import partial

import pytest
import scenarios
from minicluster import LIMIT_S, Cluster
from scenarios import LONG, MODELS, STEPS, TINY, Running, Work, assert_as_undisturbed, changes, losses

from tiebreak.cli import main

pytestmark = [pytest.mark.processes, pytest.mark.timeout(LIMIT_S)]
NODES = {"train_gemma": (1, 2), "train_llama": (1, 2, 3), "train_deberta": (1, 3), "distill": (1, 2)}
RUNS = [f"{file}-{nodes}" for file, numbers in NODES.items() for nodes in numbers]
ENGINES = {("train_gemma", 2): "deepspeed", ("train_deberta", 3): "fsdp"}
"""Where it is not DDP."""
SETTINGS = {"train_llama": LONG}
"""Other than TINY: its run on two nodes is the undisturbed one of the faults."""
UNDISTURBED = "train_llama-2"
FAULTS = {
    name: getattr(scenarios, name)
    for name in ("out_of_time", "powered_off", "killed", "cut_off", "split", "signalled", "requeued")
}
"""Those that wait longest stand first."""
PREDICTIONS = ["predict-2", "predict-3", "predict-array"]
BLOCKS = changes("predict.tokens_per_block=4096")


def trained(work: Work, file: str, nodes: int) -> str:
    """One of the training files, on so many nodes."""
    variables = {"TEACHERS": "bayes", "RECIPE": "distill-demo"} if file == "distill" else {}
    variables["ENGINE"] = ENGINES.get((file, nodes), "auto")
    if nodes == 1:  # each file starts a real Python once
        variables["PYTHON"] = sys.executable
    return work.submit(file, f"{file}-{nodes}", nodes, changes(*SETTINGS.get(file, TINY)), **variables).end()


def predicted(work: Work, name: str) -> str:
    """On so many nodes, or by an array of three tasks of one node each."""
    variables = {"MODEL": str(work.folder / "train_deberta"), "DATA": str(work.folder / "test.csv")}
    kind = name.partition("-")[2]
    nodes, options = (1, ("--array=0-2",)) if kind == "array" else (int(kind), ())
    return work.submit("predict", name, nodes, BLOCKS, options, **variables).end()


def plan(work: Work) -> dict[str, Callable[[], str]]:
    """All scenarios by their name, in the order of submission."""
    found = {name: partial(scenario, work) for name, scenario in FAULTS.items()}
    found |= {"hopeless": partial(scenarios.hopeless, work), "mistaken": partial(scenarios.mistaken, work)}
    found |= {f"{file}-{n}": partial(trained, work, file, n) for file, numbers in NODES.items() for n in numbers}
    return found | {name: partial(predicted, work, name) for name in PREDICTIONS}


@pytest.fixture(scope="module")
def work(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """The runs of one process, in this one."""
    folder = tmp_path_factory.mktemp("runs")
    run = ["--resume", "auto", "--out"]
    for file, recipe in MODELS.items():
        settings = changes(*SETTINGS.get(file, TINY))
        assert main(["train", "--recipe", recipe, *settings, *run, str(folder / file)]) == 0
    distill = ["distill", "--recipe", "distill-demo", "--teachers", "bayes", *changes(*TINY)]
    assert main([*distill, *run, str(folder / "distill")]) == 0
    test = ["--data", str(folder / "test.csv"), "--out", str(folder / "prediction")]
    assert main(["sample", "--rows", "120", "--seed", "5", "--profile", "short", "--out", test[1]]) == 0
    assert main(["predict", "--model", str(folder / "train_deberta"), *BLOCKS, *test]) == 0
    return Work(cluster, folder)


@pytest.fixture(scope="module")
def running(work: Work, request: pytest.FixtureRequest) -> Running:
    """The scenarios of the tests that were chosen, begun."""
    chosen = {item.callspec.params["job"] for item in request.session.items if item.path == request.path}
    if chosen & FAULTS.keys():
        chosen.add(UNDISTURBED)
    return Running({name: scenario for name, scenario in plan(work).items() if name in chosen})


@pytest.fixture
def text(job: str, running: Running, record_property) -> str:
    """What a scenario's job said, once it has ended well."""
    try:
        return running.result(job)
    finally:
        record_property("slurm", f"{running.seconds[job]:.0f} s from submission to end")


@pytest.mark.parametrize("job", RUNS)
def test_invariant_1_any_number_of_nodes_equals_one_process(job, text, work):
    file, nodes = job.split("-")
    run = work.folder / job / "run"
    environment = json.loads((run / "environment.json").read_text())
    kind = ENGINES.get((file, int(nodes)), "ddp" if nodes != "1" else "single")
    assert (environment["world"], environment["engine"]) == (int(nodes), {"deepspeed": "zero2"}.get(kind, kind))
    assert losses(run) == pytest.approx(losses(work.folder / file), abs=1e-5)  # sums in another order
    assert len(losses(run)) == (STEPS if file in SETTINGS else 4)


@pytest.mark.parametrize("job", PREDICTIONS)
def test_invariant_5_predictions_of_any_number_of_nodes_or_tasks_are_the_same_bytes(job, text, work):
    mine = work.folder / job / "run" / "predictions.csv"
    assert mine.read_bytes() == (work.folder / "prediction" / "predictions.csv").read_bytes()
    assert text.count("restart 0, on n") == (3 if job.endswith("array") else 1)


@pytest.mark.parametrize("job", FAULTS)
def test_a_run_ends_as_undisturbed_through(job, text, running, work):
    running.result(UNDISTURBED)
    one_node = work.folder / "train_llama"
    other = one_node if job == "split" else work.folder / UNDISTURBED / "run"
    assert_as_undisturbed(work.folder / job / "run", other)
    assert job != "split" or "was taken over by a later run" in text


@pytest.mark.parametrize("job", ["hopeless"])
def test_a_job_that_comes_no_further_is_given_up(job, text):
    assert text.count("requeueing job") == 1
    assert "given up: exit code 1 (a rank failed or stood still, see above), requeued 1 times without coming" in text


@pytest.mark.parametrize("job", ["mistaken"])
def test_a_mistake_is_not_requeued(job, text):
    assert "train.lr" in text and "not requeued: exit code 2" in text
