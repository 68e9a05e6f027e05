#!/bin/bash
# Shows that the tests on the simulator can fail: builds the CUDA backend once with each fault of a folder of
# patches, and demands that the tests the patch names go red. Called by `make mutants-cuda`, which exports SIM_CXX
# and SIM_CC (the compilers with their flags), SIM_OBJECTS, and passes the build folder of the simulator and the
# patches. A patch opens with two lines: "Fault: .." (what is wrong) and "Tests: PROGRAM FILTER" (who must see it).
set -u
sim=$1
shift
export SIM_CXX SIM_CC SIM_OBJECTS

# objects_of FILE: the objects to build again when FILE of kernels/cuda changes.
objects_of() {
    case $1 in
    *.cu | *.c) basename "$1" ;;
    *) grep -l "$1" "$sim"/*.d | sed "s|^$sim/||; s|\.d\$||" | sed '/\.cu$/!s/$/.c/' ;;
    esac
}

# build DIR PATCH: DIR/libretort_cudasim.so with the fault, the sound objects for the rest.
build() {
    local dir=$1 patch=$2 file object objects=$SIM_OBJECTS
    for file in $(sed -n 's|^+++ b/||p' "$patch"); do
        mkdir -p "$dir/$(dirname "$file")"
        cp "$file" "$dir/$file" || return 1
    done
    patch --quiet --no-backup-if-mismatch --fuzz=0 -p1 -d "$dir" <"$patch" || return 1
    for file in $(sed -n 's|^+++ b/||p' "$patch"); do
        for object in $(objects_of "$file"); do
            local source=kernels/cuda/$object
            [ -e "$dir/$source" ] && source=$dir/$source
            local name=${object%.c}.o
            case $object in
            *.cu) $SIM_CXX -iquote "$dir" -w -c "$source" -o "$dir/$name" ;;
            *) $SIM_CC -iquote "$dir" -w -c "$source" -o "$dir/$name" ;;
            esac || return 1
            objects=$(echo "$objects" | tr ' ' '\n' | sed "s|^$sim/$name\$|$dir/$name|" | tr '\n' ' ')
        done
    done
    ${SIM_CXX%% -*} -shared $objects -lm -o "$dir/libretort_cudasim.so"
}

# judge PATCH: one line, "NAME: killed: what the tests said", or SURVIVED, or why there is no verdict.
judge() {
    local patch=$1 name dir program filter said
    name=$(basename "$patch" .patch)
    dir=$sim/mutants/$name
    read -r program filter < <(sed -n 's/^Tests: //p' "$patch")
    rm -rf "$dir"
    mkdir -p "$dir"
    if ! build "$dir" "$patch" >"$dir/log" 2>&1; then
        echo "$name: BROKEN: $(tail -n 1 "$dir/log")"
        return
    fi
    ln "$sim/tests/$program" "$dir/$program" # a plug-in lies beside the program that opens it
    if ! "$sim/tests/$program" -j1 --filter "$filter" >"$dir/log" 2>&1; then
        echo "$name: BROKEN: $filter fails without the fault: $(grep -a -m 1 -E 'cannot|FAIL' "$dir/log")"
    elif timeout 300 "$dir/$program" -j1 --color=never --filter "$filter" >"$dir/log" 2>&1; then
        echo "$name: SURVIVED: $(sed -n 's/^Fault: //p' "$patch")"
    elif grep -aq 'cannot load the plug-in' "$dir/log"; then
        echo "$name: BROKEN: $(grep -m 1 'cannot load' "$dir/log")"
    else
        said=$(grep -a -m 1 -E '^\[----\] +[^ ].* ' <(grep -a -v -E 'Assertion Failed|Criterion|Running' "$dir/log"))
        echo "$name: killed: $(echo "${said#\[----\]}" | cut -c 1-150 | sed 's/^ *//')"
        rm -rf "$dir" # 10 MB each; what was not found stays to be looked at
    fi
}
export -f judge build objects_of
export sim

verdicts=$sim/mutants.txt
printf '%s\n' "$@" | xargs -P "$(nproc)" -I{} bash -c 'judge {}' | tee "$verdicts"
killed=$(grep -c ': killed: ' "$verdicts")
echo "$killed of $# faults found"
[ "$killed" -eq $# ]
