#!/bin/bash
# Runs fuzz targets, two at a time: fuzz.sh BUILD SECONDS NAMES.. Called by `make fuzz`. Starts from the kept inputs;
# what is learned stays in BUILD/corpus, what fails in BUILD/failed. Exits non-zero if one fails.
set -u
cd "$(dirname "$0")/.."
build=$1 seconds=$2
shift 2

run() { # NAME
    mkdir -p "$build/corpus/$1" "$build/failed"
    if "$build/fuzz_$1" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -max_len=65536 -print_final_stats=1 \
        -artifact_prefix="$build/failed/$1-" "$build/corpus/$1" "tests/fuzz/inputs/$1" >"$build/$1.log" 2>&1; then
        echo "fuzz $1: clean, $(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$1.log") inputs in $seconds s"
    else
        echo "fuzz $1: failed, see $build/$1.log and $build/failed"
        tail -n 30 "$build/$1.log"
        return 1
    fi
}

status=0
while [ $# -gt 0 ]; do
    run "$1" & first=$!
    if [ $# -gt 1 ]; then
        run "$2" & wait $! || status=1
        shift
    fi
    wait $first || status=1
    shift
done
exit $status
