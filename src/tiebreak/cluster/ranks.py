"""Rank and world size from the launcher, and the process group.

Imports torch only where it is used: the preflight asks for the rank without it.
"""

import contextlib
import datetime
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tiebreak.cluster.machine import own_gpu, refuse_unbuilt_gpu, refuse_unusable_gpus
from tiebreak.errors import UserError
from tiebreak.preemption import INTERRUPTED, STOPPED, Stopped
from tiebreak.process import share_cores
from tiebreak.storage import explain, explain_shortage
from tiebreak.terminal import complain

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

OTHER_RANKS_WAIT_S = 3.0
MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")
"""Where Open MPI, and MPICH and its relatives, tell a process how many there are."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the job. `rank` counts over all nodes, `local_rank` on this one."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which speaks and writes for the job."""
        return self.rank == 0

    @property
    def device(self) -> "torch.device":
        """The GPU of this rank, or the CPU where there is none.

        Raises:
            UserError: GPUs that torch cannot use, or too few.
        """
        import torch

        if torch.cuda.is_available():
            own = own_gpu(self.local_rank, torch.cuda.device_count())
            refuse_unbuilt_gpu(own)
            return torch.device("cuda", own)
        refuse_unusable_gpus()
        return torch.device("cpu")


def find_ranks() -> Ranks:
    """Read the ranks from RANK (torchrun, deepspeed), else from a Slurm step of several tasks, else one process.

    Raises:
        UserError: an environment that names a rank but lacks the rest, or ranks that cannot be.
    """
    env = os.environ
    try:
        if "RANK" in env:
            if "WORLD_SIZE" not in env:
                raise UserError(
                    "RANK is set but WORLD_SIZE is not; start with torchrun, deepspeed or srun, or unset "
                    "RANK for one process"
                )
            ranks = Ranks(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0)))
            named = f"RANK={ranks.rank} and WORLD_SIZE={ranks.world}"
        # SLURM_PROCID is 0 in a batch script too; only a step started by srun has a task count.
        elif int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
            ranks = Ranks(int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"]), int(env["SLURM_LOCALID"]))
            named = f"a Slurm step of {ranks.world} tasks"
        else:
            return Ranks()
        if not 0 <= int(env.get("MASTER_PORT", 0)) < 1 << 16:
            raise ValueError(f"MASTER_PORT={env['MASTER_PORT']} is not a port from 0 to 65535")
    except (KeyError, ValueError) as error:
        raise UserError(
            f"the launcher's variables are incomplete or not numbers ({error}): start with torchrun, deepspeed or srun"
        ) from None
    if not 0 <= ranks.rank < ranks.world or ranks.local_rank < 0:
        raise UserError(f"{named}: there is no such rank; start with torchrun, deepspeed or srun")
    if absent := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not env.get(name) and ranks.world > 1]:
        raise UserError(
            f"{named}, but {' and '.join(absent)} must be set too: start with torchrun, deepspeed or slurm/*.sbatch, "
            "which set them; for one process alone: unset RANK WORLD_SIZE LOCAL_RANK"
        )
    return ranks


def refuse_mpi() -> None:
    """Refuse to train as one of several processes of an MPI launcher, each of which would believe to be alone.

    Raises:
        UserError: MPI says how many processes there are, and nothing else does.
    """
    sizes = {name: os.environ.get(name, "") for name in MPI_SIZES}
    several = [f"{name}={size}" for name, size in sizes.items() if size.isdecimal() and int(size) > 1]
    if several and find_ranks().world == 1 and "RANK" not in os.environ:
        raise UserError(
            f"{several[0]}: MPI's ranks are not known here, so each process would train alone. Start with torchrun, "
            "deepspeed or srun, or set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT from MPI's variables; "
            f"for one process alone: unset {' '.join(word.partition('=')[0] for word in several)}"
        )


def join(ranks: Ranks, timeout_s: int, always: bool = False, store: "dist.Store | None" = None) -> None:
    """Form the process group of a job of several ranks (or `always`): NCCL on GPUs, gloo elsewhere.

    Args:
        ranks: this process among the job's.
        timeout_s: seconds after which a collective that does not end is an error.
        always: form a group of one process too.
        store: in which the ranks have signed in already (tiebreak.cluster.meeting).
    """
    import torch
    import torch.distributed as dist

    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)
    if dist.is_initialized() or not (always or ranks.world > 1):
        return
    backend = "cuda:nccl,cpu:gloo" if ranks.device.type == "cuda" else "gloo"
    timeout = datetime.timedelta(seconds=timeout_s)
    if ranks.world == 1:
        store = dist.HashStore()  # one process needs no port
    if "RANK" not in os.environ:  # DeepSpeed reads these
        os.environ |= {"RANK": str(ranks.rank), "WORLD_SIZE": str(ranks.world), "LOCAL_RANK": str(ranks.local_rank)}
    dist.init_process_group(backend, timeout=timeout, store=store, rank=ranks.rank, world_size=ranks.world)


def settle_process() -> None:
    """Give this process its GPU and its share of the node's cores, before it computes. Imports torch."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(find_ranks().device)
    here = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("SLURM_NTASKS_PER_NODE", ""))
    share_cores(int(here) if here.isdecimal() and int(here) else find_ranks().world)


def own_rank() -> int:
    """Return the rank that the environment names, 0 without one: for messages, where `find_ranks` may be what fails."""
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", ""))
    return int(rank) if rank.isdecimal() else 0


def leave_word_of_a_mistake() -> None:
    """Leave the file that TIEBREAK_MISTAKE names: srun's exit code is the highest of all ranks, not this one's 2."""
    if path := os.environ.get("TIEBREAK_MISTAKE"):
        with contextlib.suppress(OSError):
            Path(path).touch()


def print_error(error: UserError) -> int:
    """Print the error and return exit code 2. Other ranks wait 3 s, so that rank 0's message comes first.

    A launcher that ends the others with SIGTERM meanwhile gets code 2 of them too, not that of a run that may go on.
    """
    with contextlib.suppress(ValueError):  # a thread other than the main one
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    leave_word_of_a_mistake()
    rank = own_rank()
    if rank:
        time.sleep(OTHER_RANKS_WAIT_S)
    complain(f"tiebreak: error{f' (rank {rank})' if rank else ''}: {error}")
    return 2


@contextlib.contextmanager
def joined(ranks: Ranks, timeout_s: int, always: bool = False, store: "dist.Store | None" = None) -> Iterator[None]:
    """Hold the process group around the job's work; a job of several ranks ends with it, process and all.

    Gloo's threads give back Python tensors some time after an operation has ended. A group that is destroyed
    before that, by us or by the last reference to it, waits for a thread that waits for the interpreter lock. So
    no rank tears its group down: all pass a barrier and end at once, and a failing rank ends without one; its
    launcher then ends the others.

    Args:
        ranks: this process among the job's.
        timeout_s: as `join`, like the rest.
        always: form a group of one process too.
        store: in which the ranks have signed in already.
    """
    import torch.distributed as dist

    join(ranks, timeout_s, always, store)
    try:
        yield
        code = 0
    except SystemExit as error:
        if ranks.world == 1:
            raise
        if isinstance(error, Stopped) and error.alone:
            _end(STOPPED)
        code = int(error.code or 0)
    except BaseException as error:
        if ranks.world == 1:
            raise
        told = (explain(error) if isinstance(error, OSError) else explain_shortage(error)) or error
        if isinstance(told, UserError):
            _end(print_error(told))
        if isinstance(error, KeyboardInterrupt):
            complain(f"tiebreak: interrupted (rank {ranks.rank})")
            _end(INTERRUPTED)
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            _say_gone(ranks, error)
            _end(1)
        traceback.print_exc()
        _end(1)
    if ranks.world > 1:
        try:
            dist.barrier()
        except RuntimeError as error:  # the work is done here, and perhaps not there
            _say_gone(ranks, error)
            _end(1)
        _end(code)
    if dist.is_initialized():
        dist.destroy_process_group()


def _say_gone(ranks: Ranks, error: BaseException) -> None:
    told = f"another rank has ended, see its message: {str(error).splitlines()[0]}"
    complain(f"tiebreak: error (rank {ranks.rank}): {told}")


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def agree(value: Any) -> Any:
    """Return rank 0's value on every rank."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
