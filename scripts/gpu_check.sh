#!/bin/bash
# What there is to know about the CUDA backend on this machine, in one go; called by `make gpu-check` with the build
# folder and the backend: cuda, or cudasim to try this script where there is no GPU.
# First whether it is right: the test programs of the simulator, run on the backend, and two runs that must give the
# same bits. Then, on a GPU, how fast: each work's time, share of the peak that its data sheet gives (MFU), memory
# against the plan and a profile per op; and PyTorch in turns with it, where that can be installed. What the simulator
# takes is no speed, so its times are not shown; its steps are small, and those beside PyTorch run on the processor.
# Leaves report.md, report.json, and logs and profiles beside them. Exits non-zero if a check fails.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build}
backend=${2:-cuda}
out=$build/gpu-check
retort=$build/retort
export OMP_WAIT_POLICY=passive

fail() {
    echo "gpu-check: $1" >&2
    exit 1
}

if [ "$backend" = cuda ]; then
    command -v nvidia-smi >/dev/null || fail "no nvidia-smi here, so no GPU; GPU_BACKEND=cudasim tries the script"
    device=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
    n_gpus=$(nvidia-smi --query-gpu=name --format=csv,noheader | wc -l)
    export TEST_BACKEND=cuda
else
    device=simulator n_gpus=2 # its ranks are processes
fi
rm -rf "$out"
mkdir -p "$out"
trap 'rm -rf "$out/scratch"' EXIT

# number KEY FILE: what a JSON file has under KEY, the first time.
number() { grep -o "\"$1\": *[-0-9.e+]*" "$2" | head -n 1 | sed 's/.*: *//'; }

# ---- is it right? ----

checks="" checks_json="" failed=0

# verdict NAME RESULT SECONDS: one line of the table; RESULT begins with "passed", "skipped" or "FAILED".
verdict() {
    checks+="| $1 | $2 | $3 | $device |"$'\n'
    checks_json+="${checks_json:+,}{\"check\":\"$1\",\"result\":\"$2\",\"seconds\":$3,\"device\":\"$device\"}"
    case $2 in FAILED*) failed=$((failed + 1)) ;; esac
    echo "$1: $2 ($3 s)"
}

# check NAME PROGRAM FILTER: tests of a program.
check() {
    local log=$out/$2.log start=$SECONDS code=0
    "$build/cudasim/tests/$2" -j1 --verbose --color=never --filter "$3" >"$log.part" 2>&1 || code=$?
    cat "$log.part" >>"$log"
    local n_passed n_failed n_skipped
    n_passed=$(grep -c '^\[PASS\]' "$log.part" || true)
    n_failed=$(grep -cE '^\[(FAIL|CRASH)\]' "$log.part" || true)
    n_skipped=$(grep -c '^\[SKIP\]' "$log.part" || true)
    rm "$log.part"
    if [ "$code" -eq 0 ] && [ "$n_passed" -gt 0 ]; then
        verdict "$1" "passed: $n_passed tests, $n_skipped skipped" $((SECONDS - start))
    else
        verdict "$1" "FAILED: $n_failed of $((n_passed + n_failed)) tests, see $log" $((SECONDS - start))
    fi
}

same_bits_twice() {
    local run start=$SECONDS
    "$retort" synth "$out/scratch/scenes" --images=4 --seed=1 --size=128x96 --masks=3..5 >/dev/null
    for run in one two; do
        "$retort" finetune --model=configs/models/efficientvit_sam_tiny.yaml --data.root="$out/scratch/scenes" \
            --run.dir="$out/scratch/$run" --run.backend="$backend" --run.threads=1 --train.batch=2 \
            --data.masks_per_image=3 --train.steps=3 2>"$out/two_runs.$run.log" || true
    done
    if cmp "$out"/scratch/{one,two}/model.safetensors >>"$out/two_runs.two.log" 2>&1; then
        verdict "two runs, the same bits" "passed" $((SECONDS - start))
    else
        verdict "two runs, the same bits" "FAILED: see $out/two_runs.two.log" $((SECONDS - start))
    fi
}

check "every op against the reference" test_ops '*/*'
check "known answers" test_kat '*/*'
check "memory, order and failures" test_backend '*/*'
check "distillation's curve, recorded and launched steps equal" test_steps 'steps/distillation'
check "fine-tuning's curve, recorded and launched steps equal" test_steps 'steps/finetuning'
check "a run goes on in the same bits" test_steps 'steps/a_run*'
same_bits_twice
if [ "$n_gpus" -ge 2 ]; then
    check "sums over two ranks" test_nccl '*/*'
    check "two ranks train as one" test_steps 'steps/two_ranks*'
else
    verdict "two ranks" "skipped: one GPU" 0
fi

# ---- how fast? ----

# data_sheet: what retort calls this GPU, from which its peak is known; nothing for others.
data_sheet() {
    case $device in
    *A100*PCIE*80GB*) echo a100-pcie-80g ;;
    *A100*80GB*) echo a100-80g ;;
    *A100*40GB*) echo a100-40g ;;
    *H100*80GB*) echo h100-80g ;;
    *H200*) echo h200 ;;
    *L40S*) echo l40s ;;
    *4090*) echo rtx4090 ;;
    *3090*) echo rtx3090 ;;
    esac
}

peak=() # --peak=GFLOPS of bf16
gpu=$(data_sheet)
if [ -n "$gpu" ]; then
    "$retort" plan configs/recipes/finetune_l0_paper.yaml --gpu="$gpu" --run.precision=bf16 \
        --json="$out/scratch/plan.json" >/dev/null
    peak=(--peak="$(awk -v t="$(number peak_tflops "$out/scratch/plan.json")" 'BEGIN { print 1000 * t }')")
elif [ "$device" = simulator ]; then
    peak=(--peak=1) # none is shown
fi

work="" work_json=""

# memory_of_gpu: MiB in use on the first GPU.
memory_of_gpu() { nvidia-smi --id=0 --query-gpu=memory.used --format=csv,noheader,nounits; }

# most_memory PID: the most MiB that the GPU held while the process ran.
most_memory() {
    local most=0 now
    while kill -0 "$1" 2>/dev/null; do
        now=$(memory_of_gpu)
        [ "$now" -gt "$most" ] && most=$now
        sleep 0.1
    done
    echo "$most"
}

# measure NAME KIND REPEATS OPTION..: one work in bf16, its line, and its profile in NAME.profile.txt.
measure() {
    local name=$1 kind=$2 repeats=$3 before=0 most=- result=$out/$1.json pid
    shift 3
    [ "$device" = simulator ] || before=$(memory_of_gpu)
    "$retort" bench "$kind" "$@" --run.backend="$backend" --run.precision=bf16 --run.threads=1 --repeat="$repeats" \
        --run.profile=true --json="$result" "${peak[@]}" >"$out/$name.profile.txt" 2>"$out/$name.log" &
    pid=$!
    [ "$device" = simulator ] || most=$(($(most_memory $pid) - before))
    if ! wait $pid; then
        verdict "bench $name" "FAILED: $(tail -n 1 "$out/$name.log")" 0
        return
    fi
    local batch planned seconds=null rate=- mfu=-
    batch=$(number batch "$result") planned=$(($(number planned_bytes "$result") / 1048576))
    if [ "$device" != simulator ]; then
        seconds=$(tr -d ' \n' <"$result" | sed 's/.*"seconds":\[\([^]]*\)\].*/\1/' | tr , '\n' | sort -g |
            awk '{ s[NR] = $1 } END { print s[int(NR / 2) + 1] }')
        rate=$(awk -v b="$batch" -v s="$seconds" 'BEGIN { printf "%.1f", b / s }')
        mfu=$(awk -v m="$(number macs "$result")" -v p="$(number peak_gflops "$result")" -v s="$seconds" \
            'BEGIN { printf "%.0f %%", 200e-9 * m / s / p }')
    fi
    work+="| $name, batch $batch | $rate | $mfu | $planned | $most | $device |"$'\n'
    work_json+="${work_json:+,}{\"work\":\"$name\",\"batch\":$batch,\"seconds\":$seconds,"
    work_json+="\"mfu\":\"$mfu\",\"planned_mib\":$planned,\"measured_mib\":\"$most\",\"device\":\"$device\"}"
    echo "$name: $rate img/s, plan $planned MiB, measured $most"
}

distill=configs/recipes/distill_l0_paper.yaml
finetune=configs/recipes/finetune_l0_paper.yaml
if [ "$device" = simulator ]; then
    tiny=--model=configs/models/efficientvit_sam_tiny.yaml
    measure distill distill 1 $distill $tiny --teacher.model= --train.batch=1
    measure finetune finetune 1 $finetune $tiny --train.batch=1 --data.masks_per_image=2
    measure teacher encoder 1 $distill --model=configs/models/sam_tiny.yaml --teacher.model= --train.batch=1
else
    measure distill distill 20 $distill --teacher.model= --train.batch=16
    measure finetune finetune 20 $finetune --train.batch=4 --data.masks_per_image=64
    measure teacher encoder 20 $distill --model=configs/models/sam_vit_h.yaml --teacher.model= --train.batch=4
fi

# ---- how fast is PyTorch? ----

# beside OPTION..: Retort and PyTorch, as it is and compiled, in turns, after equal results (tests/peer/bench.py).
beside() {
    local start=$SECONDS python=$build/oracle/bin/python result
    if ! make BUILD="$build" peers >"$out/peers.log" 2>&1; then
        result="skipped: PyTorch cannot be installed"
    elif [ "$backend" = cuda ] &&
        ! "$python" -c 'import torch; torch.zeros(1, device="cuda")' 2>>"$out/peers.log"; then
        result="skipped: PyTorch cannot use this GPU"
    elif "$python" tests/peer/bench.py "$out/peers" "$retort" "$@" >>"$out/peers.log" 2>&1; then
        "$python" tests/peer/table.py "$out/peers" >"$out/peers.md"
        result=passed
    else
        result=FAILED
    fi
    [ "$result" = passed ] || result+=": see $out/peers.log"
    verdict "beside PyTorch, equal results" "$result" $((SECONDS - start))
}

if [ "$device" = simulator ]; then
    device=processor beside --rows="gpu-distill gpu-finetune" --batch=1 --masks=2 --precisions=f32 --repeats=1
else
    beside --rows="gpu-distill gpu-finetune gpu-vit-h" --device=cuda
fi

# ---- all, as tables and for programs ----

commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
what_peak="of what one large matrix product reaches here"
[ -z "$gpu" ] || what_peak="of the peak in the data sheet of $gpu"
{
    printf '# gpu-check of %s: %s, commit %s\n\n' "$(date -I)" "$device" "$commit"
    printf '| check | result | s | ran on |\n|---|---|---|---|\n%s\n' "$checks"
    printf 'bf16, median; MFU: share %s; memory in MiB, measured with that of the driver.\n\n' "$what_peak"
    printf '| work | images/s | MFU | planned | measured | ran on |\n|---|---|---|---|---|---|\n%s\n' "$work"
    # shellcheck disable=SC2016 # backticks of Markdown
    printf 'Time per op: `%s/NAME.profile.txt`.\n' "$out"
    [ ! -e "$out/peers.md" ] || printf '\n## Beside PyTorch\n\n%s\n' "$(cat "$out/peers.md")"
} >"$out/report.md"
peers_json=$(cat "$out/peers/results.json" 2>/dev/null || echo '[]')
printf '{"date":"%s","commit":"%s","device":"%s","checks":[%s],"work":[%s],"peers":%s}\n' "$(date -I)" "$commit" \
    "$device" "$checks_json" "$work_json" "$peers_json" >"$out/report.json"
cat "$out/report.md"
[ "$failed" -eq 0 ] || fail "$failed checks failed"
