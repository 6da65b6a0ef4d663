#!/usr/bin/env bash
# What a GPU has to confirm, within seven minutes: right results, then the times and memory of docs/performance.md.
#
#     benchmarks/gpu.sh OUT                 every usual section: what was never measured first, then the rest
#     benchmarks/gpu.sh OUT sparse tune     some of them (tune: other launches of the sparse kernels; profile: the
#                                           kernels that a refiner's pass spends its time in)
#     benchmarks/gpu.sh OUT blocks=30       with a limit of its own, in seconds
#
# It takes torch >= 2.11 with triton, numpy, einops and pyyaml. Each section is a process with a time limit, writes
# OUT/SECTION.json row by row and its messages into OUT/SECTION.log, and fails alone; a section that is in OUT already is
# left out, so that a second lease goes on where the first was cut off (AGAIN=1: made anew). BUDGET is the limit of all,
# in seconds; PYTHON the interpreter; REHEARSE=1 runs everything small on a CPU (with TRITON_INTERPRET=1).
set -u
[ $# -ge 1 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
shift
python=${PYTHON:-python3}
budget=${BUDGET:-420}
export PYTHONPATH="$root:$root/platform${PYTHONPATH:+:$PYTHONPATH}"
declare -A limit=([elementwise]=90 [streamed]=30 [refiner]=70 [mmdit]=100 [blocks]=60 [memory]=45 [joint]=45 [kernel]=70 [sparse]=60 [profile]=40 [tune]=150)
[ $# -gt 0 ] || set -- elementwise streamed refiner mmdit blocks memory joint kernel sparse
sections=()
for asked in "$@"; do
    section=${asked%%=*}
    [ -n "${limit[$section]:-}" ] || { echo "no section $section: there are ${!limit[*]}"; exit 2; }
    if [ "$asked" != "$section" ]; then
        [[ ${asked#*=} =~ ^[1-9][0-9]*$ ]] || { echo "$asked: give the limit in seconds, such as $section=30"; exit 2; }
        limit[$section]=${asked#*=}
    fi
    sections+=("$section")
done
failed=0
for section in "${sections[@]}"; do
    if [ -f "$out/$section.done" ] && [ -z "${AGAIN:-}" ]; then
        echo "$section: there"
        continue
    fi
    seconds=$((budget - SECONDS))
    [ "$seconds" -gt "${limit[$section]}" ] && seconds=${limit[$section]}
    if [ "$seconds" -lt 5 ]; then
        echo "$section: left out, the budget of $budget s is spent"
        failed=1
        continue
    fi
    rm -f "$out/$section.json" "$out/$section.done"
    begun=$SECONDS
    timeout -k 5 "$seconds" "$python" "$root/benchmarks/gpu.py" "$section" --output "$out/$section.json" \
        ${REHEARSE:+--rehearse} >"$out/$section.log" 2>&1
    code=$?
    echo "$section: $((SECONDS - begun)) s$([ $code -eq 0 ] || echo ", ended with $code$([ $code -ne 124 ] || echo " (time limit)"): $(tail -n 1 "$out/$section.log" | cut -c 1-200)")"
    [ $code -eq 0 ] && touch "$out/$section.done" || failed=1
done
"$python" "$root/benchmarks/gpu.py" report --output "$out"
exit $failed
