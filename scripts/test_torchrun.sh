#!/bin/bash
# Two ranks under a real torchrun (the one on PATH) against one rank, called by `make test-torchrun` with the program:
# the same losses over ten steps, within 1e-6: eight times a float's last place, to which test_ranks.sh finds sums in
# other orders to agree. Exits non-zero otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."
retort=${1:-build/retort}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export OMP_WAIT_POLICY=passive
"$retort" synth "$place/scenes" --images=13 --seed=1 --size=128x96 --masks=3..5 >/dev/null
words="finetune --model=configs/models/efficientvit_sam_tiny.yaml --data.masks_per_image=4 --data.root=$place/scenes
    --optim.lr=1e-4 --optim.bn=frozen --run.threads=1 --train.global_batch=4 --train.steps=10"
# shellcheck disable=SC2086 # words on purpose
{
    "$retort" $words --run.dir="$place/one" 2>/dev/null
    torchrun --standalone --nproc_per_node=2 --no-python "$retort" $words --run.dir="$place/two"
}
paste <(grep -o '"loss":[-0-9.e]*' "$place/one/log.jsonl") <(grep -o '"loss":[-0-9.e]*' "$place/two/log.jsonl") |
    tr -d '"los:' | awk '
        { off = ($1 - $2) / $1; if (off < 0) off = -off
          if (off > 1e-6) { print "step " NR ": loss " $2 ", wanted " $1; bad = 1 } }
        END { exit bad || NR != 10 }'
echo "test-torchrun: passed"
