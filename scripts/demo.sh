#!/bin/bash
# The whole recipe on painted scenes, called by `make demo` with the program: a teacher learns from nothing, a student
# is distilled from it and fine-tuned, all are judged on scenes none of them saw, and one page shows it.
# Ends with runs/demo/summary.json (mean IoU, 0..1) and fails if the recipe did not do what it promises. SEED=N paints
# other scenes and draws other weights and prompts.
set -euo pipefail
cd "$(dirname "$0")/.."
retort=${1:-build/retort}
demo=${2:-runs/demo}
seed=${SEED:-1}
rm -rf "$demo"
mkdir -p "$demo"
start=$SECONDS

say() { printf '\n== %s (%d s)\n' "$1" $((SECONDS - start)); }

# evaluate NAME MODEL WEIGHTS: its results as $demo/NAME/eval.json and the lines that eval prints.
evaluate() {
    mkdir -p "$demo/$1"
    "$retort" eval "$2" --weights="$3" --data.root="$demo/val" --prompts=box,click1,click3 \
        --out="$demo/$1/eval.json" | tee "$demo/$1/eval.txt"
}
# score NAME PROMPT: mean IoU over all masks, 0..1.
score() { sed -n "s/^$2: all=\([0-9.]*\).*/\1/p" "$demo/$1/eval.txt" | awk '{ printf "%.4f", $1 / 100 }'; }
scores() { printf '{"box":%s,"click1":%s,"click3":%s}' "$(score "$1" box)" "$(score "$1" click1)" "$(score "$1" click3)"; }

# Few objects, and no masks of what COCO calls small: the models see 128 px and have minutes to learn.
say "paint scenes: 1500 to learn from, 80 to be judged on"
paint() {
    "$retort" synth "$demo/$1" --images="$2" --seed="$3" --size=256x256 --masks=3..4 --scale=1.2 --min-area=1024
}
paint train 1500 $((2 * seed))
paint val 80 $((2 * seed + 1))

say "a small SAM learns from nothing"
"$retort" finetune configs/recipes/demo_teacher.yaml --seed="$seed" --data.root="$demo/train" --run.dir="$demo/teacher"
teacher=$demo/teacher/model.safetensors

say "teach: its embeddings of all scenes"
"$retort" teach configs/recipes/demo_distill.yaml --teacher.weights="$teacher" --data.root="$demo/train" \
    --out="$demo/embeddings"

say "distill: an EfficientViT learns to give the same embeddings"
"$retort" distill configs/recipes/demo_distill.yaml --seed="$seed" --teacher.weights="$teacher" \
    --data.root="$demo/train" --teacher.embeddings="$demo/embeddings" --run.dir="$demo/distilled"

say "finetune: the student with the teacher's decoder, on masks; and the same without distillation"
"$retort" finetune configs/recipes/demo_finetune.yaml --seed="$seed" --data.root="$demo/train" \
    --init.weights="$demo/distilled/model.safetensors" --run.dir="$demo/finetuned"
"$retort" finetune configs/recipes/demo_finetune.yaml --seed="$seed" --data.root="$demo/train" --run.dir="$demo/scratch"

say "eval on scenes nobody saw"
for name in teacher distilled finetuned scratch; do
    recipe=configs/recipes/demo_finetune.yaml
    [ $name = teacher ] && recipe=configs/recipes/demo_teacher.yaml
    echo "-- $name"
    evaluate $name $recipe "$demo/$name/model.safetensors"
done

say "pictures and report"
for name in teacher distilled finetuned; do
    model=configs/models/efficientvit_sam_tiny.yaml
    [ $name = teacher ] && model=configs/models/sam_tiny.yaml
    mkdir -p "$demo/$name/pictures"
    for image in 1 2 3 4; do
        # the box of the first annotation, as the painter wrote it
        box=$(sed 's/.*"bbox":\[\([0-9.,]*\)\].*/\1/;q' "$demo/val/sa_$image.json" |
            awk -F, '{ printf "%g,%g,%g,%g", $1, $2, $1 + $3, $2 + $4 }')
        "$retort" segment "$demo/val/sa_$image.jpg" --model=$model --weights="$demo/$name/model.safetensors" \
            --box="$box" --out="$demo/$name/segment_$image" >"$demo/$name/segment_$image.log"
        cp "$demo/$name/segment_$image"/overlay*.png "$demo/$name/pictures/scene_$image.png"
    done
done
"$retort" report "$demo/teacher" "$demo/distilled" "$demo/finetuned" --out="$demo/report.html"

fill=$(score teacher box_fill)
rss=$(sed -n 's/.*"peak_bytes":\([0-9]*\).*/\1/p' "$demo"/*/log.jsonl | sort -n | tail -n 1)
printf '{"teacher":%s,"distilled":%s,"finetuned":%s,"scratch":%s,"box_fill":%s,"seconds":%d,"peak_rss_bytes":%s}\n' \
    "$(scores teacher)" "$(scores distilled)" "$(scores finetuned)" "$(scores scratch)" "$fill" \
    $((SECONDS - start)) "$rss" >"$demo/summary.json"
say "done: $demo/report.html"
cat "$demo/summary.json"

# The promises: the teacher beats filling the box; fine-tuning helps; distillation helps; the student is near.
awk -v t="$(score teacher box)" -v d="$(score distilled box)" -v f="$(score finetuned box)" \
    -v s="$(score scratch box)" -v fill="$fill" 'BEGIN {
    if (t < fill + 0.15) { print "demo: the teacher (" t ") is not 0.15 above filling the box (" fill ")"; bad = 1 }
    if (f <= d) { print "demo: fine-tuning (" f ") did not improve the distilled student (" d ")"; bad = 1 }
    if (f <= s) { print "demo: the fine-tuned student (" f ") is not above one without distillation (" s ")"; bad = 1 }
    if (f < t - 0.05) { print "demo: the fine-tuned student (" f ") is far below its teacher (" t ")"; bad = 1 }
    exit bad
}' >&2
