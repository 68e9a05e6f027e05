"""Equality of results, before any time counts. Called by bench.py; ends the program if they differ.

A forward pass of ours is one more order of summation: its distance from PyTorch's may be thrice
the largest among PyTorch's own (its other order of memory, its compiled form) and OpenVINO's. In
bf16 all are compared with PyTorch in f32, so the row in f32 comes first. A step's loss before the
first update may differ by twice, since it is a square, the error of either's embedding that the
README gives; and it must fall by the update as PyTorch's does, within a twentieth: Adam's first
step is made of signs, which rounding turns where gradients are near zero.
"""

import sys

from safetensors.torch import load_file

import cases

NOISE_SHARE = 3
LOSS_LIMIT = {"f32": 2 * (3.2e-5 + 1.4e-4), "bf16": 2 * 1.2e-2}
FALL_LIMIT = {"f32": 0.05, "bf16": 0.5}
# A position of up to 2,060 px in f32 is off by up to 1.2e-4 px, a tap of 4 px by a quarter of that,
# and a pixel of a mask is the sum of some eight taps in each of two directions.
MASK_LIMIT = 16 * 1.2e-4 / 4


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def judge(run, what, off, limit):
    print(f"  {what}: off by {off:.1e}, allowed {limit:.1e}", flush=True)
    if not off <= limit:
        sys.exit(f"bench-peer: {run.row.title}, {run.precision}: {what} is not the peers'")
    run.equality[what] = [off, limit]


def check_forward(run, contestants):
    ours, eager, *others = [load_file(c.out) for c in contestants if c.out.exists()]
    wanted = eager["embedding"]
    maps = [other["embedding"] for other in others]
    if "other_order" in eager:
        maps.append(eager["other_order"])
    if run.precision != "f32":
        maps.append(wanted)
        path = str(contestants[1].out).replace(f".{run.precision}.", ".f32.")
        wanted = load_file(path)["embedding"]
    noise = max(distance(other, wanted) for other in maps)
    judge(run, "embedding", distance(ours["embedding"].permute(0, 3, 1, 2), wanted),
          NOISE_SHARE * noise)


def check_step(run, contestants):
    ours, there = (run.results[c.name]["rounds"][0]["losses"] for c in contestants[:2])
    judge(run, "loss", abs(ours[0] / there[0] - 1), LOSS_LIMIT[run.precision])
    if run.row.work == "distill":  # a fine-tuning step's rate of 2e-6 changes nothing to be seen
        fall = (ours[0] - ours[1]) / (there[0] - there[1])
        judge(run, "fall of the loss", abs(fall - 1), FALL_LIMIT[run.precision])


def check_loader(run, contestants):
    """Each of our masks is one of the pair's."""
    ours, there = (load_file(c.out)["masks"] for c in contestants)
    off = max(min((mask - other).abs().max().item() for other in there) for mask in ours[0])
    judge(run, "masks", off, MASK_LIMIT)


def check(run, contestants):
    """contestants: Retort, PyTorch as it is, others"""
    failed = run.results[contestants[1].name].get("failed")
    if failed:
        sys.exit(f"bench-peer: {contestants[1].name} failed: {failed}")
    {"encoder": check_forward, "loader": check_loader}.get(run.row.work, check_step)(
        run, contestants)
