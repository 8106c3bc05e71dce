"""What a run ran on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from .. import __version__
from ..data.loading.loader import cores
from ..parallel.precision import precision_here

_PACKAGES = ("torch", "torchvision", "triton", "timm", "numpy", "pillow", "simplejpeg", "safetensors")


def environment(device: torch.device | str = "cpu", world_size: int = 1) -> dict[str, Any]:
    """Versions, device and processor, as JSON holds them."""
    device = torch.device(device)
    facts: dict[str, Any] = {
        "esvit_fast": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "precision": "auto is {}, as {}".format(*precision_here(device)),
        "world_size": world_size,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["gpu"] = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, sm_{properties.major}{properties.minor}"
        )
        facts["cuda"] = torch.version.cuda
    return facts


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
