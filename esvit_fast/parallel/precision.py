"""What `train.precision: auto` becomes: bfloat16 where it is fast, else float32; float16 only when asked for."""

from __future__ import annotations

import os
from collections.abc import Set
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from ..config import Config
from .ranks import Ranks, gather

_BF16_OF_CPUS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX512_BF16",
    "bf16": "its BF16 instructions",
    "sve_bf16": "SVE's BF16",
}
"""What torch, or the system, calls instructions that multiply bfloat16, and what people do."""


class Precision(NamedTuple):
    """A value of `train.precision`, and why it is the one, as the end of a sentence."""

    name: str
    why: str


def fast_precision(device_type: str, capability: tuple[int, int] | None, features: Set[str], most: str) -> Precision:
    """The precision that is fast without a loss scale, from facts alone.

    Args:
        device_type: "cpu" or "cuda".
        capability: of a GPU.
        features: of a CPU, as `cpu_features` names them.
        most: the instruction set that oneDNN, which multiplies on CPUs, may use at most; "" for no limit.
    """
    if device_type == "cuda":
        of = ".".join(map(str, capability or ()))
        if capability is None or capability >= (8, 0):
            return Precision("bf16", f"GPUs of compute capability {of or '8.0'} multiply it")
        return Precision("fp32", f"GPUs of compute capability {of} have no bf16; fp16 is for --train.precision fp16")
    if most.upper() not in ("", "ALL", "DEFAULT") and not any(part in most.upper() for part in ("BF16", "FP16", "AMX")):
        return Precision("fp32", f"ONEDNN_MAX_CPU_ISA={most} leaves bf16 to slow instructions")
    found = next((name for key, name in _BF16_OF_CPUS.items() if key in features), None)
    if found is None:
        return Precision("fp32", "this CPU has no instructions that multiply bf16")
    return Precision("bf16", f"this CPU has {found}")


def cpu_features() -> Set[str]:
    """Names of what this machine's CPU can do, as torch has them, or as Linux has where torch is older."""
    if (told := getattr(torch.cpu, "get_capabilities", None)) is not None:
        return {name for name, there in told().items() if there is True}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return {word for line in lines if line.startswith(("flags", "Features")) for word in line.split()}


def precision_here(device: torch.device) -> Precision:
    """What `auto` is on a device of this machine."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    most = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return fast_precision(device.type, capability, cpu_features() if device.type == "cpu" else frozenset(), most)


def settled(config: Config, ranks: Ranks, capability: tuple[int, int] | None = None) -> Config:
    """A configuration in which `train.precision: auto` is what all ranks can do fast, or a GPU of some capability that
    is not here; others stay as they are."""
    if config.train.precision != "auto":
        return config
    if capability is not None:
        found = {fast_precision("cuda", capability, frozenset(), "").name}
    else:
        found = {precision.name for precision in gather([precision_here(ranks.device)])}
    return replace(config, train=replace(config.train, precision="bf16" if found == {"bf16"} else "fp32"))


def slow_precision(config: Config, ranks: Ranks) -> str:
    """A warning in a line where another precision takes a fraction of the time; else nothing."""
    asked = config.train.precision
    if asked == "fp16" and ranks.device.type == "cpu":
        why = "is slow on CPUs, which mostly compute in float32"
        return f"warning: train.precision=fp16 {why}; pass --train.precision fp32"
    if asked == "bf16" and (fast := precision_here(ranks.device)).name != "bf16":
        return f"warning: train.precision=bf16 is slow here: {fast.why}; pass --train.precision {fast.name}"
    return ""
