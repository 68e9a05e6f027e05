#!/bin/bash
# Checks the habits of this code base that a machine can check; run by `make lint` and .ci/run.
# Prints each violation as FILE:LINE: what, and exits non-zero if there is one. Lengths are reported only.
# Run from the root of the checkout. CC, BUILD and CUDA_HOME may be set as for make.
set -u
cd "$(dirname "$0")/.."

CC=${CC:-gcc}
BUILD=${BUILD:-build}
CUDA_HOME=${CUDA_HOME:-/usr/local/cuda}
found=$(mktemp)
trap 'rm -f "$found"' EXIT

# fail: takes "FILE:LINE: text" lines from its input as violations of the rule named by $1.
fail() { awk -v rule="$1" '{ print $0 "  [" rule "]" }' | tee -a "$found"; }

# list FOLDER [TESTS OF FIND]: the files below a folder, without what was built.
list() {
    find "$1" \( -path ./build -o -path "./$BUILD" -o -path ./.git \) -prune -o -type f "${@:2}" -print |
        sed 's|^\./||' | sort
}
code=$(list . \( -name '*.c' -o -name '*.h' -o -name '*.def' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh' \))
headers=$(list . -name '*.h')
engine=$(echo "$code" | grep -v '^tests/')

# ---- includes point one way ----

allowed_includes() {
    case $1 in
    base) echo base ;;
    kernels) echo 'base|kernels' ;;
    autograd) echo 'base|kernels|autograd' ;;
    model) echo 'base|kernels|autograd|model' ;;
    data) echo 'base|data' ;;
    checkpoints) echo 'base|checkpoints' ;;
    train) echo 'base|kernels|autograd|model|data|checkpoints|train' ;;
    *) echo '.*' ;;
    esac
}
for folder in base kernels autograd model data checkpoints train; do
    grep -rnE '^ *# *include *"' "$folder" | grep -vE "\"($(allowed_includes $folder))/" |
        sed 's/: *# *include/: includes/'
done | fail "includes point one way"

# ---- third-party headers stay in their place ----

# owner HEADERS PLACE: only files whose path matches PLACE may include a header that matches HEADERS.
owner() {
    grep -nE "^ *# *include *<($1)>" $engine /dev/null | grep -vE "^($2)" |
        sed 's/: *# *include/: includes/'
}
{
    owner '(oneapi/)?dnnl.*' 'kernels/cpu/onednn'
    owner 'turbojpeg\.h|jpeglib\.h|jerror\.h|setjmp\.h' 'data/jpeg\.c'
    owner 'yaml\.h' 'base/yaml\.c'
    owner 'yajl/.*' 'data/(json|json_writer|sa1b_write)\.c|checkpoints/|train/(log|report_log)\.c'
    owner 'archive(_entry)?\.h' 'data/tar_(write|index)\.c|checkpoints/zip\.c'
    owner 'openssl/.*' 'checkpoints/digest\.c'
    owner 'zstd\.h' 'data/embedding_codec\.c'
    owner 'cuda.*|cudnn.*|cublas.*' 'kernels/cuda/'
    owner 'nccl\.h' 'kernels/cuda/nccl\.c'
    owner 'gloo/.*' 'kernels/comm/'
    owner 'criterion/.*' 'tests/'
} | fail "a library is seen in one place"

# ---- failures travel as Status ----

# strip FILES..: "FILE:LINE:code" of every line, without its comments and texts.
strip() {
    awk 'FNR == 1 { inside = 0 }
    {
        line = $0; code = ""
        gsub(/\\./, "", line) # escapes, so that a quote in a text does not end it
        while (line != "") {
            if (inside) {
                end = index(line, "*/")
                if (!end) break
                line = substr(line, end + 2); inside = 0
            } else if (match(line, /"[^"]*"|\/\*|\/\//)) {
                token = substr(line, RSTART, RLENGTH)
                code = code substr(line, 1, RSTART - 1)
                line = substr(line, RSTART + RLENGTH)
                if (token == "//") break
                if (token == "/*") inside = 1
            } else { code = code line; break }
        }
        print FILENAME ":" FNR ":" code
    }' "$@"
}
# uses PATTERN FILES..: lines whose code, after FILE:LINE:, has a word that matches.
uses() { strip "${@:2}" | grep -E "^[^:]*:[0-9]+:(.*[^A-Za-z0-9_])?($1)"; }

below_train=$(echo "$engine" | grep -v '^train/')
uses '(exit|_exit|quick_exit|abort) *\(' $(echo "$engine" | grep -v '^train/main\.c$') | fail "only main exits"
uses '((printf|puts|putchar|perror) *\(|stderr|stdout)' $below_train | fail "nothing below train/ prints"
uses '(getenv|secure_getenv|setenv|putenv) *\(' $(echo "$engine" | grep -v '^kernels/comm/\|^kernels/cuda/nccl\.c') |
    fail "no environment variable changes a result"

# ---- files and headers ----

for file in $code; do
    head -c 2 "$file" | grep -q '/\*' || echo "$file:1: does not open with a comment"
done | fail "every file says what it does"
list scripts -name '*.sh' | while read -r file; do
    sed -n 2p "$file" | grep -q '^# ' || echo "$file:2: no comment under the first line"
done | fail "every file says what it does"

# compiles_alone HEADER: as C; headers of kernels as the simulator compiles them, if there is a CUDA toolkit.
compiles_alone() {
    case $1 in
    kernels/cuda/*|tests/cudasim/*)
        [ -e "$CUDA_HOME/include/cudnn.h" ] || return 0
        ${CXX:-g++} -std=c++17 -include tests/cudasim/device.h -Wall -Wextra -Werror -Wno-unused-function -I. \
            -isystem "$CUDA_HOME/include" -fsyntax-only -x c++ "$1" 2>/dev/null ;;
    *)
        $CC -std=c17 -D_GNU_SOURCE -Wall -Wextra -Werror -Wno-unused-function -fopenmp -I. -fsyntax-only -x c \
            "$1" 2>/dev/null ;;
    esac
}

guards=$(for header in $headers; do sed -n 's/^#ifndef \(RETORT_[A-Z0-9_]*_H\)$/\1/p' "$header" | head -n 1; done)
echo "$guards" | sort | uniq -d | sed 's/^/headers:0: two have the guard /' | fail "headers stand alone"
for header in $headers; do
    grep -q '^#ifndef RETORT_[A-Z0-9_]*_H$' "$header" || echo "$header:1: has no guard RETORT_.._H"
    compiles_alone "$header" || echo "$header:1: does not compile alone"
done | fail "headers stand alone"

# ---- unfinished work, machines, flags ----

grep -nE '\b(TODO|FIXME|XXX|HACK)\b' $code Makefile /dev/null | fail "no unfinished work"
grep -nE '(^|[" (])/(home|root|work)/' $code Makefile $(list configs) /dev/null | fail "no paths of one machine"
grep -nE -- '-Ofast|-ffast-math|-ffinite-math-only' Makefile /dev/null | fail "NaN checks must survive the compiler"

# ---- no hidden state: writable file-scope variables in the library ----

if [ -f "$BUILD/libretort.a" ] && command -v objdump >/dev/null; then
    # The exceptions: the message of a failure, which is per thread, and what a signal handler can set.
    objdump -t "$BUILD/libretort.a" 2>/dev/null | awk '
        /file format/ { split($1, part, ":"); object = part[1] }
        $2 == "O" || $3 == "O" || $4 == "O" {
            for (i = 1; i <= NF; i++) if ($i ~ /^\.(data|bss|tdata|tbss)(\.[^r]|$)/ && $i !~ /rel\.ro/)
                print object ":0: writable variable " $NF
        }' | grep -vE '^(status\.o:0: writable variable message|stop\.o:0: writable variable stop_signal)$' | fail "no globals"
fi

# ---- the README names what exists ----

if [ -f README.md ]; then
    grep -noE '`[A-Za-z0-9_./-]+`' README.md | tr -d '`' | while IFS=: read -r line name; do
        case $name in
        /* | -* | build/* | runs/*) continue ;;
        */* | *.c | *.h | *.cu | *.def | *.sh | *.md | *.yaml | *.py | Makefile) ;;
        *) continue ;;
        esac
        [ -e "$name" ] || echo "README.md:$line: names $name, which does not exist"
    done | fail "the README is true"
else
    echo "README.md:0: is missing" | fail "the README is true"
fi

# ---- lengths: a report, not a gate ----

awk 'FNR == 1 { start = 0 }
     /^[A-Za-z_].*\)[ \t]*$/ { start = FNR; name = $0 }
     /^}/ { if (start && FNR - start > 100)
                print "report: " FILENAME ":" start ": " FNR - start " lines: " substr(name, 1, 60); start = 0 }' $code
for file in $code; do
    lines=$(wc -l <"$file")
    [ "$lines" -le 500 ] || echo "report: $file: $lines lines"
done
wide=$(awk 'length > 100' $code | wc -l)
echo "report: $wide lines of $(cat $code | wc -l) are wider than 100 columns"

violations=$(grep -c . "$found")
if [ "$violations" -gt 0 ]; then
    echo "lint: $violations violations"
    exit 1
fi
echo "lint: clean"
