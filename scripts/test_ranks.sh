#!/bin/bash
# Runs of several ranks on this machine, called by `make test-ranks` with the program and the number of kills:
# the same global batch on 1, 2 and 4 ranks under the variables of torchrun, mpirun and srun; then a rank of four is
# killed or stopped at random moments, and the run goes on with two ranks to the samples of the undisturbed one.
# What must hold: losses within 1e-6 of one rank's at step 1 and within 1e-4 over ten steps; after a kill, all other
# ranks gone within 60 s, with another exit code than 0 and a line that names the rank. Exits non-zero otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."
retort=${1:-build/retort}
kills=${2:-3}
place=$(mktemp -d)
export OMP_WAIT_POLICY=passive
pids=()
trap 'kill -KILL "${pids[@]}" 2>/dev/null || true; rm -rf "$place"' EXIT

fail() {
    echo "test-ranks: $1" >&2
    exit 1
}

tiny="finetune --model=configs/models/efficientvit_sam_tiny.yaml --data.masks_per_image=4 --data.root=$place/scenes
    --optim.lr=1e-4 --optim.bn=frozen --run.threads=1 --data.threads=1 --train.global_batch=4"
"$retort" synth "$place/scenes" --images=13 --seed=1 --size=128x96 --masks=3..5 >/dev/null

# variables LAUNCHER RANK N PORT: what the launcher sets for one process.
variables() {
    case $1 in
    torchrun) echo "RANK=$2 LOCAL_RANK=$2 WORLD_SIZE=$3 MASTER_ADDR=127.0.0.1 MASTER_PORT=$4" ;;
    mpirun) echo "OMPI_COMM_WORLD_RANK=$2 OMPI_COMM_WORLD_SIZE=$3 OMPI_COMM_WORLD_LOCAL_RANK=$2
        OMPI_COMM_WORLD_LOCAL_SIZE=$3 MASTER_PORT=$4" ;;
    srun) echo "SLURM_JOB_ID=7 SLURM_STEP_ID=0 SLURM_PROCID=$2 SLURM_LOCALID=$2 SLURM_STEP_NUM_TASKS=$3
        SLURM_STEP_NODELIST=localhost MASTER_PORT=$4" ;;
    esac
}

# start LAUNCHER N FOLDER OPTION..: starts the ranks; their numbers are in pids.
start() {
    local launcher=$1 n=$2 folder=$3 port=$((30000 + RANDOM % 2000)) rank
    shift 3
    pids=()
    for ((rank = 0; rank < n; rank++)); do
        # shellcheck disable=SC2046,SC2086 # words on purpose
        env $( ((n > 1)) && variables "$launcher" $rank $n $port) "$retort" $tiny --run.dir="$folder" "$@" \
            2>"$folder.$rank.err" &
        pids+=($!)
    done
}

finish() { # waits for all ranks; fails if one did
    for rank in "${!pids[@]}"; do
        wait "${pids[$rank]}" || fail "rank $rank of $1: $(tail -n 1 "$1.$rank.err")"
    done
    pids=()
}

# compare FOLDER WANTED: losses of two runs, step by step.
compare() {
    paste <(grep -o '"loss":[-0-9.e]*' "$1/log.jsonl") <(grep -o '"loss":[-0-9.e]*' "$2/log.jsonl") | tr -d '"los:' |
        awk -v name="$1" '
            { off = ($1 - $2) / $2; if (off < 0) off = -off
              if (off > (NR == 1 ? 1e-6 : 1e-4)) { print name ": step " NR ": loss " $1 ", wanted " $2; bad = 1 } }
            END { if (NR != 10) { print name ": " NR " steps, wanted 10"; bad = 1 }; exit bad }' ||
        fail "the losses differ"
}

start alone 1 "$place/one" --train.steps=10 --run.save_every=4
finish "$place/one"
for launcher in torchrun mpirun srun; do
    for n in 2 4; do
        start $launcher $n "$place/$launcher$n" --train.steps=10
        finish "$place/$launcher$n"
        compare "$place/$launcher$n" "$place/one"
        echo "$n ranks by $launcher's variables: the losses of one"
    done
done

for ((i = 0; i < kills; i++)); do
    folder=$place/kill$i signal=KILL victim=$((RANDOM % 4))
    ((i % 2)) && signal=STOP
    start torchrun 4 "$folder" --train.steps=100000 --run.save_every=2
    sleep $((1 + RANDOM % 5)).$((RANDOM % 10))
    kill -$signal "${pids[$victim]}"
    from=$SECONDS
    for rank in 0 1 2 3; do
        ((rank == victim)) && continue
        code=0
        wait "${pids[$rank]}" || code=$?
        ((code != 0)) || fail "rank $rank ended well though rank $victim got SIG$signal"
        grep -q "rank $victim" <(tail -n 1 "$folder.$rank.err") ||
            fail "rank $rank does not name rank $victim: $(tail -n 1 "$folder.$rank.err")"
    done
    took=$((SECONDS - from))
    kill -KILL "${pids[$victim]}" 2>/dev/null || true
    wait "${pids[$victim]}" 2>/dev/null || true
    ((took < 60)) || fail "the others were there for $took s after SIG$signal of rank $victim"
    echo "SIG$signal of rank $victim: the others gone in $took s: $(tail -n 1 "$folder.$(((victim + 1) % 4)).err")"
done

# One more, early enough that the undisturbed run of ten steps can be compared: killed after its first state.
start torchrun 4 "$place/again" --train.steps=10 --run.save_every=2
until [ -e "$place/again/checkpoints/latest" ]; do sleep 0.05; done
kill -KILL "${pids[3]}" 2>/dev/null || true
for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
start torchrun 2 "$place/again" --train.steps=10 --run.save_every=2 --run.resume=auto
finish "$place/again"
compare "$place/again" "$place/one"
echo "killed with 4 ranks, resumed with 2: the losses of the undisturbed run"
echo "test-ranks: passed"
