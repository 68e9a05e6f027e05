"""Checks that the mean IoU which `retort eval` gives is what pycocotools computes.

Run by `make oracle` with a Python that has pycocotools; never needed to build, run or test Retort:

    python tests/oracle/miou.py [build/retort]

`retort segment` gives the masks of all boxes of an image; their IoU with the annotations' masks, by
pycocotools, must have the means that eval gives, over all and by size. On painted scenes and, where
it is there, on the image of SA-1B beside the project. The model is a small one that had sixty
steps on the same images: what its masks are worth does not matter here, only that they are not
empty.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from pycocotools import mask as coco_mask

RECIPE = "configs/recipes/demo_teacher.yaml"
MODEL = "configs/models/sam_tiny.yaml"
REAL = pathlib.Path("../shared/data/sa1b/pairs")
# px of the annotation; bounds count on both sides
SIZES = {"all": (0, 1e12), "small": (0, 32 ** 2), "medium": (32 ** 2, 96 ** 2),
         "large": (96 ** 2, 1e12)}


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stderr}"


def box_prompt(annotation):
    x, y, width, height = annotation["bbox"]
    return f"--prompt=box:{x},{y},{x + width},{y + height}"


def ious_of_image(retort, folder, weights, image):
    annotations = json.loads(image.with_suffix(".json").read_text())["annotations"]
    run(retort, "segment", image, f"--model={MODEL}", f"--weights={weights}", f"--out={folder}",
        *map(box_prompt, annotations))
    prompts = json.loads((folder / "masks.json").read_text())["prompts"]
    masks = [prompt["masks"][0]["segmentation"] for prompt in prompts]
    assert len(masks) == len(annotations), f"{image}: {len(masks)} masks"
    return [(truth["area"], coco_mask.iou([mask], [truth["segmentation"]], [0])[0][0])
            for mask, truth in zip(masks, annotations)]


def check(retort, folder, root):
    run(retort, "finetune", RECIPE, f"--data.root={root}", f"--run.dir={folder / root.name}",
        "--train.steps=60", "--train.batch=1", "--loss.mask_weight=0")
    weights = folder / root.name / "model.safetensors"
    run(retort, "eval", RECIPE, f"--weights={weights}", f"--data.root={root}", "--prompts=box",
        f"--out={folder / 'eval.json'}")
    given = json.loads((folder / "eval.json").read_text())["miou"]["box"]
    ious = [pair for image in sorted(root.glob("*.jpg"))
            for pair in ious_of_image(retort, folder / "masks", weights, image)]
    for size, (low, high) in SIZES.items():
        these = [iou for area, iou in ious if low <= area <= high]
        if not these:
            assert given[size] is None, f"{root}: {size}: {given[size]}, but there is no mask"
            continue
        wanted = 100 * sum(these) / len(these)
        assert abs(given[size] - wanted) < 1e-6, f"{root}: {size}: {given[size]}, wanted {wanted}"
    assert max(iou for _, iou in ious) > 0.05, f"{root}: all masks are as good as empty"
    print(f"miou: {root.name}: {len(ious)} masks, {given['all']:.4f} %, equal to pycocotools'")


def main():
    retort = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/retort")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        painted = folder / "painted"
        run(retort, "synth", painted, "--images=4", "--size=320x240", "--masks=5..9")
        check(retort, folder, painted)
        if REAL.is_dir():
            check(retort, folder, REAL)
        else:
            print(f"miou: skipped {REAL}: not there")


main()
