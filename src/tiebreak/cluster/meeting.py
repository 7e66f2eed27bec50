"""Connect the ranks of a job before they form a process group, and name those that do not come.

A process group that lacks a rank says only that time has run out. Here every rank signs in at rank 0's store, and
then a process of each node probes the others, which answers two questions at once: whether the nodes reach one
another, and how far apart their clocks are.
"""

import datetime
import json
import os
import platform
import re
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tiebreak.cluster.ranks import Ranks
from tiebreak.errors import UserError

if TYPE_CHECKING:
    import torch.distributed as dist

POLL_S = 0.1
PROBE_S = 5.0
"""A node that has signed in answers a probe within this."""
MAX_UNREACHABLE = 3


@dataclass(frozen=True)
class Node:
    """The process that speaks for a node: its rank, its host name, and where it answers probes."""

    rank: int
    name: str
    address: str
    port: int


def meet(ranks: Ranks, timeout_s: float) -> "dist.Store":
    """Sign this rank in at rank 0's store, wait for the others, and return the store.

    Args:
        ranks: this process among the job's.
        timeout_s: seconds that all ranks have to sign in.

    Raises:
        UserError: naming the ranks that did not come in time, and their nodes as far as Slurm tells them.
    """
    import torch.distributed as dist

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    deadline = time.monotonic() + timeout_s
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun holds the store
    timeout = datetime.timedelta(seconds=timeout_s)
    try:
        tcp = dist.TCPStore(
            address, port, None, ranks.first and not agent, timeout, wait_for_workers=False, multi_tenant=True
        )
    except (dist.DistError, RuntimeError) as error:
        raise UserError(
            f"{platform.node()} (rank {ranks.rank}) cannot reach {address}:{port}, where rank 0 waits, in "
            f"{timeout_s:.0f} s ({str(error).splitlines()[0]}): do the nodes resolve each other's names, and is the "
            "port open between them?"
        ) from None
    store = dist.PrefixStore(f"preflight-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", tcp)
    store.set(f"here-{ranks.rank}", platform.node())
    store.add("here", 1)
    while store.add("here", 0) < ranks.world:
        if time.monotonic() > deadline:
            absent = [rank for rank in range(ranks.world) if not store.check([f"here-{rank}"])]
            raise UserError(
                f"{_list_ranks(absent, _nodes_of_ranks())} did not sign in at {address}:{port} within {timeout_s:.0f} "
                f"s, the other {ranks.world - len(absent)} ranks did: is the node up, and does it reach {address}?"
            )
        time.sleep(POLL_S)
    return store


def _list_ranks(ranks: list[int], nodes: list[str]) -> str:
    """List ranks by node, as in `n2 (ranks 4, 5)`."""
    by_node: dict[str, list[int]] = {}
    for rank in ranks:
        by_node.setdefault(nodes[rank] if rank < len(nodes) else "", []).append(rank)
    parts = []
    for node, members in by_node.items():
        listed = f"rank{'s' * (len(members) > 1)} {', '.join(map(str, members))}"
        parts.append(f"{node} ({listed})" if node else listed)
    return "; ".join(parts)


def _nodes_of_ranks() -> list[str]:
    """Return the node of each rank of this Slurm step, in the order of ranks; empty without Slurm."""
    names = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST")
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("SLURM_TASKS_PER_NODE")
    if not names or not tasks or ("RANK" in os.environ and "SLURM_STEP_NUM_TASKS" not in os.environ):
        return []
    try:
        shown = subprocess.run(
            ["scontrol", "show", "hostnames", names], capture_output=True, text=True, timeout=PROBE_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    counts = [
        int(count) for part in tasks.split(",") for count, times in _parse_counts(part) for _ in range(int(times or 1))
    ]
    return [node for node, count in zip(shown.stdout.split(), counts, strict=False) for _ in range(count)]


def _parse_counts(part: str) -> list[tuple[str, str]]:
    """Read Slurm's counts: `2(x3)` is two tasks on each of three nodes."""
    return re.findall(r"^(\d+)(?:\(x(\d+)\))?$", part)


class ClockServer:
    """Answers probes with this machine's time, until closed."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("", 0), backlog=512)
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            with connection:
                connection.sendall(struct.pack("!d", time.time()))

    def close(self) -> None:
        """Stop answering and free the port."""
        self._socket.close()


def probe(node: Node, timeout_s: float = PROBE_S) -> tuple[float, float]:
    """Measure how far the node's clock is ahead of this one's, and the error, half the round trip; both in seconds.

    Raises:
        OSError: it does not answer.
    """
    asked = time.time()  # before the connection: it may be answered at once
    with socket.create_connection((node.address, node.port), timeout=timeout_s) as answer:
        received = b""
        while len(received) < 8:
            if not (more := answer.recv(8 - len(received))):
                raise ConnectionError("hung up")
            received += more
        answered = time.time()
    return struct.unpack("!d", received)[0] - (asked + answered) / 2, (answered - asked) / 2


def own_address(ranks: Ranks) -> str:
    """Return this node's address as the others reach it: the one that the route to rank 0 starts from."""
    master = os.environ["MASTER_ADDR"]
    if ranks.first:
        return master
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect((master, int(os.environ["MASTER_PORT"])))  # sends nothing
        address: str = route.getsockname()[0]
        return address


def find_nodes(store: "dist.Store", ranks: Ranks, port: int) -> list[Node]:
    """Return the first rank of every node, which speaks for it; every rank must call this.

    Args:
        store: of the job.
        ranks: this process among the job's.
        port: where this process answers probes.
    """
    own = [platform.node(), own_address(ranks), port] if ranks.local_rank == 0 else None
    store.set(f"node-{ranks.rank}", json.dumps(own))
    if ranks.first:
        speakers = [json.loads(store.get(f"node-{rank}")) for rank in range(ranks.world)]
        store.set("nodes", json.dumps([[rank, *node] for rank, node in enumerate(speakers) if node]))
    return [Node(*node) for node in json.loads(store.get("nodes"))]


def probe_all(nodes: list[Node], own_rank: int) -> tuple[list[str], dict[str, tuple[float, float]]]:
    """Return a sentence for each node that does not answer, and the others' clocks against this one's (see `probe`)."""
    silent: list[str] = []
    clocks: dict[str, tuple[float, float]] = {}
    for node in nodes:
        if node.rank == own_rank or len(silent) >= MAX_UNREACHABLE:
            continue
        try:
            clocks[node.name] = probe(node)
        except OSError as error:
            why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
            silent.append(f"{node.name} cannot be reached from {platform.node()} ({node.address}: {why})")
    return silent, clocks
