#!/usr/bin/env bash
# Submits the chain of `tiebreak pipeline`: a job for each stage that is not done, after the jobs of those it needs.
#   slurm/pipeline.sh [--dry-run] --recipe first-place --data train.csv --test test.csv --out runs/chain
# A stage that fails ends what needs it; the same command submits what is left, and nothing that is done or queued.
# Settings: GPU_STAGES and CPU_STAGES, options of sbatch for each kind of stage, as
# GPU_STAGES="--nodes=4 --ntasks-per-node=8 --gpus-per-node=8"; PYTHON (.venv/bin/python), and those of
# launch/slurm_env.sh. Logs: OUT/slurm/.
set -euo pipefail
cd "${TIEBREAK_HOME:-$PWD}"
dry='' options=() out=''
for word in "$@"; do
  case $word in
    --dry-run) dry=1; continue ;;
    --out=*) out=${word#--out=} ;;
    *) if [[ ${options[*]: -1} == --out ]]; then out=$word; fi ;;
  esac
  options+=("$word")
done
record=$out/slurm/jobs
read -ra on_gpus <<<"${GPU_STAGES:-}"
read -ra on_cpus <<<"--nodes=1 --ntasks-per-node=1 --gpus-per-node=0 ${CPU_STAGES:-}"

# The queue first: what leaves it meanwhile is done in the list.
queue=$(squeue --noheader --user="$(id -un)" --format='%i %j') || {
  echo "pipeline.sh: Slurm does not answer (see above). Without a cluster, tiebreak pipeline runs the same chain." >&2
  exit 2
}
stages=$("${PYTHON:-.venv/bin/python}" -m tiebreak pipeline "${options[@]}" --stages)
# queued JOB_NAME: the id of a job that an earlier call submitted and Slurm has not done with
queued() {
  { grep -xFf "$record" <<<"$queue" 2>/dev/null || true; } | awk -v name="$1" '$2 == name { id = $1 } END { print id }'
}

declare -A job=()
new=0
while IFS=$'\t' read -r name needs kind state; do
  if [[ $state != todo ]]; then continue; fi # done, or a note beside the list
  label=${name//\//.} after=''
  job[$name]=$(queued "$label")
  if [[ ${job[$name]} ]]; then continue; fi
  for need in ${needs//,/ }; do after+=${job[$need]:+:${job[$need]}}; done
  words=(sbatch --parsable --kill-on-invalid-dep=yes --job-name="$label" --output="$out/slurm/%x-%j.out")
  if [[ $after ]]; then words+=(--dependency="afterok$after"); fi
  if [[ $kind == gpu ]]; then words+=("${on_gpus[@]}"); else words+=("${on_cpus[@]}"); fi
  words+=(slurm/stage.sbatch "$kind" "$name" "$out" "${options[@]}")
  new=$((new + 1))
  if [[ $dry ]]; then
    job[$name]="<$label>"
    echo "${words[*]}"
  else
    mkdir -p "$out/slurm"
    job[$name]=$("${words[@]}")
    echo "${job[$name]} $label" | tee -a "$record"
  fi
done <<<"$stages"

count=$(grep -cP '\t(done|todo)$' <<<"$stages")
if [[ $dry ]]; then echo "$new of $count stages would be submitted"; exit; fi
echo "$new of $count stages submitted, ${#job[@]} not done yet"
if ((${#job[@]})); then
  ids=$(printf '%s\n' "${job[@]}" | sort -n | paste -sd ,)
  echo "watch them: squeue --jobs=$ids --format='%.8i %.24j %.10T %.10M %R'"
  echo "A stage that fails ends those that need it; then read $out/slurm/, and the same command goes on."
fi
