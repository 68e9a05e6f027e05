#!/bin/bash
# What a person sees of a run: in a terminal of 80 columns (tmux) the progress bar is one line that moves in place, and
# Ctrl-C ends the run with its state saved and a line that says how to go on; then it does go on. `make terminal`.
set -euo pipefail
cd "$(dirname "$0")/.."
retort=${1:-build/retort}
work=$(mktemp -d)
session=retort-terminal-$$
trap 'tmux kill-session -t $session 2>/dev/null || true; rm -r "$work"' EXIT

fail() { printf 'terminal: %s; the screen:\n' "$1" >&2; cat "$work/screen" >&2; exit 1; }
screen() { tmux capture-pane -p -S -200 -t $session >"$work/screen"; }
# wait_for PATTERN: until a line of the screen matches, at most two minutes.
wait_for() {
    for ((i = 0; i < 600; i++)); do
        screen
        grep -Eq "$1" "$work/screen" && return
        sleep 0.2
    done
    fail "no line like '$1' came"
}

"$retort" synth "$work/scenes" --images=8 --seed=1 --size=128x96 --masks=2..4 >/dev/null
run="$retort finetune --model=configs/models/efficientvit_sam_tiny.yaml --data.root=$work/scenes --run.dir=$work/run \
--train.batch=2 --data.masks_per_image=2 --run.threads=1"
tmux new-session -d -s $session -x 80 -y 24 bash --norc
tmux send-keys -t $session "$run --train.steps=100000" Enter
bar='^ *([0-9]+%|\[).*(img/s|ETA|eta)'
wait_for "$bar"
first=$(grep -E "$bar" "$work/screen")
sleep 2
screen
[ "$(grep -Ec "$bar" "$work/screen")" = 1 ] || fail "the bar is not on one line"
[ "$(grep -E "$bar" "$work/screen")" != "$first" ] || fail "the bar does not move"
grep -E "$bar" "$work/screen"

tmux send-keys -t $session C-c
wait_for 'run.resume=auto'
screen
tail -n 8 "$work/screen" | grep -v '^$'
[ -f "$work/run/checkpoints/latest" ] || fail "no state was saved"
steps=$(tail -n 1 "$work/run/log.jsonl" | sed 's/.*"step":\([0-9]*\).*/\1/')
tmux send-keys -t $session "clear; $run --train.steps=$((steps + 4)) --run.resume=auto; echo code \$?" Enter
wait_for '^code 0'
[ -f "$work/run/model.safetensors" ] || fail "the run did not end"
echo "terminal: the bar kept to its line; stopped after step $steps, went on, ended"
