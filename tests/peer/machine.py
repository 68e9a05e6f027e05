"""What a result was measured on: processor, versions, date."""

import datetime
import importlib.metadata
import pathlib
import subprocess

import torch

PACKAGES = ("torch", "torchvision", "openvino", "efficientsam", "segment-anything")


def processor():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    fields = {key.strip(): value.strip() for key, _, value in
              (line.partition(":") for line in lines)}
    flags = fields.get("flags", "").split()
    vectors = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{fields.get('model name', 'unknown')}, {fields.get('cpu MHz', '?')} MHz, " + \
        ", ".join(vectors)


def describe():
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True,
                            text=True).stdout.strip()
    return {"processor": processor(), "retort": commit or "unknown",
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
            "date": datetime.date.today().isoformat()}
