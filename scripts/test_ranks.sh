#!/bin/bash
# Runs of several ranks on this machine, called by `make test-ranks` with the program and the number of kills:
# the same global batch on 1, 2 and 4 ranks under the variables of torchrun, mpirun and srun, and `eval` on 1, 2 and 4;
# then a rank of four is killed or stopped at random moments, and each run goes on with two ranks to the samples of
# the undisturbed one. What must hold:
# - losses within 1e-6 of one rank's at step 1, and within four times the spread over ten steps. N ranks add up the
#   partial sums that one process adds over N micro-batches, in another order; so what rounding makes of ten steps is
#   measured on one process, with micro-batches of 4, 2 and 1: the spread is the largest difference of the three
#   losses up to a step, at least the last place of a float. Four times, because three runs are few to see the largest
#   of. With synchronised batch norms micro-batches would be another computation: there the three orders are those of
#   1, 2 and 4 threads, each of which sums a part of the images, as a rank does. And without the exchange, each rank
#   with norms of its own, the losses must be found to differ;
# - eval's result file the same to the byte, and validation during training what eval says;
# - after a kill all other ranks gone within 60 s, with another exit code than 0 and a line that names rank, step and
#   op. Exits non-zero otherwise.
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

losses() { grep -o '"loss":[-0-9.e]*' "$1/log.jsonl" | cut -d : -f 2; }

# same FOLDER ONE: its ten losses are those of ONE, step by step, within ONE.spread.
same() {
    paste <(losses "$1") <(losses "$2") "$2.spread" |
        awk -v name="$(basename "$1")" '
            { off = ($1 - $2) / $2; if (off < 0) off = -off
              if (off > most) most = off
              if (off > (NR == 1 ? 1e-6 : 4 * $3)) { print name ": step " NR ": loss " $1 ", wanted " $2; bad = 1 } }
            END { if (NR != 10) { print name ": " NR " steps, wanted 10"; bad = 1 }
                  printf "%s: off by at most %.1e\n", name, most; exit bad }'
}
compare() { same "$1" "$place/one" || fail "the losses differ"; }

# measure ONE FOLDER FOLDER: what rounding makes of the same run in three orders, up to each step, in ONE.spread.
measure() {
    paste <(losses "$1") <(losses "$2") <(losses "$3") | awk '
        BEGIN { most = 2 ^ -23 }
        { low = high = $1
          for (i = 2; i <= 3; i++) { if ($i < low) low = $i; if ($i > high) high = $i }
          if ((high - low) / $1 > most) most = (high - low) / $1
          print most }' >"$1.spread"
    echo "$(basename "$1"): one process, sums in three orders: losses apart by $(xargs <"$1.spread")"
}

start alone 1 "$place/one" --train.steps=10 --run.save_every=4
finish "$place/one"
for micro in 2 1; do
    start alone 1 "$place/micro$micro" --train.steps=10 --train.micro_batch=$micro
    finish "$place/micro$micro"
done
measure "$place/one" "$place/micro2" "$place/micro1"
for launcher in torchrun mpirun srun; do
    for n in 2 4; do
        start $launcher $n "$place/$launcher$n" --train.steps=10
        finish "$place/$launcher$n"
        compare "$place/$launcher$n"
    done
done

for threads in 1 2 4; do
    start alone 1 "$place/sync$threads" --train.steps=10 --optim.bn=sync --run.threads=$threads
    finish "$place/sync$threads"
done
measure "$place/sync1" "$place/sync2" "$place/sync4"
for n in 2 4; do
    start torchrun $n "$place/synced$n" --train.steps=10 --optim.bn=sync
    finish "$place/synced$n"
    same "$place/synced$n" "$place/sync1" || fail "the losses differ"
done
start torchrun 2 "$place/unsynced" --train.steps=10 --optim.bn=train
finish "$place/unsynced"
if same "$place/unsynced" "$place/sync1" >/dev/null; then fail "norms of each rank give the losses of all ranks' norms"; fi

# Validation shared by four ranks, each with norms of its own, says what eval says of the saved weights.
start torchrun 4 "$place/validated" --train.steps=4 --optim.bn=train --val.root="$place/scenes" --val.every=4
finish "$place/validated"
"$retort" eval configs/recipes/own_data.yaml --weights="$place/validated/model.safetensors" \
    --data.root="$place/scenes" --prompts=box --run.threads=1 --out="$place/validated.json" >/dev/null 2>&1
validated=$(grep -o '"val_miou":[-0-9.e]*' "$place/validated/log.jsonl" | cut -d : -f 2)
evaluated=$(tr -d ' \n' <"$place/validated.json" | grep -o '"box":{"all":[-0-9.e]*' | cut -d : -f 3)
echo "validation on 4 ranks: mIoU $validated; eval: $evaluated %"
awk -v v="$validated" -v e="$evaluated" 'BEGIN { exit !(v > 0 && sprintf("%.13g", 100 * v) == sprintf("%.13g", e)) }' ||
    fail "validation and eval differ"

# judge N: eval of the run's weights on N ranks, its result in $place/eval.N.json.
judge() {
    local n=$1 port=$((32000 + RANDOM % 2000)) rank pid
    pids=()
    for ((rank = 0; rank < n; rank++)); do
        # shellcheck disable=SC2046 # words on purpose
        env $( ((n > 1)) && variables torchrun $rank "$n" $port) "$retort" eval configs/recipes/own_data.yaml \
            --weights="$place/one/model.safetensors" \
            --data.root="$place/scenes" --prompts=box,click2 --run.threads=1 --out="$place/eval.$n.json" \
            >/dev/null 2>"$place/eval.$n.$rank.err" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || fail "eval: $(tail -qn 1 "$place"/eval."$n".*.err)"; done
    pids=()
}
for n in 1 2 4; do judge $n; done
for n in 2 4; do
    cmp "$place/eval.1.json" "$place/eval.$n.json" || fail "eval on $n ranks gives other numbers"
done
grep -q '"images":13' <(tr -d ' \n' <"$place/eval.4.json") || fail "eval saw other images: $(cat "$place/eval.4.json")"
echo "eval on 2 and 4 ranks: the numbers of one"

# Runs of ten steps, slowed down by saving every second one; hit at a random moment of what the undisturbed run took.
resumed=0
for ((i = 0; i < kills; i++)); do
    folder=$place/kill$i signal=KILL victim=$((RANDOM % 4)) after=$((RANDOM % 8)) # steps
    ((i % 2)) && signal=STOP
    start torchrun 4 "$folder" --train.steps=10 --run.save_every=2
    until [ -e "$folder/log.jsonl" ]; do sleep 0.02; done
    until [ "$(wc -l <"$folder/log.jsonl")" -ge "$after" ]; do sleep 0.02; done
    sleep 0.$((RANDOM % 4))
    if ! kill -$signal "${pids[$victim]}" 2>/dev/null; then # the run had ended: once more
        finish "$folder"
        rm -rf "$folder"
        i=$((i - 1))
        continue
    fi
    from=$SECONDS
    for rank in 0 1 2 3; do
        ((rank == victim)) && continue
        code=0
        wait "${pids[$rank]}" || code=$?
        ((code != 0)) || fail "rank $rank ended well though rank $victim got SIG$signal"
        grep -Eq "rank $victim .*(step [0-9]+|the start), " <(tail -n 1 "$folder.$rank.err") ||
            fail "rank $rank does not say where rank $victim was: $(tail -n 1 "$folder.$rank.err")"
    done
    took=$((SECONDS - from))
    kill -KILL "${pids[$victim]}" 2>/dev/null || true
    wait "${pids[$victim]}" 2>/dev/null || true
    ((took < 60)) || fail "the others were there for $took s after SIG$signal of rank $victim"
    echo "SIG$signal of rank $victim: the others gone in $took s: $(tail -n 1 "$folder.$(((victim + 1) % 4)).err")"
    [ -e "$folder/checkpoints/latest" ] && resumed=$((resumed + 1))
    start torchrun 2 "$folder" --train.steps=10 --run.save_every=2 --run.resume=auto
    finish "$folder"
    compare "$folder"
done
echo "$kills runs of 4 ranks hit, and ended with 2 ($resumed of them from a saved state)"
echo "test-ranks: passed"
