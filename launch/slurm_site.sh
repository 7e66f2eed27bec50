# shellcheck shell=bash
# Sourced by launch/slurm_env.sh in jobs and by launch/slurm_chain.sh where they are submitted: what this cluster needs
# (slurm/site.sh, if there is one), and how Python is started.
# Settings: PYTHON (.venv/bin/python; python in a container); CONTAINER, an image in which all ranks run: a .sif file by
# `apptainer exec`, anything else (a registry's name, a .sqsh file) by pyxis; CONTAINER_BY (apptainer, singularity or
# pyxis, if that is not so); CONTAINER_MOUNTS (folders beside this one that are seen inside, as /models,/data).
# SBATCH_PARTITION, SBATCH_ACCOUNT and SBATCH_QOS are read by sbatch itself, before a job begins: slurm/pipeline.sh and
# slurm/sweep.sh hand on those of slurm/site.sh; before a plain sbatch, source that file.
# shellcheck source=/dev/null
if [[ -f slurm/site.sh ]]; then . slurm/site.sh; fi
if [[ ${CONTAINER:-} ]]; then : "${PYTHON:=python}"; else : "${PYTHON:=.venv/bin/python}"; fi
IN_CONTAINER=() INSIDE=()
if [[ ${CONTAINER:-} ]]; then
  case $CONTAINER in *.sif) by=apptainer ;; *) by=pyxis ;; esac
  by=${CONTAINER_BY:-$by}
  IFS=, read -ra folders <<<"$PWD${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}"
  mounts=$(printf '%s,' "${folders[@]/%/:}" | sed -E 's/([^,]*):,/\1:\1,/g; s/,$//')
  case $by in
    pyxis)
      IN_CONTAINER=(--container-image="$CONTAINER" --container-mounts="$mounts" --container-workdir="$PWD") ;;
    apptainer | singularity)
      INSIDE=("$by" exec --bind "$mounts" --pwd "$PWD")
      if [[ -e /dev/nvidiactl ]]; then INSIDE+=(--nv); fi
      INSIDE+=("$CONTAINER") ;;
    *) echo "tiebreak: error: CONTAINER_BY=$by: set it to apptainer, singularity or pyxis" >&2; exit 2 ;;
  esac
fi
# One process of it, outside of any job.
# shellcheck disable=SC2034  # for launch/slurm_chain.sh
ALONE=("${INSIDE[@]}" "$PYTHON")
# shellcheck disable=SC2034
if ((${#IN_CONTAINER[@]})); then ALONE=(srun --nodes=1 --ntasks=1 "${IN_CONTAINER[@]}" "$PYTHON"); fi
