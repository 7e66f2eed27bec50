# shellcheck shell=bash
# Sourced by the files in slurm/: where the job's processes meet, how many threads each has, and what follows a run.
# Settings: PYTHON (.venv/bin/python), MOST_REQUEUES (3: without a new checkpoint in between), OFFLINE (1).

# A name if it resolves here, else Slurm's own address of the job's first node.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
getent ahostsv4 "$MASTER_ADDR" >/dev/null ||
  MASTER_ADDR=$(scontrol show node "$MASTER_ADDR" -o | grep -oP ' NodeAddr=\K\S+')
# From the job and its incarnation: two jobs on a node do not meet, nor does a job meet what is left of its first life.
MASTER_PORT=$((20000 + (SLURM_JOB_ID * 17 + ${SLURM_RESTART_COUNT:-0}) % 10000))
export MASTER_ADDR MASTER_PORT

# srun does not inherit the batch script's.
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}

# Compute nodes often reach no hub, and a look-up that times out costs minutes.
if [[ ${OFFLINE:-1} == 1 ]]; then export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1; fi

PYTHON=${PYTHON:-.venv/bin/python}
# A rank that fails ends the others, and srun does not wait for a node that has died.
# shellcheck disable=SC2034 # used by the files that source this one
RUN=(srun --kill-on-bad-exit=1 --wait=60 "$PYTHON")

# reached FOLDER: how far a run has come, its newest checkpoint; or a prediction, its count of parts.
reached() {
  if [[ -d $1/checkpoints ]]; then
    find "$1/checkpoints" -maxdepth 1 -name 'step-*' -printf '%f\n' | sort | tail -n 1
  else
    { find "$1" -name 'part-*.npz' 2>/dev/null || true; } | wc -l
  fi
}

# finish EXIT_CODE RUN_FOLDER: done, the user's mistake, or once more from the newest checkpoint.
# A run that was asked to stop (75) or lost a rank goes on in the same job, after a requeue; one that comes no
# further than last time, MOST_REQUEUES times in a row, is given up on.
finish() {
  local code=$1 folder=$2 now before=none tries=0 record=$2/requeues
  case $code in
    0) echo "done: $folder"; exit 0 ;;
    2) echo "not requeued: exit code 2 is a mistake to mend, told above"; exit 2 ;;
  esac
  now=$(reached "$folder")
  if [[ -f $record ]]; then read -r before tries <"$record"; fi
  if [[ ${now:-nothing} == "$before" ]]; then tries=$((tries + 1)); else tries=1; fi
  if ((tries > ${MOST_REQUEUES:-3})); then
    echo "not requeued: exit code $code, and nothing beyond ${now:-the start} in $((tries - 1)) attempts"
    exit "$code"
  fi
  mkdir -p "$folder"
  echo "${now:-nothing} $tries" >"$record"
  echo "exit code $code at ${now:-the start}: requeueing job $SLURM_JOB_ID (attempt $tries from there)"
  scontrol requeue "$SLURM_JOB_ID"
  sleep 60 # Slurm ends this script
}
