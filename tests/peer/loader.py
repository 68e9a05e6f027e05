"""The released loader's pipeline on one SA-1B pair: python tests/peer/loader.py PAIR OUT

Written from the description of that pipeline: decode in full, masks in full as float, antialiased
resize of image and masks to 512 on the longest side, normalise, pad; one thread. Started by
bench.py. Says one JSON line: seconds of a sample after one that warms up, and by how much memory
grew; OUT gets all masks of the pair as they are after the resize.
"""

import json
import pathlib
import sys
import time

import numpy
import torch
from PIL import Image
from pycocotools import mask as coco
from safetensors.torch import save_file
from torch.nn import functional as F

from peers import status_bytes

SIDE, MASKS = 512, 64
MEAN = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
STD = torch.tensor([58.395, 57.12, 57.375])[:, None, None]


def fit(height, width):
    scale = SIDE / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def resized(maps):
    return F.interpolate(maps[None], fit(*maps.shape[-2:]), mode="bilinear", antialias=True,
                         align_corners=False)[0]


def padded(maps):
    height, width = maps.shape[-2:]
    return F.pad(maps, (0, SIDE - width, 0, SIDE - height))


def read(pair):
    jpeg = next(pathlib.Path(pair).glob("*.jpg"))
    items = json.loads(jpeg.with_suffix(".json").read_text())["annotations"]
    image = torch.from_numpy(numpy.array(Image.open(jpeg).convert("RGB")))
    return image.permute(2, 0, 1).float(), items


def decoded(items):
    return torch.stack([torch.from_numpy(coco.decode(item["segmentation"])).float()
                        for item in items])


def sample(pair):
    """image (3,S,S), masks (64,S,S), boxes (64,4: x0,y0,x1,y1) px of the resized image."""
    image, items = read(pair)
    chosen = torch.randperm(len(items))[:MASKS].tolist()
    masks = decoded([items[i] for i in chosen])
    boxes = torch.tensor([items[i]["bbox"] for i in chosen])
    boxes[:, 2:] += boxes[:, :2]
    if torch.rand(()) < 0.5:
        image, masks = image.flip(-1), masks.flip(-1)
        boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
    boxes *= SIDE / max(image.shape[-2:])
    return padded((resized(image) - MEAN) / STD), padded(resized(masks)), boxes


def main():
    pair, out = sys.argv[1:]
    torch.set_num_threads(1)
    before = status_bytes("VmRSS")
    sample(pair)
    start = time.perf_counter()
    sample(pair)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "memory": status_bytes("VmHWM") - before}))
    save_file({"masks": padded(resized(decoded(read(pair)[1])))}, out)


if __name__ == "__main__":
    main()
