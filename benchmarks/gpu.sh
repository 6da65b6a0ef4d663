#!/usr/bin/env bash
# What a GPU has to confirm, within four minutes: right results, then the times and memory of docs/performance.md.
#
#     benchmarks/gpu.sh OUT                 every usual section, most important first
#     benchmarks/gpu.sh OUT sparse tune     some of them (tune: other launches of the sparse kernels)
#
# It takes torch >= 2.11 with triton, numpy, einops and pyyaml. Each section is a process with a time limit, writes
# OUT/SECTION.json row by row and its messages into OUT/SECTION.log, and fails alone. BUDGET is the limit of all, in
# seconds; PYTHON the interpreter; REHEARSE=1 runs everything small on a CPU (with TRITON_INTERPRET=1).
set -u
[ $# -ge 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
shift
python=${PYTHON:-python3}
budget=${BUDGET:-240}
export PYTHONPATH="$root:$root/platform${PYTHONPATH:+:$PYTHONPATH}"
declare -A limit=([kernel]=70 [sparse]=60 [refiner]=45 [blocks]=60 [mmdit]=90 [memory]=45 [joint]=45 [tune]=150)
[ $# -gt 0 ] || set -- kernel sparse refiner blocks mmdit memory joint
for section in "$@"; do
    [ -n "${limit[$section]:-}" ] || { echo "no section $section: there are ${!limit[*]}"; exit 2; }
done
failed=0
for section in "$@"; do
    seconds=$((budget - SECONDS))
    [ "$seconds" -gt "${limit[$section]}" ] && seconds=${limit[$section]}
    if [ "$seconds" -lt 5 ]; then
        echo "$section: left out, the budget of $budget s is spent"
        failed=1
        continue
    fi
    rm -f "$out/$section.json"
    begun=$SECONDS
    timeout -k 5 "$seconds" "$python" "$root/benchmarks/gpu.py" "$section" --output "$out/$section.json" \
        ${REHEARSE:+--rehearse} >"$out/$section.log" 2>&1
    code=$?
    echo "$section: $((SECONDS - begun)) s$([ $code -eq 0 ] || echo ", ended with $code$([ $code -ne 124 ] || echo " (time limit)"): $(tail -n 1 "$out/$section.log" | cut -c 1-200)")"
    [ $code -eq 0 ] || failed=1
done
"$python" "$root/benchmarks/gpu.py" report --output "$out"
exit $failed
