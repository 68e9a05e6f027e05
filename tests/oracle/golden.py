"""Makes golden files: what the official models give for random weights and a random image.

Run by `make oracle` with a Python that has torch, efficientsam and segment_anything:

    python tests/oracle/golden.py FOLDER

For each model, FOLDER/NAME gets weights.pth and weights.safetensors (random weights, random
statistics of the batch norms), inputs.safetensors as `retort trace` takes them, and
golden.safetensors: embedding, lowres and iou in float32, evaluation mode.
"""

import pathlib
import sys

import torch
from efficientsam.sam_model_zoo import create_efficientvit_sam_model
from safetensors.torch import save_file
from segment_anything import sam_model_registry

MODELS = {"efficientvit_sam_l0": "efficientvit-sam-l0",
          "efficientvit_sam_xl0": "efficientvit-sam-xl0",
          "sam_vit_b": "vit_b"}
BOXES = [[[100.5, 200.25, 700.75, 900.0], [0.0, 0.0, 1023.0, 1023.0]]]
POINTS = [[[[400.5, 610.25], [20.0, 1000.5]], [[777.25, 123.5], [500.0, 40.0]]]]
LABELS = [[[1, 0], [1, 1]]]


def create(name):
    official = MODELS[name]
    if official in sam_model_registry:
        return sam_model_registry[official](checkpoint=None)
    return create_efficientvit_sam_model(official, pretrained=False)


def image_side(name):
    return 1024 if "l0" not in name or "xl" in name else 512


def randomise(model):
    """Nothing stays at a value that could hide a mistake: zero positions, statistics of (0,1)."""
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            tensor.uniform_(-0.1, 0.1)
        elif tensor.dim() == 1:
            tensor.uniform_(0.9, 1.1)
        elif name.endswith("pos_embed"):
            tensor.uniform_(-0.5, 0.5)
        elif "rel_pos" in name:
            tensor.uniform_(-0.2, 0.2)


def random_model(name):
    model = create(name).eval()
    with torch.no_grad():
        randomise(model)
    return model


def make_inputs(name):
    side = image_side(name)
    return {"image": 2 * torch.rand(1, 3, side, side) - 1, "boxes": torch.tensor(BOXES),
            "points": torch.tensor(POINTS), "labels": torch.tensor(LABELS, dtype=torch.int32),
            "multi": torch.ones(1, dtype=torch.int32), "eval": torch.ones(1)}


@torch.inference_mode()
def run(model, inputs):
    """As SAM's predictor decodes prompts that are in its frame already."""
    embedding = model.image_encoder(inputs["image"])
    sparse, dense = model.prompt_encoder(points=(inputs["points"][0], inputs["labels"][0]),
                                         boxes=inputs["boxes"][0], masks=None)
    masks, iou = model.mask_decoder(image_embeddings=embedding,
                                    image_pe=model.prompt_encoder.get_dense_pe(),
                                    sparse_prompt_embeddings=sparse,
                                    dense_prompt_embeddings=dense, multimask_output=True)
    return {"embedding": embedding.contiguous(), "lowres": masks[None].contiguous(),
            "iou": iou[None].contiguous()}


def main():
    folder = pathlib.Path(sys.argv[1])
    torch.manual_seed(7)
    for name in MODELS:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        model, inputs = random_model(name), make_inputs(name)
        weights = {key: value.clone() for key, value in model.state_dict().items()}
        torch.save(weights, place / "weights.pth")
        save_file(weights, place / "weights.safetensors")
        save_file(inputs, place / "inputs.safetensors")
        save_file(run(model, inputs), place / "golden.safetensors")
        print(f"golden files of {name} in {place}")


if __name__ == "__main__":
    main()
