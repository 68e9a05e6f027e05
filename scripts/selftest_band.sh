#!/bin/bash
# The band of `retort selftest`, printed: scripts/selftest_band.sh [PROGRAM] >configs/recipes/selftest.tsv
#
# Another machine sums in another order, with other instructions, and rounds otherwise; what that does to a run of
# 200 steps cannot be tried on one machine, but can be bounded: here the same run is made with several numbers of
# threads (other orders of summing), and in bf16 and fp16, whose rounding is 65,536 and 8,192 times as coarse as that
# of f32. The band reaches from the lowest to the highest mean of all these, and by once that width, but at least 0.2 %,
# beyond to either side.
set -euo pipefail
cd "$(dirname "$0")/.."
retort=${1:-build/retort}
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
any=$work/any.tsv
for ((step = 0; step < 200; step += 20)); do printf '%d\t-1e9\t1e9\n' $step; done >"$any"

export OMP_WAIT_POLICY=passive # more threads than cores
variant() { "$retort" selftest --band="$any" "$@" 2>/dev/null | awk 'NF == 4 && $1 ~ /^[0-9]+$/ { print $1, $3 }'; }
{
    for threads in 1 2 3 4; do variant --run.threads=$threads; done
    variant --run.precision=bf16
    variant --run.precision=fp16
} >"$work/means"

echo "# Mean loss of windows of 20 steps of configs/recipes/selftest.yaml: first step, lowest, highest."
echo "# Made by scripts/selftest_band.sh."
awk '{
    if (!($1 in low) || $2 < low[$1]) low[$1] = $2
    if (!($1 in high) || $2 > high[$1]) high[$1] = $2
}
END {
    for (step = 0; step in low; step += 20) {
        room = high[step] - low[step]
        if (room < 0.002 * high[step]) room = 0.002 * high[step]
        printf "%d\t%.4f\t%.4f\n", step, low[step] - room, high[step] + room
    }
}' "$work/means"
