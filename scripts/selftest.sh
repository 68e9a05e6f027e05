#!/bin/bash
# `make selftest`: the loss is right, in f32 and, with the same curve over 200 steps, in bf16 and fp16; and wrong ones
# are seen. The second half damages the loss by small factors and wants `retort selftest` to fail each time, for the
# reason that the loss left its band.
set -euo pipefail
cd "$(dirname "$0")/.."
retort=${1:-build/retort}
for precision in f32 bf16 fp16; do "$retort" selftest --run.precision=$precision; done

expect_outside() {
    if said=$("$retort" selftest "$@" 2>&1); then
        echo "selftest: $* passes; it must not" >&2
        exit 1
    fi
    grep -o 'the loss is outside the band in .*' <<<"$said" | sed "s/^/$*: /" || { echo "$said" >&2; exit 1; }
}
expect_outside --loss.dice_weight=2
expect_outside --loss.dice_weight=0.95
expect_outside --loss.mask_weight=22
expect_outside --loss.focal_gamma=1.9
expect_outside --loss.focal_alpha=0.3
expect_outside --optim.lr=6e-4
expect_outside --train.mode=multi
