#!/bin/bash
# All ranks of one host by torchrun: scripts/launch/torchrun.sh N finetune CONFIG --run.dir=.. (any command of retort).
# For several hosts add torchrun's own --nnodes, --node_rank and --master_addr.
set -euo pipefail
n=$1
shift
exec torchrun --nproc_per_node="$n" --master_addr=127.0.0.1 --no-python "${RETORT:-build/retort}" "$@"
