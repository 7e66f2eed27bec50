"""Whether the nodes of a job reach one another, agree about the time, and add up correctly."""

import json
import os
import platform
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

from tiebreak.cluster.meeting import POLL_S, ClockServer, find_nodes, probe_all
from tiebreak.cluster.ranks import Ranks, agree, print_error
from tiebreak.errors import UserError
from tiebreak.preflight.findings import FAIL, NOTE, Finding, as_rows, from_rows
from tiebreak.preflight.gpus import compare_gpus
from tiebreak.preflight.memory import Estimate

if TYPE_CHECKING:
    import torch.distributed as dist

SKEW_NOTE_S, SKEW_FAIL_S = 1.0, 60.0
"""Half of the time after which the lock on a token cache, judged by its age, counts as abandoned."""
BUFFER = 4 * 2**20
"""Elements of the all-reduce whose bandwidth is measured: 16 MiB."""
REPEATS = 3


def exchange(store: "dist.Store", ranks: Ranks, own: list[Finding]) -> list[Finding]:
    """Return every node's findings on every rank: rank 0's, other nodes' failures, and how the nodes reach each other.

    Args:
        store: of the job.
        ranks: this process among the job's.
        own: this node's findings, by its first rank.
    """
    clock = ClockServer()
    nodes = find_nodes(store, ranks, clock.port)
    speaker = any(node.rank == ranks.rank for node in nodes)
    several = len({node.name for node in nodes}) > 1
    if speaker:
        silent, clocks = probe_all(nodes, ranks.rank)
        if several:
            own = [*own, *_names_of_this_node()]
        report = {"own": as_rows(own), "silent": silent, "clocks": clocks}
        store.set(f"report-{ranks.rank}", json.dumps(report))
    if ranks.first:
        reports = {node: json.loads(store.get(f"report-{node.rank}")) for node in nodes}
        findings = from_rows(reports[nodes[0]]["own"])
        for node in nodes[1:]:
            failed = [row for row in from_rows(reports[node]["own"]) if row.failed and row not in findings]
            findings += [Finding(row.check, f"on {node.name}: {row.text}", row.verdict) for row in failed]
        gpus = {
            node.name: next((row["text"] for row in reports[node]["own"] if row["check"] == "GPUs"), None)
            for node in nodes
        }
        findings += compare_gpus(gpus)
        if silences := [text for report in reports.values() for text in report["silent"]]:
            findings.append(Finding("nodes", "; ".join(silences) + ": a firewall, or a wrong name?", FAIL))
        else:
            listed = ", ".join(sorted({node.name for node in nodes}))
            findings.append(Finding("nodes", f"{ranks.world} ranks on {listed} reach one another"))
        if several:
            findings.append(clock_finding(reports[nodes[0]]["clocks"]))
        store.set("findings", json.dumps(as_rows(findings)))
    shared = from_rows(json.loads(store.get("findings")))
    clock.close()
    return shared


def exit_together(store: "dist.Store", ranks: Ranks, timeout_s: float = 10) -> None:
    """End no rank before every rank knows that the job ends, and rank 0, which holds the store, last.

    Otherwise the launcher would end the others with SIGTERM at the first that ends, and the job's exit code would
    differ.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    deadline = time.monotonic() + timeout_s
    for step in ("knows", "leaves"):
        store.add(step, 1)
        while step == "knows" or ranks.first:
            if store.add(step, 0) >= ranks.world or time.monotonic() > deadline:
                break
            time.sleep(POLL_S)


def clock_finding(clocks: dict[str, tuple[float, float]]) -> Finding:
    """Judge how far nodes' clocks are ahead of this node's; (seconds, their error) by name."""
    if not clocks:
        return Finding("clocks", "no node answered", NOTE)
    name, (ahead, error) = max(clocks.items(), key=lambda item: abs(item[1][0]))
    text = f"{name} is {ahead:+.3f} s off {platform.node()} (±{error:.3f}), the others less"
    if abs(ahead) > SKEW_FAIL_S:
        return Finding("clocks", f"{text}: set the clocks, files' ages decide who holds a lock", FAIL)
    return Finding("clocks", text, NOTE if abs(ahead) > SKEW_NOTE_S else "ok")


def _names_of_this_node() -> list[Finding]:
    """Gloo listens where the node's own name leads: at a loopback address no other node finds it."""
    if os.environ.get("GLOO_SOCKET_IFNAME"):
        return []
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError as error:
        return [
            Finding("names", f"{platform.node()} does not resolve its own name ({error}): add it to /etc/hosts", FAIL)
        ]
    if not address.startswith("127."):
        return []
    advice = "set GLOO_SOCKET_IFNAME to the network's interface, or correct /etc/hosts"
    return [Finding("names", f"{platform.node()}'s own name leads to {address}: {advice}", FAIL)]


def check_collectives(store: "dist.Store", ranks: Ranks, timeout_s: float, needs: Estimate | None) -> Finding:
    """Check all-reduce on sums that are known beforehand, and measure its speed; every rank must call this.

    Ends the process where it takes longer than `timeout_s`: a collective that hangs cannot be left.
    """
    import torch
    import torch.distributed as dist

    timer = threading.Timer(timeout_s + 3 * (not ranks.first), _give_up, (store, ranks, timeout_s))
    timer.daemon = True
    timer.start()
    store.set(f"adds-{ranks.rank}", "1")
    places = torch.arange(BUFFER, device=ranks.device) % ranks.world
    values = torch.where(places == ranks.rank, places + 1.0, 0.0)
    expected = places + 1.0
    dist.all_reduce(values)
    correct = bool((values == expected).all())
    seconds = []
    for _ in range(REPEATS):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(values)
        float(values[0])  # a GPU's work is over when its result is read
        seconds.append(time.perf_counter() - started)
    verdicts: list[bool | None] = [None] * ranks.world
    dist.all_gather_object(verdicts, correct)
    timer.cancel()
    if wrong := [rank for rank, right in enumerate(verdicts) if not right]:
        raise UserError(
            f"all-reduce: the sum over {ranks.world} ranks is wrong on rank {', '.join(map(str, wrong[:8]))}: "
            "the network or its library is broken there; try without that rank's node"
        )
    fastest = agree(min(seconds))
    speed = 2 * (ranks.world - 1) / ranks.world * 4 * BUFFER / fastest
    text = f"right on {ranks.world} ranks, {speed / 1e9:.2f} GB/s a rank"
    if needs is not None:
        share = 2 * (ranks.world - 1) / ranks.world * needs.trained / speed
        text += f": a step's {needs.trained / 1e6:,.0f} MB of gradients in {share:.2f} s"
    return Finding("all-reduce", text)


def _give_up(store: "dist.Store", ranks: Ranks, timeout_s: float) -> None:
    try:
        absent = [rank for rank in range(ranks.world) if not store.check([f"adds-{rank}"])]
    except Exception:
        absent = []  # rank 0 has gone with its store, and has said why
    who = f"rank {', '.join(map(str, absent))} did not begin it" if absent else "all ranks began it and none could end"
    print_error(
        UserError(
            f"all-reduce: not done after {timeout_s:.0f} s; {who}: the nodes' fast network is not usable; name another "
            "one in NCCL_SOCKET_IFNAME (on CPUs GLOO_SOCKET_IFNAME), or try other nodes"
        )
    )
    sys.stdout.flush()
    os._exit(2)
