#!/usr/bin/env bash
# Submits `tiebreak sweep`: an array for each rung, a task for each trial, and between two rungs a job that decides.
#   slurm/sweep.sh [--dry-run] SPACE.yaml --recipe deberta-v3-base --data train.csv --out runs/sweep
#   slurm/sweep.sh --status SPACE.yaml --recipe deberta-v3-base --data train.csv --out runs/sweep
#   slurm/sweep.sh --log rung-0.0/3 --out runs/sweep
# A trial whose node dies is requeued and goes on from its newest checkpoint. One that fails by its own mistake, or
# comes no further after MOST_REQUEUES, is told as such in the table. The same command submits what is left.
# Settings: as slurm/pipeline.sh; GPU_STAGES is the shape of one trial's job.
set -euo pipefail
. "${TIEBREAK_HOME:-.}/launch/slurm_chain.sh" sweep "$@"
