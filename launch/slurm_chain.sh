# shellcheck shell=bash
# Sourced by slurm/pipeline.sh and slurm/sweep.sh with the command, `pipeline` or `sweep`, and its words: submits a job
# for each stage that is not done, after the jobs of those it needs; stages that differ by a number alone, as folds and
# trials, are the tasks of one array. With --dry-run it prints the commands, with --status where each stage stands, with
# --log STAGE the end of a stage's newest log.
command=$1
shift
for word in "$@"; do
  if [[ $word == -h || $word == --help ]]; then sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit; fi
done
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
  # Of all folds or trials at once: which logs there are, and how far each is.
  logs=$(find "$out/slurm" -name "${stage//\//.}-*_*.out" -printf '%f\n' 2>/dev/null | sort -V)
  if [[ ! $file && $logs ]]; then
    echo "$stage has a log for each place, here with its last line (in $out/slurm):"
    while read -r file; do printf '%-28s %s\n' "$file" "$(tail -n 1 "$out/slurm/$file")"; done <<<"$logs"
    exit
  fi
  [[ $file ]] || fail "no job of stage $stage has begun ($out/slurm); --status says where each stands"
  echo "$out/slurm/$file:"
  exec tail -n "${LINES_OF_LOG:-40}" "$out/slurm/$file"
fi

# An array's name: without its places.
label() { local text=${1//\//.}; text=${text//-%a/}; echo "${text//.%a/}"; }
# Jobs that earlier calls submitted: their ids, names, and an array's places.
declare -A ours=() sent=()
while read -r id name places; do
  ours[$id $name]=1
  for place in ${places:--}; do sent[$name|$place]=1; done
done < <(grep . "$record" 2>/dev/null)

# look: in `live`, by name and place, the task that Slurm has not done with: its id, its state and the reason.
declare -A live=()
look() {
  local queue id name state place why before
  live=()
  queue=$(squeue --noheader --user="$(id -un)" --array --format='%F %j %T %K %r') || return
  while read -r id name state place why; do
    if [[ ! ${ours[$id $name]:-} ]]; then continue; fi
    if [[ $place == N/A ]]; then place=-; fi
    before=${live[$name|$place]:-0}
    if ((id >= ${before%%[_ ]*})); then live[$name|$place]="$(task "$id" "$place") $state $why"; fi
  done <<<"$queue"
}
# task JOB PLACE
task() { if [[ $2 == - ]]; then echo "$1"; else echo "$1_$2"; fi; }

# The queue first: what leaves it meanwhile is done in the list.
if [[ $mode == dry ]]; then
  look 2>/dev/null || echo "note: Slurm does not answer here, so jobs that are queued already are listed too" >&2
else
  look || fail "Slurm does not answer (see above). Without a cluster, tiebreak $command runs the same."
fi
# A job that ends may be done, cancelled or about to be requeued: Slurm says so once it has ended.
while [[ $mode == submit && "${live[*]}" == *" COMPLETING "* ]] && ((SECONDS < ${WAIT_FOR_ENDING:-60})); do
  if [[ ! ${told:-} ]]; then told=1; echo "waiting for jobs that are just ending"; fi
  sleep 1
  look
done
stages=$("${ALONE[@]}" -m tiebreak "$command" "${options[@]}" --stages)

# Stages by what is submitted at once: `gemma/fold-%a` is all of a teacher's folds. What is not done, by group and place.
groups=()
declare -A group_of=() kind=() todo=() needs=() parts=() job=() fresh=()
count=0
while IFS=$'\t' read -r name before on state places; do
  if [[ $state != todo && $state != 'done' ]]; then continue; fi # a note beside the list
  group=$name places=${places:--}
  if [[ $places != - ]]; then
    group=$name/%a
  elif [[ $name =~ ^(.*/fold-)([0-9]+)(/.*)?$ ]]; then
    group=${BASH_REMATCH[1]}%a${BASH_REMATCH[3]} places=${BASH_REMATCH[2]}
  fi
  group_of[$name]=$group
  if [[ ! ${kind[$group]:-} ]]; then groups+=("$group"); fi
  kind[$group]=$on
  for place in ${places//,/ }; do
    count=$((count + 1))
    if [[ $state == 'done' ]]; then continue; fi
    todo[$group]+=" $place" needs[$group|$place]=$before parts[$name]+=" $group|$place"
  done
done <<<"$stages"

# needed GROUP PLACE: in `found`, what is not done of that which a stage needs, as GROUP|PLACE
needed() {
  local need of
  found=()
  for need in ${needs[$1|$2]//,/ }; do
    read -ra of <<<"${parts[$need]:-}"
    found+=("${of[@]}")
  done
}
# in_vain JOB REASON GROUP PLACE: whether a job that is pending waits for one that has failed or was cancelled
in_vain() {
  local part
  if [[ $2 == DependencyNeverSatisfied ]]; then return 0; fi
  needed "$3" "$4"
  for part in "${found[@]}"; do
    # It is submitted anew, now or by a call that came later than the job.
    if [[ ${fresh[$part]:-} ]] || ((${job[$part]%%_*} > $1)); then return 0; fi
  done
  return 1
}

# said NAME GROUP PLACE: of a stage that is not done
said() {
  local of id state why part
  of=$(label "$2")
  read -r id state why <<<"${live[$of|$3]:-}"
  if [[ $state == PENDING ]]; then
    echo "pending ($why) job $id"
  elif [[ $state ]]; then
    echo "${state,,} job $id"
  elif [[ $(newest "$1") ]]; then
    echo "not done, and not queued"
  elif [[ ${sent[$of|$3]:-} ]]; then
    needed "$2" "$3"
    for part in "${found[@]}"; do
      if [[ ! ${live[$(label "${part%|*}")|${part#*|}]:-} ]]; then echo "cancelled: what it needs failed"; return; fi
    done
    echo "cancelled before it began"
  else
    echo "not submitted"
  fi
}
# each RUNG PLACES: places of a rung that are to run, and those that have an answer
each() {
  {
    tr , '\n' <<<"$2"
    find "$out/rungs/${1#rung-}" \( -name '*.json' -o -name '*.failed' \) -printf '%f\n' 2>/dev/null || true # none yet
  } | grep -oP '^\d+' | sort -nu
}
if [[ $mode == status ]]; then
  printf '%-28s %-34s %s\n' stage state 'log (in '"$out/slurm"')'
  while IFS=$'\t' read -r name before on state places; do
    if [[ ! ${group_of[$name]:-} ]]; then continue; fi
    group=${group_of[$name]} left=,${places:--},
    if [[ $name == rung-* ]]; then places=$(each "$name" "${places:--}"); fi
    for place in ${places:--}; do
      one=$name where=$state
      if [[ $place != - ]]; then one=$name/$place; elif [[ $group =~ fold-%a ]]; then place=${name#*/fold-} place=${place%%/*}; fi
      if [[ $one != "$name" && $left != *,$place,* ]]; then
        where=$([[ -s $out/rungs/${one#rung-}.failed ]] && echo failed || echo 'done')
      elif [[ $state == todo ]]; then
        where=$(said "$one" "$group" "$place")
      fi
      printf '%-28s %-34s %s\n' "$one" "$where" "$(newest "$one" || true)"
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

# after GROUP PLACE...: the option that lets these wait for the tasks that make what they need, and for no others
after() {
  local group=$1 place part other all earlier list='' own=0
  local -A wanted=() arrays=() seen=()
  shift
  for place in "$@"; do
    needed "$group" "$place"
    for part in "${found[@]}"; do
      wanted[$part]=1
      if [[ $place != - && ${part#*|} == "$place" ]]; then own=$((own + 1)) arrays[${job[$part]%_*}]=1; fi
    done
  done
  if ((${#wanted[@]} == 0)); then return; fi
  # The prediction of a fold follows its own training, not that of all folds.
  if (($# > 1 && own == $# && ${#wanted[@]} == own && ${#arrays[@]} == 1)); then
    echo "--dependency=aftercorr:${!arrays[*]}"
    return
  fi
  for part in "${!wanted[@]}"; do
    earlier=${part%|*} other=${job[$part]}
    if [[ ${part#*|} != - && ${fresh[$part]:-} ]]; then
      # All tasks of an array: by its one id.
      all=1
      for place in ${fresh[$earlier]}; do if [[ ! ${wanted[$earlier|$place]:-} ]]; then all=''; fi; done
      if [[ $all ]]; then other=${other%_*}; fi
    fi
    seen[$other]=1
  done
  list=$(printf '%s\n' "${!seen[@]}" | sort -V | paste -sd :)
  echo "--dependency=afterok:$list"
}

new=0 left=0
for group in "${groups[@]}"; do
  name=$(label "$group") missing=() kept=() array=() log=%x-%j.out
  for place in ${todo[$group]:-}; do
    left=$((left + 1))
    read -r id state why <<<"${live[$name|$place]:-}"
    if [[ $state == COMPLETING && $mode == submit ]]; then
      fail "job $id ($name) is ending still: once squeue does not show it any more, submit again"
    elif [[ $state == PENDING ]] && in_vain "${id%%_*}" "$why" "$group" "$place"; then
      echo "scancel $id # $name: it waits for a job that has failed or was cancelled"
      if [[ $mode == submit ]]; then scancel "$id"; fi
    elif [[ $state ]]; then
      job[$group|$place]=$id
      kept+=("$id ${state,,}")
      continue
    fi
    missing+=("$place")
  done
  if ((${#kept[@]})); then echo "left out, as it is queued: $name ($(printf '%s\n' "${kept[@]}" | paste -sd , | sed 's/,/, /g'))"; fi
  if ((!${#missing[@]})); then continue; fi
  if [[ $group == *%a* ]]; then
    array=("--array=$(printf '%s\n' "${missing[@]}" | paste -sd ,)${AT_ONCE:+%$AT_ONCE}") log=%x-%A_%a.out
  fi
  words=(sbatch --parsable --kill-on-invalid-dep=yes --job-name="$name" --output="$out/slurm/$log" "${array[@]}")
  mapfile -t waits < <(after "$group" "${missing[@]}")
  words+=("${waits[@]}")
  if [[ ${kind[$group]} == gpu ]]; then words+=("${on_gpus[@]}"); else words+=("${on_cpus[@]}"); fi
  words+=(slurm/stage.sbatch "${kind[$group]}" "$group" "$out" "$command" "${options[@]}")
  new=$((new + ${#missing[@]})) fresh[$group]="${missing[*]}"
  if [[ $mode == dry ]]; then
    id="<$name>"
    echo "${words[*]}"
  else
    mkdir -p "$out/slurm"
    id=$("${words[@]}")
    echo "$id $name ${missing[*]/#-/}" | sed 's/ *$//' | tee -a "$record"
  fi
  for place in "${missing[@]}"; do job[$group|$place]=$(task "$id" "$place") fresh[$group|$place]=1; done
done

if [[ $mode == dry ]]; then echo "$new of $count stages would be submitted"; exit; fi
echo "$new of $count stages submitted, $left not done yet"
if ((${#job[@]})); then
  ids=$(printf '%s\n' "${job[@]%%_*}" | sort -nu | paste -sd ,)
  echo "watch them: slurm/$command.sh --status, with the same words; or squeue --jobs=$ids"
  echo "stop them all: scancel ${ids//,/ }"
  echo "A stage that fails ends those that need it; then read its log (--log STAGE), and the same command goes on."
fi
