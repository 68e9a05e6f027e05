#!/bin/bash
# A real Slurm on this machine, called by `make test-slurm` with the program, as root: munged, slurmctld and slurmd of
# Debian's packages with a configuration of their own; two ranks by srun inside a batch job, which a job of a partition
# of higher priority preempts: Slurm sends SIGTERM, the ranks save and leave with 75, the job is requeued, starts again
# when the other has ended, and ends in the bits of an undisturbed run. What it started, it ends. Exits non-zero otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."
retort=$(realpath "${1:-build/retort}")
place=$(mktemp -d)
chmod 755 "$place"
export SLURM_CONF=$place/slurm.conf OMP_WAIT_POLICY=passive
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; sleep 1; rm -rf "$place"' EXIT

fail() {
    echo "test-slurm: $1" >&2
    tail -n 20 "$place"/*.log "$place"/job.out 2>/dev/null >&2 || true
    exit 1
}

host=$(hostname -s)
mkdir -p "$place/state" "$place/spool" "$place/munge"
chown munge "$place/munge"
dd if=/dev/urandom of="$place/munge/key" bs=64 count=1 status=none
chown munge "$place/munge/key"
chmod 600 "$place/munge/key"
setpriv --reuid=munge --regid="$(id -g munge)" --clear-groups munged --foreground --force --key-file="$place/munge/key" \
    --socket="$place/munge/socket" --pid-file="$place/munge/pid" --seed-file="$place/munge/seed" --syslog \
    >"$place/munged.log" 2>&1 &
pids+=($!)
cat >"$SLURM_CONF" <<CONF
ClusterName=retort
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket=$place/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=low Nodes=$host Default=YES State=UP PriorityTier=1 GraceTime=120
PartitionName=high Nodes=$host State=UP PriorityTier=2 PreemptMode=OFF
CONF
until [ -S "$place/munge/socket" ]; do sleep 0.1; done
slurmctld -D -f "$SLURM_CONF" >"$place/slurmctld.log" 2>&1 &
pids+=($!)
slurmd -D -f "$SLURM_CONF" >"$place/slurmd.log" 2>&1 &
pids+=($!)
for ((i = 0; i < 60; i++)); do
    sinfo -h -o %t 2>/dev/null | grep -q idle && break
    sleep 0.5
done
sinfo -h -o %t | grep -q idle || fail "the node does not become idle"

"$retort" synth "$place/scenes" --images=13 --seed=1 --size=128x96 --masks=3..5 >/dev/null
words="finetune --model=configs/models/efficientvit_sam_tiny.yaml --data.masks_per_image=4 --data.root=$place/scenes
    --optim.lr=1e-4 --run.threads=1 --data.threads=1 --train.global_batch=4 --train.steps=60"
cat >"$place/job" <<JOB
#!/bin/bash
echo "started, restart \${SLURM_RESTART_COUNT:-0}"
code=0
srun "$retort" $(echo $words) --run.dir=$place/run --run.resume=auto || code=\$?
scontrol show job "\$SLURM_JOB_ID" | grep -o "PreemptTime=[^ ]*"
echo "srun ended with \$code"
[ "\$code" -ne 75 ] || exec scontrol requeue "\$SLURM_JOB_ID"
exit "\$code"
JOB
job=$(sbatch --parsable --ntasks=2 --requeue --open-mode=append --output="$place/job.out" --chdir="$PWD" "$place/job")
until grep -q '"step":3' "$place/run/log.jsonl" 2>/dev/null; do
    sleep 0.2
    squeue -h -j "$job" -o %t 2>/dev/null | grep -q . || fail "the job ended too early"
done
sbatch --parsable --partition=high --exclusive --output=/dev/null --wrap "sleep 1" >/dev/null
for ((i = 0; i < 400; i++)); do
    grep -q "srun ended with 75" "$place/job.out" && break
    sleep 0.1
done
grep -q "srun ended with 75" "$place/job.out" || fail "SIGTERM did not make the ranks leave with 75"
grep -q "PreemptTime=2" "$place/job.out" || fail "Slurm did not preempt it"
echo "preempted by SIGTERM: saved, left with 75, requeued"
scontrol release "$job" 2>/dev/null || true
for ((i = 0; i < 60; i++)); do # Slurm holds a requeued job back for a while
    scontrol update JobId="$job" StartTime=now 2>/dev/null || true
    [ -e "$place/run/DONE" ] && break
    sleep 3
done
[ -e "$place/run/DONE" ] || fail "the requeued job did not end the run"

# shellcheck disable=SC2086 # words on purpose
srun --ntasks=2 "$retort" $words --run.dir="$place/undisturbed" 2>"$place/undisturbed.err" ||
    fail "$(tail -n 1 "$place/undisturbed.err")"
cmp "$place/run/model.safetensors" "$place/undisturbed/model.safetensors" || fail "not the undisturbed run's bits"
echo "requeued and ended: the bits of the undisturbed run"
echo "test-slurm: passed"
