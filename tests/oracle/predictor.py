"""Checks that `retort segment` gives the masks of the official predictors.

Run by `make oracle` after golden.py, with the folder that it filled:

    python tests/oracle/predictor.py FOLDER [build/retort]

One drawn image whose sides round differently in the frame of the prompts (1024) and in the square of
the encoder (512), written as JPEG and decoded once by each side. Points of both labels, boxes, masks
of an earlier call, and mixtures of them; three masks and one. Compared are low-resolution logits and
predicted IoU, in standard deviations of the official logits, and the masks at the size of the image.
"""

import json
import pathlib
import subprocess
import sys

import numpy
import torch
from PIL import Image
from efficientsam.models.efficientvit.sam import EfficientViTSamPredictor
from safetensors.torch import load_file
from segment_anything import SamPredictor

import golden

HEIGHT, WIDTH = 427, 640
LIMIT = 1e-4  # as models.py: two float32 computations in other orders of summation
BOX, POINTS = [70, 60.5, 400, 390], [[300, 200, 1], [30.25, 400, 0], [500, 99, 1]]
PLAIN = [{"points": POINTS[:1]}, {"points": POINTS}, {"box": BOX}, {"points": POINTS[:2], "box": BOX}]
MASKED = [{"mask": True}, {"points": POINTS, "mask": True}, {"box": BOX, "mask": True},
          {"points": POINTS[1:], "box": BOX, "mask": True}]


def draw_image(path):
    """Smooth waves, so that no pixel hangs on a rounding of the JPEG decoder, and some noise."""
    y, x = numpy.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [numpy.sin(x / (31 + 9 * c) + c) * numpy.cos(y / (23 + 7 * c)) for c in range(3)]
    noise = numpy.random.default_rng(5).integers(-20, 20, (HEIGHT, WIDTH, 3))
    rgb = numpy.clip(128 + 100 * numpy.stack(waves, axis=2) + noise, 0, 255)
    Image.fromarray(rgb.astype(numpy.uint8)).save(path, quality=95)


def official(name, place):
    model = golden.create(name).eval()
    model.load_state_dict(load_file(place / "weights.safetensors"), strict=True)
    return SamPredictor(model) if name.startswith("sam_") else EfficientViTSamPredictor(model)


def word(case, mask_path):
    """A case as a word of the command line."""
    parts = [f"point:{x},{y},{label}" for x, y, label in case.get("points", [])]
    if "box" in case:
        parts.append("box:" + ",".join(map(str, case["box"])))
    if "mask" in case:
        parts.append(f"mask:{mask_path}")
    return "--prompt=" + "+".join(parts)


def predict_here(binary, image, place, cases, multimask, mask_path):
    out = place / "segment"
    done = subprocess.run([binary, "segment", image, f"--model=configs/models/{place.name}.yaml",
                           f"--weights={place / 'weights.safetensors'}", f"--out={out}",
                           *[word(case, mask_path) for case in cases], "--save-logits",
                           f"--select={'all' if multimask else 'first'}"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for prompt in json.loads((out / "masks.json").read_text())["prompts"]:
        stems = [pathlib.Path(mask["file"]).stem for mask in prompt["masks"]]
        logits = [load_file(out / f"{stem.replace('mask', 'logits')}.safetensors")["mask_input"][0]
                  for stem in stems]
        masks = [numpy.array(Image.open(out / f"{stem}.png")) > 0 for stem in stems]
        yield (numpy.stack(logits), numpy.array([mask["predicted_iou"] for mask in prompt["masks"]]),
               numpy.stack(masks))


def predict_there(predictor, case, multimask, mask):
    """Low-resolution logits, predicted IoU, and logits at the size of the image."""
    points = numpy.array(case["points"], dtype=float) if "points" in case else None
    full, iou, logits = predictor.predict(
        point_coords=None if points is None else points[:, :2],
        point_labels=None if points is None else points[:, 2].astype(int),
        box=numpy.array(case["box"]) if "box" in case else None,
        mask_input=mask if "mask" in case else None, multimask_output=multimask, return_logits=True)
    return logits, iou, full


def check_cases(binary, predictor, image, place, cases, multimask, mask_path):
    mask = load_file(mask_path)["mask_input"].numpy() if mask_path.exists() else None
    worst = {"logits": 0.0, "iou": 0.0, "pixels": 0}
    found = list(predict_here(binary, image, place, cases, multimask, mask_path))
    for case, (logits, iou, masks) in zip(cases, found, strict=True):
        wanted, wanted_iou, full = predict_there(predictor, case, multimask, mask)
        worst["logits"] = max(worst["logits"], abs(logits - wanted).max() / wanted.std())
        worst["iou"] = max(worst["iou"], abs(iou - wanted_iou).max())
        sure = abs(full) > LIMIT * wanted.std()
        worst["pixels"] = max(worst["pixels"], int(((full > 0) != masks)[sure].sum()))
    print(f"{place.name}: {len(cases)} prompts{' with a mask' if mask is not None else '':12s}, "
          f"{'three masks' if multimask else 'one mask   '}: logits {worst['logits']:.1e}  "
          f"iou {worst['iou']:.1e}  pixels {worst['pixels']}", flush=True)
    assert worst["logits"] < LIMIT and worst["iou"] < LIMIT and worst["pixels"] == 0, worst


@torch.inference_mode()
def check_model(binary, image, place):
    predictor, mask_path = official(place.name, place), place / "mask.safetensors"
    mask_path.unlink(missing_ok=True)
    predictor.set_image(numpy.array(Image.open(image)))
    for multimask in (True, False):
        check_cases(binary, predictor, image, place, PLAIN, multimask, mask_path)
    (place / "segment" / "logits_2.safetensors").replace(mask_path)
    for multimask in (True, False):
        check_cases(binary, predictor, image, place, MASKED, multimask, mask_path)


def main():
    folder = pathlib.Path(sys.argv[1])
    binary = sys.argv[2] if len(sys.argv) > 2 else "build/retort"
    image = folder / "image.jpg"
    draw_image(image)
    for name in golden.MODELS:
        check_model(binary, image, folder / name)
    print(f"predictor: {len(golden.MODELS)} models, {2 * len(PLAIN + MASKED)} prompts each, equal to "
          "the official ones")


if __name__ == "__main__":
    main()
