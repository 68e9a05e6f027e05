#!/bin/bash
# Runs an nvcc command and fails if a kernel spills registers: local memory costs more than the kernel saves.
# Called by kernels/cuda/build.mk with the command. Prints what the compiler says only if something is wrong.
set -u
log=$(mktemp)
trap 'rm -f "$log"' EXIT

if ! "$@" -Xptxas -v >"$log" 2>&1; then
    grep -v '^ptxas info' "$log" >&2
    exit 1
fi
grep -E 'warning' "$log" >&2
spills=$(awk '/Compiling entry function/ { kernel = $5 " for " $7 }
    /bytes spill stores/ && !/ 0 bytes spill stores, 0 bytes spill loads/ { print "nvcc: " kernel ": " $0 }' "$log")
if [ -n "$spills" ]; then
    echo "$spills" | c++filt >&2
    while [ $# -gt 0 ]; do
        [ "$1" = -o ] && rm -f "$2"
        shift
    done
    echo "nvcc: registers spill to local memory; use fewer live values, smaller tiles or other launch bounds" >&2
    exit 1
fi
