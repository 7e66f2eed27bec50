#!/usr/bin/env bash
# Submits the chain of `tiebreak pipeline`: a job for each stage that is not done, after the jobs of those it needs; the
# folds of a teacher are one array.
#   slurm/pipeline.sh [--dry-run] --recipe first-place --data train.csv --test test.csv --out runs/chain
#   slurm/pipeline.sh --status --recipe first-place --data train.csv --test test.csv --out runs/chain
#   slurm/pipeline.sh --log student --out runs/chain
# A stage that fails ends what needs it; the same command submits what is left, and nothing that is done or queued.
# Settings: GPU_STAGES and CPU_STAGES, options of sbatch for each kind of stage, as
# GPU_STAGES="--nodes=4 --ntasks-per-node=8 --gpus-per-node=8"; GPU_PARTITION, GPU_ACCOUNT, GPU_QOS and CPU_PARTITION,
# ...; AT_ONCE (tasks of an array that run at once); PYTHON, CONTAINER and slurm/site.sh as launch/slurm_site.sh says, and
# those of launch/slurm_env.sh. Logs: OUT/slurm/.
set -euo pipefail
. "${TIEBREAK_HOME:-.}/launch/slurm_chain.sh" pipeline "$@"
