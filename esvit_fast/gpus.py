"""GPUs by name, as their data sheets have them, for plans of runs on one that is not here."""

from __future__ import annotations

from typing import NamedTuple

from .errors import UserError
from .text import suggest


class Gpu(NamedTuple):
    """What a data sheet says; dense rates, without sparsity, with sums in float32.

    Attributes:
        title: its name.
        capability: compute capability.
        half: FLOP per second of matrix products in bf16, or in fp16 where there is no bf16.
        single: FLOP per second in float32, without TF32.
        bandwidth: bytes per second of its memory.
        memory: bytes; the decimal gigabytes of the sheet, which is less than the card has.
        source: the sheet.
    """

    title: str
    capability: tuple[int, int]
    half: float
    single: float
    bandwidth: float
    memory: int
    source: str


def _gpu(
    title: str, capability: tuple[int, int], half: float, single: float, bandwidth: int, memory: int, source: str
) -> Gpu:
    """From TFLOP/s, GB/s and GB."""
    return Gpu(title, capability, half * 1e12, single * 1e12, bandwidth * 1e9, memory * 10**9, source)


_SHEET = "NVIDIA {} data sheet".format
GPUS = {
    "b200": _gpu("NVIDIA B200", (10, 0), 2250, 75, 7700, 180, _SHEET("HGX B200")),
    "h200": _gpu("NVIDIA H200 SXM", (9, 0), 989, 67, 4800, 141, _SHEET("H200")),
    "h100": _gpu("NVIDIA H100 SXM", (9, 0), 989, 67, 3350, 80, _SHEET("H100")),
    "h100-pcie": _gpu("NVIDIA H100 PCIe", (9, 0), 756, 51, 2000, 80, _SHEET("H100 PCIe")),
    "a100": _gpu("NVIDIA A100 80 GB SXM", (8, 0), 312, 19.5, 2039, 80, _SHEET("A100")),
    "a100-40gb": _gpu("NVIDIA A100 40 GB SXM", (8, 0), 312, 19.5, 1555, 40, _SHEET("A100")),
    "l40s": _gpu("NVIDIA L40S", (8, 9), 362, 91.6, 864, 48, _SHEET("L40S")),
    "l4": _gpu("NVIDIA L4", (8, 9), 121, 30.3, 300, 24, _SHEET("L4")),
    "a10": _gpu("NVIDIA A10", (8, 6), 125, 31.2, 600, 24, _SHEET("A10")),
    "a6000": _gpu("NVIDIA RTX A6000", (8, 6), 154.8, 38.7, 768, 48, _SHEET("RTX A6000")),
    "5090": _gpu("GeForce RTX 5090", (12, 0), 209.5, 104.8, 1792, 32, "NVIDIA RTX Blackwell whitepaper"),
    "4090": _gpu("GeForce RTX 4090", (8, 9), 165.2, 82.6, 1008, 24, "NVIDIA Ada whitepaper"),
    "3090": _gpu("GeForce RTX 3090", (8, 6), 71, 35.6, 936, 24, "NVIDIA GA102 whitepaper"),
    "v100": _gpu("NVIDIA V100 32 GB SXM2", (7, 0), 125, 15.7, 900, 32, _SHEET("V100")),
    "t4": _gpu("NVIDIA T4", (7, 5), 65, 8.1, 320, 16, "NVIDIA Turing whitepaper"),
}
"""By the name that `esvit-fast plan --gpu` takes."""


def find_gpu(name: str) -> Gpu:
    """A GPU by its name in any of the usual spellings, such as "H100" or "RTX 4090".

    Raises:
        UserError: it is not in the table; with the nearest one.
    """
    plain = name.lower().replace("nvidia", "").replace("geforce", "").replace("rtx", "").strip(" -_").replace(" ", "-")
    if plain not in GPUS:
        near = suggest(plain, GPUS)
        raise UserError(f"gpu={name!r} is not in the table{near}")
    return GPUS[plain]
