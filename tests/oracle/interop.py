"""Checks that weights pass between Retort and PyTorch unchanged, both ways.

Run by `make oracle` with a Python that has torch; never needed to build, run or test Retort:

    python tests/oracle/interop.py [build/retort]

State dicts with random content are written by torch.save, read by `retort inspect` and `retort
export`, and what that writes is read back by torch.load(weights_only=True) and by a module's
load_state_dict(strict=True). Everything must be equal: names, order, dtypes, shapes, bytes.
"""

import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile
from collections import OrderedDict

import torch

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32,
          torch.uint8]
SAFETENSORS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
               "F64": torch.float64, "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8}


def random(shape, dtype):
    """Any bits, so NaN and infinity too."""
    n_bytes = math.prod(shape) * dtype.itemsize
    return torch.randint(0, 256, (n_bytes,), dtype=torch.uint8).view(dtype).reshape(shape)


def all_dtypes():
    return OrderedDict((f"a.{str(dtype)[6:]}", random((3, 4), dtype)) for dtype in DTYPES)


def odd_shapes():
    shapes = [(), (1,), (0,), (4, 0, 2), (1, 1, 1, 1), (2, 1, 3, 1, 2), (1, 2, 1, 2, 1, 2, 1, 2)]
    return OrderedDict((f"größe.{i}", random(shape, torch.float32))
                       for i, shape in enumerate(shapes))


def strided():
    base = random((6, 8, 4), torch.float32)
    image = random((2, 3, 5, 7), torch.float16).contiguous(memory_format=torch.channels_last)
    return OrderedDict(t=base.permute(2, 0, 1), slices=base[1:5, ::3, 1],
                       channels_last=image, expanded=random((1, 5), torch.int32).expand(7, 5),
                       narrowed=base[2], unusual=base.as_strided((3, 3), (1, 2), 5))


def shared():
    base = random((4, 4), torch.bfloat16)
    return OrderedDict(whole=base, row=base[1], tied=base, column=base[:, 2],
                       view=base.view(16)[3:9])


def module():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8),
                               torch.nn.Linear(8, 5), torch.nn.LayerNorm(5))


def cases():
    plain = all_dtypes()
    yield "all dtypes", plain, plain, {}
    yield "odd shapes", odd_shapes(), None, {}
    yield "strided", strided(), None, {}
    yield "shared storages", shared(), None, {}
    yield "module", module().state_dict(), None, {}
    yield "parameters", OrderedDict(module().named_parameters()), None, {}
    yield "plain dict", dict(plain), plain, {}
    for protocol in (3, 4, 5):
        yield f"protocol {protocol}", plain, plain, {"pickle_protocol": protocol}
    other = [0.5, None, (True, "x")]
    yield "under state_dict", {"epoch": 3, "state_dict": plain, "loss": other}, plain, {}
    optimizer = {"state": {0: {"step": torch.ones(())}}}
    yield "under model", {"model": plain, "optimizer": optimizer}, plain, {}


def read_safetensors(path):
    content = path.read_bytes()
    (header_bytes,) = struct.unpack("<Q", content[:8])
    data = content[8 + header_bytes:]
    tensors = OrderedDict()
    for name, entry in json.loads(content[8:8 + header_bytes]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        dtype = SAFETENSORS[entry["dtype"]]
        raw = torch.tensor(list(data[begin:end]), dtype=torch.uint8)
        tensors[name] = raw.view(dtype).reshape(entry["shape"])
    return tensors


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def check_equal(what, got, wanted):
    assert list(got) == list(wanted), f"{what}: names {list(got)}, wanted {list(wanted)}"
    for name, tensor in wanted.items():
        other = got[name]
        assert other.dtype == tensor.dtype, f"{what}: {name}: {other.dtype}, wanted {tensor.dtype}"
        assert other.shape == tensor.shape, f"{what}: {name}: {other.shape}, wanted {tensor.shape}"
        assert torch.equal(bits(other), bits(tensor)), f"{what}: {name}: other bytes"


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def check_inspect(what, output, wanted):
    rows = [line.split("\t") for line in output.splitlines()[1:] if not line.startswith("#")]
    listed = [(name, shape, dtype) for name, shape, dtype in rows]
    expected = [(name, ",".join(map(str, tensor.shape)) or "scalar", str(tensor.dtype)[6:])
                for name, tensor in wanted.items()]
    assert listed == expected, f"{what}: inspect lists {listed}, wanted {expected}"


def check_case(retort, folder, what, saved, wanted, options):
    wanted = wanted if wanted is not None else saved
    written, back, again = folder / "a.pth", folder / "b.pth", folder / "d.pt"
    plain = folder / "c.safetensors"
    torch.save(saved, written, **options)
    check_inspect(what, run(retort, "inspect", written), wanted)
    run(retort, "export", written, f"--out={back}")
    run(retort, "export", written, f"--out={plain}")
    run(retort, "export", plain, f"--out={again}")
    check_equal(f"{what}, .pth", torch.load(back, weights_only=True), wanted)
    check_equal(f"{what}, mapped", torch.load(back, weights_only=True, mmap=True), wanted)
    check_equal(f"{what}, safetensors", read_safetensors(plain), wanted)
    check_equal(f"{what}, .pth of safetensors", torch.load(again, weights_only=True), wanted)
    assert back.read_bytes() == again.read_bytes(), f"{what}: equal tensors gave other files"


def check_booleans(retort, folder):
    torch.save({"mask": torch.tensor([True, False, True])}, folder / "a.pth")
    run(retort, "export", folder / "a.pth", f"--out={folder / 'b.pth'}")
    got = torch.load(folder / "b.pth", weights_only=True)
    check_equal("booleans", got, {"mask": torch.tensor([1, 0, 1], dtype=torch.uint8)})


def check_strict(retort, folder):
    first, second = module(), module()
    torch.save(first.state_dict(), folder / "a.pth")
    run(retort, "export", folder / "a.pth", f"--out={folder / 'b.pth'}")
    second.load_state_dict(torch.load(folder / "b.pth", weights_only=True), strict=True)
    check_equal("strict load", second.state_dict(), first.state_dict())


def check_refused(retort, folder):
    """What is not a state dict of tensors is refused, with a line that names it."""
    ones = torch.ones(2)
    for content, part in [({"w": ones, "device": torch.device("cpu")}, "torch.device"),
                          ({"w": ones.to_sparse()}, "torch._utils._rebuild_sparse_tensor"),
                          ({"w": ones.to(torch.complex64)}, "torch.ComplexFloatStorage"),
                          ({"w": torch._neg_view(ones)}, "negation"),
                          (module(), "torch.nn.modules.container.Sequential"),
                          ([ones], "a list")]:
        torch.save(content, folder / "a.pth")
        done = subprocess.run([retort, "inspect", folder / "a.pth"], capture_output=True, text=True)
        assert done.returncode == 1 and part in done.stderr, f"wanted {part}: {done.stderr}"
        assert done.stderr.count("\n") == 1, done.stderr


def main():
    retort = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/retort")
    torch.manual_seed(1)
    n = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for what, saved, wanted, options in cases():
            check_case(retort, folder, what, saved, wanted, options)
            n += 1
        check_booleans(retort, folder)
        check_strict(retort, folder)
        check_refused(retort, folder)
    print(f"interop: {n} state dicts equal both ways with torch {torch.__version__}")


if __name__ == "__main__":
    main()
