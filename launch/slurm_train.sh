# shellcheck shell=bash
# Sourced by the files in slurm/ that train, with RECIPE set: the script to run, and its words.
# Settings: RECIPE, DATA, OUT, MODEL, FOLD, ENGINE and DS, as those files say. See also launch/slurm_env.sh.
out=${OUT:-runs/$RECIPE-$SLURM_JOB_ID}
options=(--recipe "$RECIPE" --out "$out" --resume auto)
if [[ -n ${DATA:-} ]]; then options+=(--data "$DATA"); fi
if [[ -n ${MODEL:-} ]]; then options+=(--model "$MODEL"); fi
if [[ -n ${FOLD:-} ]]; then options+=(--fold "$FOLD"); fi
case ${ENGINE:-auto} in
  deepspeed) options+=(--ds "${DS:-ds_configs/zero2.json}") ;;
  *) options+=(--engine "${ENGINE:-auto}") ;;
esac
. launch/slurm_env.sh
echo "settings: RECIPE=$RECIPE DATA=${DATA:-(not set: the embedded sample)} OUT=$out${MODEL:+ MODEL=$MODEL}${FOLD:+ FOLD=$FOLD}" \
  "ENGINE=${ENGINE:-auto}${DS:+ DS=$DS}"
run "$out" "$1" "${options[@]}" "${@:2}"
