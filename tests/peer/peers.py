"""One peer in a process of its own: builds the work, warms up, then runs it whenever it is told to.

    python tests/peer/peers.py ROW PEER PRECISION DEVICE THREADS WEIGHTS INPUTS OUT

Started by bench.py, which may preload jemalloc. Says one JSON line when it is ready and one after
each line that it reads: seconds, loss of the step, and the most memory since the one before: over
what the process had taken before there was a model, or, on a GPU, what PyTorch holds of it. A
forward pass leaves its embedding in OUT; PyTorch's leaves there too what it gives in its other
order of memory, N,C,H,W.
"""

import json
import pathlib
import sys
import time

import torch
from torch.nn import functional as F
from safetensors.torch import load_file, save_file

import cases


def status_bytes(key):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


class Host:
    """Memory and time of work on the processor."""

    def __init__(self):
        self.before = status_bytes("VmRSS")

    def forget_peak(self):
        pathlib.Path("/proc/self/clear_refs").write_text("5")

    def peak(self):
        return status_bytes("VmHWM") - self.before

    def wait(self):
        pass


class Gpu:
    """Memory and time of work on a GPU; what PyTorch's allocator holds, free or not."""

    forget_peak = staticmethod(torch.cuda.reset_peak_memory_stats)
    peak = staticmethod(torch.cuda.max_memory_reserved)
    wait = staticmethod(torch.cuda.synchronize)


# ---- losses, as the paper preset has them ----

def mask_loss(low, target):
    """low (M,C,256,256), target (M,1,S,S) -> mean over masks of the best candidate's loss."""
    logits = F.interpolate(low.float(), target.shape[-2:], mode="bilinear", align_corners=False)
    target = target.expand_as(logits)
    p = torch.sigmoid(logits)
    ce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p_t = p * target + (1 - p) * (1 - target)
    a_t = 0.25 * target + 0.75 * (1 - target)
    focal = (a_t * (1 - p_t) ** 2 * ce).mean((2, 3))
    both, either = (p * target).sum((2, 3)), p.sum((2, 3)) + target.sum((2, 3))
    dice = 1 - (2 * both + 1) / (either + 1)
    return (20 * focal + dice).amin(1).mean()


def distill_loss(model, inputs):
    return F.mse_loss(model.image_encoder(inputs["image"]).float(), inputs["target"])


def finetune_loss(model, inputs):
    """The official decoder takes one image and its prompts at a time."""
    losses = []
    for i, embedding in enumerate(model.image_encoder(inputs["image"])):
        sparse, dense = model.prompt_encoder(points=None, boxes=inputs["boxes"][i], masks=None)
        low, _ = model.mask_decoder(image_embeddings=embedding[None],
                                    image_pe=model.prompt_encoder.get_dense_pe(),
                                    sparse_prompt_embeddings=sparse,
                                    dense_prompt_embeddings=dense,
                                    multimask_output=inputs["multi"])
        losses.append(mask_loss(low, inputs["masks"][i, :, None].float()))
    return torch.stack(losses).mean()


# ---- work ----

def autocast(precision, inputs):
    return torch.autocast(inputs["image"].device.type, dtype=torch.bfloat16,
                          enabled=precision == "bf16")


def make_optimizer(row, model):
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        (plain if "norm" in name or "bias" in name else decayed).append(parameter)
    return torch.optim.AdamW([{"params": decayed, "weight_decay": cases.WEIGHT_DECAY},
                              {"params": plain, "weight_decay": 0}], lr=cases.RATE[row.work],
                             betas=cases.BETAS, fused=True)


def training_step(row, model, inputs, precision, compile_it):
    model.train()
    loss_of = distill_loss if row.work == "distill" else finetune_loss
    trained = model.image_encoder if row.work == "distill" else model
    optimizer, clip = make_optimizer(row, trained), cases.CLIP_NORM[row.work]
    if compile_it:
        loss_of = torch.compile(loss_of)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with autocast(precision, inputs):
            loss = loss_of(model, inputs)
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(trained.parameters(), clip)
        optimizer.step()
        return loss.item()

    return step


def torch_forward(model, inputs, precision, compile_it):
    encoder = model.image_encoder.eval()
    if compile_it:
        encoder = torch.compile(encoder)

    def forward():
        with torch.inference_mode(), autocast(precision, inputs):
            return encoder(inputs["image"]).float()

    return forward


def openvino_forward(model, inputs, precision, threads):
    import openvino

    encoder = model.image_encoder.eval()
    converted = openvino.convert_model(encoder, example_input=inputs["image"],
                                       input=list(inputs["image"].shape))
    request = openvino.Core().compile_model(converted, "CPU", {
        "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY"}).create_infer_request()
    image = inputs["image"].numpy()
    return lambda: torch.from_numpy(next(iter(request.infer([image]).values())))


def load(row, device, weights, inputs, channels_last=True):
    model = cases.create(row.model)
    model.load_state_dict(load_file(weights), strict=True)
    model, tensors = model.to(device), load_file(inputs, device=device)
    if "multi" in tensors:
        tensors["multi"] = bool(tensors["multi"][0])
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        tensors["image"] = tensors["image"].to(memory_format=torch.channels_last)
    return model, tensors


def build(row, peer, precision, device, threads, weights, inputs):
    model, tensors = load(row, device, weights, inputs, channels_last=peer != cases.OPENVINO)
    if peer == cases.OPENVINO:
        return openvino_forward(model, tensors, precision, threads)
    if row.work == "encoder":
        return torch_forward(model, tensors, precision, peer == cases.COMPILED)
    return training_step(row, model, tensors, precision, peer == cases.COMPILED)


# ---- the process ----

def other_order(row, precision, device, weights, inputs):
    """What the same PyTorch gives in its default order of memory: its own noise."""
    model, tensors = load(row, device, weights, inputs, channels_last=False)
    return torch_forward(model, tensors, precision, False)()


def say(**what):
    print(json.dumps(what), flush=True)


def main():
    name, peer, precision, device, threads, weights, inputs, out = sys.argv[1:]
    row = next(row for row in cases.ALL_ROWS if row.name == name)
    torch.set_num_threads(int(threads))
    torch.backends.cudnn.allow_tf32 = False  # f32 is f32
    meter = Gpu() if device == "cuda" else Host()
    work = build(row, peer, precision, device, int(threads), weights, inputs)
    first = work()  # compiles, makes threads, takes its memory
    loss = first if row.work != "encoder" else None
    if row.work == "encoder":
        results = {"embedding": first}
        if peer == cases.EAGER and (row.model == cases.L0 or device == "cuda"):
            results["other_order"] = other_order(row, precision, device, weights, inputs)
        save_file({key: value.cpu().contiguous() for key, value in results.items()}, out)
    del first
    say(ready=True, loss=loss)
    for _ in sys.stdin:
        meter.forget_peak()
        start = time.perf_counter()
        result = work()
        meter.wait()
        seconds = time.perf_counter() - start
        say(seconds=seconds, loss=result if row.work != "encoder" else None,
            memory=meter.peak())
        del result


if __name__ == "__main__":
    main()
