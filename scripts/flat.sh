#!/bin/bash
# Memory must stay flat: 20,000 samples of the loader, one of them broken; 2,000 small steps of distillation from a
# cache and of fine-tuning, with checkpoints written beside them. Called by `make flat` with the two programs. Fails if
# the loader's peak grew by more than 2 MiB after 1,000 samples, or a run's after step 200.
set -euo pipefail
cd "$(dirname "$0")/.."
retort=${1:-build/retort}
flat_loader=${2:-build/tests/flat_loader}
steps=${3:-2000}
folder=build/tmp/flat
rm -rf "$folder"
mkdir -p "$folder"
common=(--model=configs/models/efficientvit_sam_tiny.yaml --data.root="$folder/scenes" --train.batch=1
    --train.steps="$steps" --run.save_every=100 --run.log_every=500 --run.threads=1)
teacher=(--teacher.model=configs/models/sam_tiny.yaml --teacher.weights=random)

# check NAME: the peak at step 200 and at the end, from the run's log.
check() {
    sed -n 's/.*"step":\([0-9]*\),.*"peak_bytes":\([0-9]*\).*/\1 \2/p' "$folder/$1/log.jsonl" | awk -v name="$1" '
        $1 == 200 { early = $2 }
        { last = $2 }
        END {
            printf "%s: peak %.1f MiB at step 200, %.1f MiB at step %d\n", name, early / 2^20, last / 2^20, $1
            exit !(early > 0 && last - early <= 2 * 2^20)
        }'
}

"$retort" synth "$folder/scenes" --images=16 --size=200x160 --masks=3..6 >/dev/null
cp -r "$folder/scenes" "$folder/one_broken"
truncate -s 500 "$folder/one_broken/sa_7.jpg"
"$flat_loader" "$folder/one_broken"
"$retort" teach "${common[@]}" "${teacher[@]}" --out="$folder/embeddings" --teach.zstd_level=1
"$retort" distill "${common[@]}" "${teacher[@]}" --teacher.embeddings="$folder/embeddings" --run.dir="$folder/distill"
check distill
"$retort" finetune "${common[@]}" --data.masks_per_image=4 --run.dir="$folder/finetune"
check finetune
