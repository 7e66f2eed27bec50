"""slurm/sweep.sh: trials as tasks of arrays, a node that dies, and the table of an undisturbed sweep."""

import pytest
from minicluster import LIMIT_S, cluster_of
from sweeping import sweep_through_kills

pytestmark = [pytest.mark.processes, pytest.mark.timeout(LIMIT_S)]


def test_a_sweep_ends_with_the_undisturbed_table_though_a_node_is_killed(slurm, folder, warm_program, sample, tmp_path):
    """`python tests/slurm/sweeping.py` does it with 24 trials and three nodes."""
    with cluster_of(folder, 3, MINISLURM_TIMEOUT="5") as cluster:
        cluster.environment["PYTHON"] = warm_program
        sweep_through_kills(cluster, tmp_path, sample, 6, (1,))
