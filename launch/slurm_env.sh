# shellcheck shell=bash
# Sourced by the files in slurm/: where the job's processes meet, how many threads each has, and what follows a run.
# Settings: MOST_REQUEUES (3: without a new checkpoint in between), OFFLINE (1), TIEBREAK_PREFLIGHT (1), and those of
# launch/slurm_site.sh: PYTHON, CONTAINER.
. launch/slurm_site.sh
# A job whose parts have other shapes: srun would start one of them only, and its ranks wait for the others.
if ((${SLURM_HET_SIZE:-1} > 1)); then
  echo "tiebreak: error: this is a heterogeneous job ($SLURM_HET_SIZE parts), and ranks must be alike: submit one part" >&2
  exit 2
fi

# A task of an array by its own name: some task's plain id is that of the whole array.
JOB=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
JOB=${JOB:-$SLURM_JOB_ID}
LIFE=${SLURM_RESTART_COUNT:-0}
NODES=$(scontrol show hostnames "$SLURM_JOB_NODELIST")

# address HOST: its name if that resolves here, else Slurm's own address of it.
address() {
  if getent ahostsv4 "$1" >/dev/null; then echo "$1"; else
    scontrol show node "$1" -o | grep -oP ' NodeAddr=\K\S+'
  fi
}
MASTER_ADDR=$(address "${NODES%%$'\n'*}")
# From the job and its incarnation: two jobs on a node do not meet, nor does a job meet what is left of its first life.
MASTER_PORT=$((20000 + (SLURM_JOB_ID * 17 + LIFE) % 10000))
export MASTER_ADDR MASTER_PORT

# Debian gives a node's own name the address 127.0.1.1, which gloo would tell the other nodes: name the interface.
# NCCL looks for an interface by itself, and may take one that leads nowhere (a bridge of virtual machines).
if ((SLURM_NNODES > 1)) && [[ $(getent ahostsv4 "$(hostname)") == 127.* ]]; then
  peer=$(getent ahostsv4 "$(address "${NODES##*$'\n'}")" | awk '{ print $1; exit }')
  interface=$(ip -o route get "$peer" | grep -oP ' dev \K\S+')
  export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$interface}
  export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$GLOO_SOCKET_IFNAME}
fi

# The tasks of a node share its cores; with fewer than two each, reading rows and computing take turns.
cores=${SLURM_CPUS_PER_TASK:-$(( ${SLURM_CPUS_ON_NODE:-2} / ${SLURM_NTASKS_PER_NODE:-1} ))}
if ((cores < 2)); then
  echo "note: $cores CPU for each task: reading rows and computing wait for each other; --cpus-per-task=4 or more is usual"
fi
if [[ ${SLURM_TASKS_PER_NODE:-1} == *,* ]]; then
  echo "note: tasks per node differ ($SLURM_TASKS_PER_NODE), so nodes with more of them are waited for: give --ntasks-per-node"
fi

# GPUs that were asked for in another way than the file's own line (--gres, --gpus): its steps would get those of the line.
if [[ ${SLURM_GPUS_ON_NODE:-} && ! ${SLURM_GPUS_PER_TASK:-} ]]; then
  export SLURM_GPUS_PER_NODE=$SLURM_GPUS_ON_NODE
  if ((SLURM_GPUS_ON_NODE < ${SLURM_NTASKS_PER_NODE:-1})); then
    echo "tiebreak: error: $SLURM_NTASKS_PER_NODE tasks on each node, and $SLURM_GPUS_ON_NODE GPU: a task is a rank, and needs one:" \
      "ask for as many GPUs as tasks" >&2
    exit 2
  fi
fi

# srun does not inherit the batch script's.
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}

# Compute nodes often reach no hub, and a look-up that times out costs minutes.
if [[ ${OFFLINE:-1} == 1 ]]; then export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1; fi

# Training and prediction look first whether they can run at all (docs/preflight.md).
export TIEBREAK_PREFLIGHT=${TIEBREAK_PREFLIGHT:-1}

# A rank that fails ends the others, and srun does not wait for a node that has died.
RUN=(srun --kill-on-bad-exit=1 --wait=60 "${IN_CONTAINER[@]}" "${INSIDE[@]}" "$PYTHON")

# reached FOLDER: how far a run has come, its newest checkpoint; or a prediction, its count of parts.
reached() {
  local point
  if [[ -d $1/checkpoints ]]; then
    point=$(find "$1/checkpoints" -maxdepth 1 -name 'step-*' -printf '%f\n' | sort | tail -n 1)
  else
    point=$({ find "$1" -name 'part-*.npz' 2>/dev/null || true; } | wc -l)" parts"
  fi
  case $point in '' | '0 parts') echo "the start" ;; *) echo "$point" ;; esac
}

# meaning EXIT_CODE
meaning() {
  case $1 in
    75) echo "asked to stop, and did" ;;
    1) echo "a rank failed or stood still, see above" ;;
    *) if (($1 > 128)); then echo "a rank was ended by SIG$(kill -l $(($1 - 128)))"; else echo "see above"; fi ;;
  esac
}

# run FOLDER SCRIPT OPTION...: the job's one step, and what follows it: done, the user's mistake, or once more from
# the newest checkpoint. $given_up says why it is not run again. A run that was asked to stop (75) or lost a rank goes
# on in the same job, after a requeue; one that comes no further, MOST_REQUEUES times in a row, is given up on, whoever
# requeued it.
run() {
  local folder=$1 most=${MOST_REQUEUES:-3} code=0 asked='' ended='' from now before lives=1 record again word
  record=$folder/requeues${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}
  shift
  mkdir -p "$folder"
  from=$(reached "$folder")
  if ((LIFE > 0)) && [[ -f $record ]]; then
    read -r lives before <"$record"
    if [[ $before == "$from" ]]; then lives=$((lives + 1)); else lives=1; fi
  fi
  echo "$lives $from" >"$record"
  echo "job $JOB, restart $LIFE, on ${NODES//$'\n'/ }: from $from"
  if ((lives > most + 1)); then
    given_up="requeued $most times without coming beyond $from"
    echo "given up: $given_up; before you submit it again, correct what the messages above say"
    exit 1
  fi

  # A signal meant for the ranks may come to this script, and Slurm's SIGTERM comes to both.
  trap 'asked=1; scancel --signal=USR2 "$JOB"' USR1 USR2
  trap 'asked=1 ended=1' TERM
  # srun has the highest code of all ranks: a 2 hides behind the 75 or the SIGTERM of those that it ends meanwhile.
  # The word lies beside the run folder, in which a rank writes nothing once a later run has taken it over.
  word=$(dirname "$folder")/.$(basename "$folder").mistake-$JOB
  rm -f "$word"-*
  export TIEBREAK_MISTAKE=$word-$LIFE
  "${RUN[@]}" "$@" &
  while asked='' code=0; wait $! || code=$?; [[ $asked ]]; do :; done
  if [[ -e $TIEBREAK_MISTAKE ]]; then
    code=2
    rm -f "$TIEBREAK_MISTAKE"
  fi

  now=$(reached "$folder")
  if ((code == 0)); then
    echo "done: $folder"
  elif ((code == 2)); then
    echo "not requeued: exit code 2 is a mistake to correct, see the message above"
  elif [[ $ended ]]; then
    again=${command:+slurm/$command.sh with the same words}
    echo "exit code $code ($(meaning $code)) at $now: Slurm ends this life of the job (cancelled, preempted, out of time, or a" \
      "node failed); unless Slurm requeues it, ${again:-the same sbatch line with OUT=$folder} goes on from there"
  elif [[ $(scontrol show job "$JOB" -o | grep -oP ' Restarts=\K\d+') != "$LIFE" ]]; then
    # A node that comes back from beyond a network cut must not requeue what runs elsewhere by now.
    echo "exit code $code ($(meaning $code)): this job runs again already, or Slurm does not answer: see squeue"
  elif [[ $now == "$from" ]] && ((lives > most)); then
    given_up="exit code $code ($(meaning $code)), requeued $most times without coming beyond $from"
    echo "given up: $given_up; before you submit it again, correct what the messages above say"
  else
    echo "exit code $code ($(meaning $code)) at $now: requeueing job $JOB"
    if scontrol requeue "$JOB"; then exec sleep 60; fi # Slurm ends it
    echo "not requeued: submit the same command again"
  fi
  exit "$code"
}
