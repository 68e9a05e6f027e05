#!/bin/bash
# Runs every command of the README's section "Your own data in ten minutes" as it is written there, on the small piece
# of COCO beside the repository: `make own-data`, after `make demo`. Fails if one of them fails, or if the masks are not
# better afterwards than before.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -rf runs/own
commands=$(awk '/^## / { inside = /^## Your own data/ } inside && /^    / { print substr($0, 5) }' README.md)
[ -n "$commands" ] || { echo "own_data: README.md has no section \"Your own data\"" >&2; exit 1; }
echo "$commands"
start=$SECONDS
bash -euo pipefail -c "$commands"
echo "own_data: $((SECONDS - start)) s"

box() { awk '/"box": \{/ { inside = 1 } inside && /"all":/ { print $2 + 0; exit }' "runs/own/$1/eval.json"; }
echo "own_data: mean IoU from boxes: $(box before) % before, $(box after) % after"
awk -v before="$(box before)" -v after="$(box after)" 'BEGIN { exit !(after > before) }' ||
    { echo "own_data: fine-tuning did not help" >&2; exit 1; }
