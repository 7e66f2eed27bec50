"""Slurm's own daemons, where they are installed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from minicluster import INSTALLED, Cluster, cluster_of
from warm_node import warm_python


@pytest.fixture(scope="session", autouse=True)
def slurm() -> None:
    """Without Slurm these tests are left out, and fail where TIEBREAK_SLURM=required."""
    if not INSTALLED:
        reason = "Slurm is not installed: launch/minislurm install (Debian packages, as root)"
        if os.environ.get("TIEBREAK_SLURM") == "required":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def warm_program(slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What jobs take for Python where nothing speaks against it."""
    with warm_python(tmp_path_factory.mktemp("warm")) as program:
        yield str(program)


@pytest.fixture(scope="session")
def cluster(warm_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Six nodes, so that several jobs of two and three run and fail beside one another."""
    with cluster_of(tmp_path_factory.mktemp("slurm") / "cluster", 6) as cluster:
        cluster.environment["PYTHON"] = warm_program
        yield cluster


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cluster"
