#!/bin/bash
# All ranks by Open MPI's mpirun: scripts/launch/mpirun.sh N finetune CONFIG --run.dir=.. (any command of retort).
# On several hosts (mpirun's --host in MPIRUN_FLAGS), MASTER_ADDR must name the first of them.
set -euo pipefail
n=$1
shift
# shellcheck disable=SC2086 # flags on purpose
exec mpirun -np "$n" ${MASTER_ADDR:+-x MASTER_ADDR} ${MASTER_PORT:+-x MASTER_PORT} ${MPIRUN_FLAGS:-} \
    "${RETORT:-build/retort}" "$@"
