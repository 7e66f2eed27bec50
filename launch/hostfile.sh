#!/usr/bin/env bash
# Prints the hostfile of a Slurm job, a slot for each of its tasks, for those who want DeepSpeed's own launcher:
#   launch/hostfile.sh >hostfile && HOSTFILE=hostfile launch/deepspeed.sh --recipe gemma2-9b ...
# That launcher needs pdsh, and ssh from node to node; slurm/*.sbatch need neither.
set -euo pipefail
: "${SLURM_JOB_NODELIST:?run it within a job, as salloc or sbatch starts one}"
# Slurm writes 2(x3),1 for 2, 2, 2 and 1.
tasks() { tr , '\n' <<<"$SLURM_TASKS_PER_NODE" | awk -F '[(x)]+' '{ for (k = $2 ? $2 : 1; k > 0; k--) print "slots=" $1 }'; }
paste -d ' ' <(scontrol show hostnames "$SLURM_JOB_NODELIST") <(tasks)
