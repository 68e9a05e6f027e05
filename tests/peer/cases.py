"""What `make bench-peer` and, on a GPU, `make gpu-check` measure: one row per work, and the weights
and inputs that both sides get.

A row names the work as `retort bench` does, its recipe and options, the peers, and how often all
are repeated. Weights are random, written once by PyTorch under the released names and loaded by
both sides; so are the inputs, in the form of `retort trace`.
"""

import dataclasses
import pathlib

import torch
from efficientsam.sam_model_zoo import create_efficientvit_sam_model
from safetensors.torch import save_file
from segment_anything import sam_model_registry

EAGER, COMPILED, OPENVINO = "PyTorch", "PyTorch, compiled", "OpenVINO"
RELEASED = "the released pipeline"
OURS = "Retort"
DISTILL = "configs/recipes/distill_l0_paper.yaml"
FINETUNE = "configs/recipes/finetune_l0_paper.yaml"
L0, VIT_H = "efficientvit_sam_l0", "sam_vit_h"


@dataclasses.dataclass
class Row:
    name: str
    title: str
    work: str  # of `retort bench`
    recipe: str
    batch: int
    repeats: int
    model: str = L0
    masks: int = 0
    multi: bool = True  # three candidates a mask, or one
    peers: tuple = (EAGER, COMPILED)
    speed: dict = dataclasses.field(default_factory=dict)  # least ratio, by precision
    memory: dict = dataclasses.field(default_factory=dict)  # greatest ratio, by precision
    budgets: tuple = ()  # further runs of ours within these shares of the fastest peer's memory
    keep: bool = True  # peers' processes live through the row, if that fits in memory
    jemalloc: bool = True  # peers run once more with it
    precisions: tuple = ("f32", "bf16")

    @property
    def side(self):
        return 1024 if self.model == VIT_H else 512


ROWS = [
    Row("encoder", "L0 encoder forward", "encoder", DISTILL, 4, 5,
        peers=(EAGER, COMPILED, OPENVINO), speed={"f32": 1.3, "bf16": 1.3}),
    Row("distill", "L0 distillation step", "distill", DISTILL, 4, 5,
        speed={"f32": 1.7, "bf16": 2.1}, memory={"f32": 0.5, "bf16": 0.5}, budgets=(0.5, 0.35)),
    Row("finetune-multi", "L0 fine-tuning step, boxes, three candidates", "finetune", FINETUNE,
        1, 3, masks=64, keep=False, speed={"f32": 3.5, "bf16": 3.5},
        memory={"f32": 0.25, "bf16": 0.25}),
    Row("finetune-single", "L0 fine-tuning step, boxes, one candidate", "finetune", FINETUNE, 1,
        2, masks=64, multi=False, keep=False, speed={"f32": 3.5, "bf16": 3.5},
        memory={"f32": 0.25, "bf16": 0.25}),
    Row("vit-h", "SAM-ViT-H encoder forward, 1024 px", "encoder", DISTILL, 1, 1,
        model=VIT_H, peers=(EAGER, OPENVINO), keep=False, speed={"f32": 1.7, "bf16": 1.7},
        memory={"f32": 0.6, "bf16": 0.35}),
    Row("loader", "one SA-1B sample at 512, one thread", "loader", FINETUNE, 1, 5, masks=64,
        peers=(RELEASED,), speed={"f32": 80}, precisions=("f32",)),
    Row("scaling", "Retort alone", "scaling", "", 0, 2, peers=()),
]
# No ratio was promised before anybody had seen one.
GPU_ROWS = [
    Row("gpu-distill", "L0 distillation step", "distill", DISTILL, 16, 5, jemalloc=False),
    Row("gpu-finetune", "L0 fine-tuning step, boxes, three candidates", "finetune", FINETUNE,
        4, 5, masks=64, jemalloc=False),
    Row("gpu-vit-h", "SAM-ViT-H encoder forward, 1024 px", "encoder", DISTILL, 4, 5,
        model=VIT_H, jemalloc=False),
]
ALL_ROWS = ROWS + GPU_ROWS


def within(budget):
    """What our run in a budget is called."""
    return f"{OURS}, {budget:g} of the memory"


def scaling(threads):
    """(name, work, recipe, options): batches, numbers of masks and of threads, to be compared."""
    for batch in (1, 2, 4, 8, 16):
        yield (f"distill, batch {batch}", "distill", DISTILL,
               ["--teacher.model=", f"--train.batch={batch}", f"--run.threads={threads}"])
    for masks in (16, 32, 64):
        yield (f"finetune, {masks} masks", "finetune", FINETUNE,
               ["--train.batch=1", f"--data.masks_per_image={masks}", f"--run.threads={threads}"])
    yield ("encoder, 1 thread", "encoder", DISTILL,
           ["--teacher.model=", "--train.batch=4", "--run.threads=1"])
    yield (f"encoder, {threads} threads", "encoder", DISTILL,
           ["--teacher.model=", "--train.batch=4", f"--run.threads={threads}"])
    yield ("distill, 1 thread", "distill", DISTILL,
           ["--teacher.model=", "--train.batch=4", "--run.threads=1"])
    yield ("finetune, 1 thread", "finetune", FINETUNE,
           ["--train.batch=1", "--data.masks_per_image=64", "--run.threads=1"])


BETAS, WEIGHT_DECAY = (0.9, 0.999), 0.1  # of AdamW, in both recipes
RATE = {"distill": 1e-3, "finetune": 2e-6}
CLIP_NORM = {"distill": 1.0, "finetune": None}


def create(name):
    """The official model with random weights, the same each time."""
    torch.manual_seed(7)
    if name == VIT_H:
        return sam_model_registry["vit_h"](checkpoint=None)
    return create_efficientvit_sam_model(name.replace("_", "-"), pretrained=False)


def make_weights(folder, name):
    """As they start, but for position codes, which official models start at 0."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        model = create(name)
        with torch.no_grad():
            for key, tensor in model.state_dict().items():
                if key.endswith("pos_embed") or "rel_pos" in key:
                    tensor.uniform_(-0.2, 0.2)
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return path


def ellipses(n, side):
    """n masks (n,S,S) of 0 and 1, and their boxes (n,4) as x0,y0,x1,y1 in the frame of 1024."""
    generator = torch.Generator().manual_seed(9)
    x, y, width, height = torch.rand(4, n, generator=generator)
    width, height = 0.1 + 0.4 * width, 0.1 + 0.4 * height
    x, y = x * (1 - width), y * (1 - height)
    at = (torch.arange(side) + 0.5) / side
    across = (at[None, None, :] - (x + width / 2)[:, None, None]) / (width / 2)[:, None, None]
    down = (at[None, :, None] - (y + height / 2)[:, None, None]) / (height / 2)[:, None, None]
    return ((across**2 + down**2 <= 1).to(torch.uint8),
            1024 * torch.stack([x, y, x + width, y + height], dim=1))


def make_inputs(folder, row):
    torch.manual_seed(8)
    inputs = {"image": 4 * torch.rand(row.batch, 3, row.side, row.side) - 2}
    if row.work == "distill":
        inputs["target"] = 4 * torch.rand(row.batch, 256, 64, 64) - 2
    if row.work == "finetune":
        masks, boxes = ellipses(row.masks, row.side)
        inputs.update(masks=torch.stack([masks] * row.batch),
                      boxes=torch.stack([boxes] * row.batch),
                      multi=torch.full((1,), int(row.multi), dtype=torch.int32))
    path = pathlib.Path(folder) / f"{row.name}.inputs.safetensors"
    save_file(inputs, path)
    return path
