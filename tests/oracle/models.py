"""Checks that whole models pass between Retort and PyTorch: same weights, same masks, both ways.

Run by `make oracle` after golden.py, with the folder that it filled:

    python tests/oracle/models.py FOLDER [build/retort]

Weights written by PyTorch are run here, and what is written here is loaded there, strictly and with
weights_only=True, and run there; .pth and safetensors alike. Deviations are in standard deviations
of the official output; two float32 computations in other orders of summation differ by about 1e-6.
"""

import pathlib
import subprocess
import sys

import torch
from safetensors.torch import load_file

import golden

LIMIT = 1e-4
OUTPUTS = ("embedding", "lowres", "iou")


def retort(binary, *words):
    done = subprocess.run([str(binary), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stderr


def run_here(binary, name, weights, inputs, out):
    said = retort(binary, "trace", "configs/recipes/finetune_l0_paper.yaml",
                  f"--model=configs/models/{name}.yaml", f"--weights={weights}",
                  f"--inputs={inputs}", "--save=" + ",".join(OUTPUTS), f"--out={out}")
    assert "0 missing, 0 unexpected" in said, said
    return load_file(out)


def load_there(path):
    if path.suffix == ".pth":
        return torch.load(path, weights_only=True)
    return load_file(path)


def deviations(got, wanted):
    return {key: ((got[key].reshape(-1) - wanted[key].reshape(-1)).abs().max()
                  / wanted[key].std()).item() for key in OUTPUTS}


def report(what, off):
    print(f"{what:68s} " + "  ".join(f"{key} {off[key]:.1e}" for key in OUTPUTS), flush=True)
    assert max(off.values()) < LIMIT, f"{what}: more than {LIMIT} standard deviations"


def check_model(binary, place):
    name, inputs = place.name, place / "inputs.safetensors"
    wanted = load_file(place / "golden.safetensors")
    for kind in ("pth", "safetensors"):
        here = run_here(binary, name, place / f"weights.{kind}", inputs, place / "out.safetensors")
        report(f"{name}: written there (.{kind}), run here", deviations(here, wanted))
        other = "safetensors" if kind == "pth" else "pth"
        back = place / f"back.{other}"
        retort(binary, "export", place / f"weights.{kind}", f"--out={back}")
        model = golden.create(name).eval()
        model.load_state_dict(load_there(back), strict=True)
        there = golden.run(model, load_file(inputs))
        report(f"{name}: written here (.{other}), run there", deviations(here, there))
        assert all(torch.equal(there[key], wanted[key]) for key in OUTPUTS), "other weights"


def main():
    folder = pathlib.Path(sys.argv[1])
    binary = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else "build/retort")
    for name in golden.MODELS:
        check_model(binary, folder / name)
    print(f"models: {len(golden.MODELS)} equal both ways with torch {torch.__version__}; "
          "deviations in standard deviations of the official output")


if __name__ == "__main__":
    main()
