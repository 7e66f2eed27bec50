# shellcheck shell=bash
# Sourced by slurm/pipeline.sh and slurm/sweep.sh with the command, `pipeline` or `sweep`, and its words: submits a job
# for each stage that is not done, after the jobs of those it needs; stages that differ by a number alone, as folds and
# trials, are the tasks of one array. With --dry-run it prints the commands, with --status where each stage stands, with
# --log STAGE the end of a stage's newest log.
command=$1
shift
cd "${TIEBREAK_HOME:-$PWD}" || exit
. launch/slurm_site.sh
mode=submit options=() out='' stage=''
for word in "$@"; do
  if [[ $mode == log && ! $stage ]]; then stage=$word; continue; fi
  case $word in
    --dry-run) mode=dry; continue ;;
    --status) mode=status; continue ;;
    --log) mode=log; continue ;;
    --out=*) out=${word#--out=} ;;
    *) if [[ ${options[*]: -1} == --out ]]; then out=$word; fi ;;
  esac
  options+=("$word")
done
record=$out/slurm/jobs
fail() { echo "$command.sh: $*" >&2; exit 2; }

# newest STAGE: the file that its newest job writes to
newest() {
  local label=${1//\//.} place=''
  if [[ $label =~ ^(.*)\.fold-([0-9]+)(.*)$ ]]; then
    label=${BASH_REMATCH[1]}.fold${BASH_REMATCH[3]} place=${BASH_REMATCH[2]}
  elif [[ $label =~ ^(rung-[0-9]+\.[0-9]+)\.([0-9]+)$ ]]; then
    label=${BASH_REMATCH[1]} place=${BASH_REMATCH[2]}
  fi
  find "$out/slurm" -name '*.out' -printf '%T@ %f\n' 2>/dev/null |
    grep -P " \Q$label\E-\d+${place:+_$place}\.out$" | sort -n | tail -n 1 | cut -d' ' -f2
}
if [[ $mode == log ]]; then
  [[ $stage && $out ]] || fail "write --log STAGE --out FOLDER; --status lists the stages"
  file=$(newest "$stage") || true
  [[ $file ]] || fail "no job of stage $stage has begun ($out/slurm)"
  echo "$out/slurm/$file:"
  exec tail -n "${LINES_OF_LOG:-40}" "$out/slurm/$file"
fi

# The queue first: what leaves it meanwhile is done in the list.
ask() { squeue --noheader --user="$(id -un)" --array --format='%F %j %T %K %r'; }
if [[ $mode == dry ]]; then
  queue=$(ask 2>/dev/null) || echo "note: Slurm does not answer here, so jobs that are queued already are listed too" >&2
else
  queue=$(ask) || fail "Slurm does not answer (see above). Without a cluster, tiebreak $command runs the same."
fi
stages=$("${ALONE[@]}" -m tiebreak "$command" "${options[@]}" --stages)

# Stages by what is submitted at once: `gemma/fold-%a` is all of a teacher's folds.
groups=()
declare -A group_of=() needs=() kind=() todo=() job=()
count=0
while IFS=$'\t' read -r name before on state places; do
  if [[ $state != todo && $state != 'done' ]]; then continue; fi # a note beside the list
  count=$((count + 1)) group=$name place=''
  if [[ ${places:--} != - ]]; then
    group=$name/%a place=$places
    commas=${places//[^,]/}
    count=$((count + ${#commas}))
  elif [[ $name =~ ^(.*/fold-)([0-9]+)(/.*)?$ ]]; then
    group=${BASH_REMATCH[1]}%a${BASH_REMATCH[3]} place=${BASH_REMATCH[2]}
  fi
  group_of[$name]=$group
  if [[ ! ${kind[$group]:-} ]]; then groups+=("$group"); fi
  kind[$group]=$on
  if [[ $state == todo ]]; then
    todo[$group]+=${todo[$group]:+,}${place:-$name}
    needs[$group]+=,$before
  fi
done <<<"$stages"
label() { local text=${1//\//.}; text=${text//-%a/}; echo "${text//.%a/}"; }
# queued LABEL: the id of a job that an earlier call submitted and Slurm has not done with
queued() {
  local known
  known=$(awk '{ print $1, $2 }' <<<"$queue" | grep -xFf "$record" 2>/dev/null) || true
  awk -v name="$1" '$2 == name { id = $1 } END { print id }' <<<"$known"
}

if [[ $mode == status ]]; then
  printf '%-28s %-34s %s\n' stage state 'log (in '"$out/slurm"')'
  while IFS=$'\t' read -r name before on state places; do
    if [[ $state != todo && $state != 'done' ]]; then continue; fi
    for place in $(if [[ ${places:--} == - ]]; then echo none; else echo "${places//,/ }"; fi); do
      one=$name${place/#none/}
      if [[ $place != none ]]; then one=$name/$place; elif [[ $name =~ /fold-([0-9]+) ]]; then place=${BASH_REMATCH[1]}; fi
      file=$(newest "$one") || true
      said=$state
      if [[ $state == todo ]]; then
        id=$(queued "$(label "${group_of[$name]}")")
        said=$(awk -v id="$id" -v place="$place" '
          id && $1 == id && (place == "none" || $4 == place) { why = $5; for (i = 6; i <= NF; i++) why = why " " $i
            print tolower($3), ($3 == "PENDING" ? "(" why ")" : ""), "job", id; exit }' <<<"$queue")
        if [[ ! $said ]]; then said=$([[ $file ]] && echo "not done, and not queued" || echo "not submitted"); fi
      fi
      printf '%-28s %-34s %s\n' "$one" "$said" "$file"
    done
  done <<<"$stages"
  echo "a stage's log: slurm/$command.sh --log STAGE --out $out"
  exit
fi

# options_for KIND: partition, account and further options of sbatch for a kind of stage
options_for() {
  local name variable more=$1_STAGES
  for name in partition account qos; do
    variable=$1_${name^^}
    if [[ ${!variable:-} ]]; then echo "--$name=${!variable}"; fi
  done
  tr -s ' \n' '\n' <<<"${!more:-}"
}
mapfile -t on_gpus < <(options_for GPU | grep .)
mapfile -t on_cpus < <(printf '%s\n' --nodes=1 --ntasks-per-node=1 --gpus-per-node=0; options_for CPU | grep .)
new=0 left=0
for group in "${groups[@]}"; do
  if [[ ! ${todo[$group]:-} ]]; then continue; fi
  name=$(label "$group") after='' how=afterok array=()
  commas=${todo[$group]//[^,]/}
  tasks=$((${#commas} + 1))
  left=$((left + tasks))
  job[$group]=$(queued "$name")
  if [[ ${job[$group]} ]]; then continue; fi
  declare -A seen=()
  for need in ${needs[$group]//,/ }; do
    earlier=${group_of[$need]:-}
    if [[ ! $earlier || ! ${job[$earlier]:-} || ${seen[$earlier]:-} ]]; then continue; fi
    seen[$earlier]=1 after+=:${job[$earlier]}
    # The prediction of a fold follows its own training, not that of all folds.
    if [[ $group == *%a/* && $earlier == *%a && ${todo[$earlier]} == "${todo[$group]}" ]]; then how=aftercorr; fi
  done
  unset seen
  log=%x-%j.out
  if [[ $group == *%a* ]]; then array=("--array=${todo[$group]}${AT_ONCE:+%$AT_ONCE}") log=%x-%A_%a.out; fi
  words=(sbatch --parsable --kill-on-invalid-dep=yes --job-name="$name" --output="$out/slurm/$log" "${array[@]}")
  if [[ $after ]]; then words+=(--dependency="$how$after"); fi
  if [[ ${kind[$group]} == gpu ]]; then words+=("${on_gpus[@]}"); else words+=("${on_cpus[@]}"); fi
  words+=(slurm/stage.sbatch "${kind[$group]}" "$group" "$out" "$command" "${options[@]}")
  new=$((new + tasks))
  if [[ $mode == dry ]]; then
    job[$group]="<$name>"
    echo "${words[*]}"
  else
    mkdir -p "$out/slurm"
    job[$group]=$("${words[@]}")
    echo "${job[$group]} $name" | tee -a "$record"
  fi
done

if [[ $mode == dry ]]; then echo "$new of $count stages would be submitted"; exit; fi
echo "$new of $count stages submitted, $left not done yet"
if ((${#job[@]})); then
  ids=$(printf '%s\n' "${job[@]}" | sort -nu | paste -sd ,)
  echo "watch them: slurm/$command.sh --status, with the same words; or squeue --jobs=$ids"
  echo "A stage that fails ends those that need it; then read its log (--log STAGE), and the same command goes on."
fi
