"""Ranks from every launcher's environment, and whose message comes first."""

import pytest

from tiebreak.cli import main
from tiebreak.cluster import ranks
from tiebreak.cluster.ranks import MPI_SIZES, Ranks, find_ranks, own_rank, print_error, refuse_mpi
from tiebreak.errors import UserError
from tiebreak.preemption import Stopped

SLURM = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
ADDRESS = {"MASTER_ADDR": "n1", "MASTER_PORT": "20001"}


@pytest.fixture
def environment(monkeypatch):
    for name in (*SLURM, *ADDRESS, "RANK", "WORLD_SIZE", "LOCAL_RANK", *MPI_SIZES):
        monkeypatch.delenv(name, raising=False)
    return lambda values: [monkeypatch.setenv(name, value) for name, value in values.items()]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, Ranks(0, 1, 0)),
        (ADDRESS | {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, Ranks(2, 4, 0)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Ranks(0, 1, 0)),  # one process needs no address
        (SLURM | ADDRESS, Ranks(3, 4, 1)),
        # torchrun inside a Slurm step: the launcher's own ranks count.
        (SLURM | ADDRESS | {"RANK": "1", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Ranks(1, 8, 1)),
        # A batch script that calls python without srun is one process, whatever the job's size.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Ranks(0, 1, 0)),
    ],
)
def test_ranks_of_each_launcher(environment, values, expected):
    environment(values)
    assert find_ranks() == expected


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (SLURM, "MASTER_ADDR"),
        ({"RANK": "1"}, "WORLD_SIZE"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "invalid literal"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT.*unset RANK"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "n1"}, "but MASTER_PORT"),
        (ADDRESS | {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "x"}, "invalid literal"),
        (ADDRESS | {"RANK": "5", "WORLD_SIZE": "2"}, "no such rank"),
        (ADDRESS | {"RANK": "-1", "WORLD_SIZE": "2"}, "no such rank"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "no such rank"),
    ],
)
def test_an_incomplete_environment_is_reported(environment, values, sentence):
    environment(values)
    with pytest.raises(UserError, match=sentence):
        find_ranks()


def test_ranks_left_in_the_shell_are_one_message(environment, capsys):
    environment({"RANK": "0", "WORLD_SIZE": "2"})
    assert main(["train", "--recipe", "demo-llama2"]) == 2
    assert "MASTER_ADDR" in capsys.readouterr().err


@pytest.mark.parametrize("name", MPI_SIZES)
def test_processes_of_mpi_do_not_train_side_by_side_unknown_to_each_other(environment, capsys, name):
    environment({name: "1"})
    refuse_mpi()
    environment({name: "2"})
    assert main(["train", "--recipe", "demo-llama2"]) == 2
    told = capsys.readouterr().err
    assert f"{name}=2" in told and "MPI's ranks are not known" in told
    environment(ADDRESS | {"RANK": "0", "WORLD_SIZE": "2"})
    refuse_mpi()


@pytest.mark.parametrize(
    ("values", "rank"),
    [({}, 0), ({"RANK": "2"}, 2), ({"SLURM_PROCID": "3"}, 3), ({"RANK": "one"}, 0), ({"RANK": ""}, 0)],
)
def test_the_rank_of_a_message_needs_no_whole_environment(environment, values, rank):
    environment(values)
    assert own_rank() == rank


def test_rank_0_speaks_first_and_the_others_name_themselves(environment, monkeypatch, capsys, restored_state):
    waited: list[float] = []
    monkeypatch.setattr(ranks.time, "sleep", waited.append)
    assert print_error(UserError("no such file")) == 2
    assert (waited, capsys.readouterr().err) == ([], "tiebreak: error: no such file\n")
    environment({"RANK": "1"})
    assert print_error(UserError("no such file")) == 2
    assert (waited, capsys.readouterr().err) == ([3.0], "tiebreak: error (rank 1): no such file\n")


@pytest.mark.parametrize(
    ("error", "code", "waits"),
    [(Stopped(alone=True), 75, False), (Stopped(), 75, True), (KeyboardInterrupt(), 130, False)],
)
def test_a_rank_that_is_stopped_alone_waits_for_no_other(error, code, waits, monkeypatch):
    import torch.distributed as dist

    class Ended(BaseException):
        pass

    def end(number):
        raise Ended(number)

    met = []
    monkeypatch.setattr(ranks, "join", lambda *arguments: None)
    monkeypatch.setattr(ranks, "_end", end)
    monkeypatch.setattr(dist, "barrier", lambda: met.append(True))
    with pytest.raises(Ended) as ended, ranks.joined(Ranks(1, 2, 1), 60):
        raise error
    assert ended.value.args == (code,) and bool(met) == waits


def test_a_mistake_leaves_word_for_the_batch_script(tmp_path, environment, restored_state):
    word = tmp_path / "mistake"
    environment({"TIEBREAK_MISTAKE": str(word)})
    assert print_error(UserError("no such file")) == 2
    assert word.exists()
    word.unlink()
    assert main(["train", "--no-such-option"]) == 2
    assert word.exists()
    environment({"TIEBREAK_MISTAKE": str(tmp_path / "no" / "folder")})
    assert print_error(UserError("no such file")) == 2
