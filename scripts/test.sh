#!/bin/bash
# Runs the test programs of a build folder one after the other; called by `make test` and `make sanitize`.
# Each test runs in its own process, one at a time (they share the cores of the machine). Skips are named and
# counted; the verdict comes last. Exits non-zero if a test fails, a program crashes, or there is none.
set -u
cd "$(dirname "$0")/.."
build=${1:-build}
free=$(df --output=avail --block-size=1M "$build" | tail -n 1)
if [ "$free" -lt 1024 ]; then
    echo "test: $build has $free MiB of disk free, wanted 1024 (whole training states are written and read): make room" >&2
    exit 1
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
programs=0 passed=0 failed=0 skipped=0 broken=""

for program in "$build"/tests/test_*; do
    [ -x "$program" ] && [ -f "$program" ] || continue
    programs=$((programs + 1))
    start=$SECONDS
    "$program" -j1 --verbose --color=never >"$log" 2>&1
    status=$?
    here_passed=$(grep -c '^\[PASS\]' "$log")
    here_failed=$(grep -cE '^\[(FAIL|CRASH)\]' "$log")
    here_skipped=$(grep -c '^\[SKIP\]' "$log")
    passed=$((passed + here_passed)) failed=$((failed + here_failed)) skipped=$((skipped + here_skipped))
    printf '%-28s %4d passed %4d failed %4d skipped %5d s\n' "$(basename "$program")" "$here_passed" \
        "$here_failed" "$here_skipped" $((SECONDS - start))
    grep '^\[SKIP\]' "$log" | sed 's/^/    /'
    [ "$status" -eq 0 ] && continue
    broken="$broken $(basename "$program")"
    grep -vE '^\[(RUN|PASS|SKIP) *\]|^\[====\] Running' "$log" | tail -n 60
done

if [ "$programs" -eq 0 ]; then
    echo "test: no test program in $build/tests; run make tests" >&2
    exit 1
fi
if [ "$programs" -gt 0 ] && [ $((passed + failed)) -eq 0 ]; then
    echo "test: $programs programs ran no test at all" >&2
    exit 1
fi
if [ -n "$broken" ]; then
    echo "test: $passed passed, $failed failed, $skipped skipped; broken:$broken"
    exit 1
fi
echo "test: $passed passed, 0 failed, $skipped skipped"
