"""Records as a GPU would leave them, made up: no machine had these times."""

from __future__ import annotations

import json
from pathlib import Path

COMMIT = "c" * 40
GPU = "nvidia-paper"


def environment(**more):
    return {"processor": "AMD EPYC", "cores": 16, "torch": "2.11.0", "triton": "3.6.0", "device": "cuda"} | more


def provenance(**more):
    card = {"driver": "580.1", "sm_mhz": 1980.0, "throttle": 0}
    named = environment(gpu="NVIDIA Paper, 139 GiB, sm_90")
    return {
        "utc": "2026-01-02T03:04:05+00:00",
        "commit": COMMIT,
        "dirty": False,
        "environment": named,
        "card": card,
    } | more


def times(p50):
    return {"p20": 0.97 * p50, "p50": p50, "p80": 1.05 * p50}


def row(peak=2**28, launches=1, error=0.4, **modes):
    return {"gate": "pass", "error": error, "peak_bytes": peak, "launches": launches} | {
        mode: times(p50) for mode, p50 in modes.items()
    }


def kernels(case="swin_t 224 stage 1", side=56, dim=96, scale=1.0, **more):
    tokens = 64 * side**2
    return {
        "op": "window_attention",
        "case": case,
        "shape": {"batch": 64, "side": side, "dim": dim, "heads": dim // 32, "window": 7, "shift": 3},
        "dtype": "torch.bfloat16",
        "rounds": 15,
        "least": {
            "forward": {"bytes": 8 * tokens * dim, "flop": 4 * tokens * 49 * dim},
            "backward": {"bytes": 14 * tokens * dim, "flop": 10 * tokens * 49 * dim},
        },
        "contestants": {
            "torch eager": row(forward=0.61 * scale, backward=1.32 * scale, launches=14),
            "torch.compile": row(forward=0.24 * scale, backward=0.52 * scale, launches=5),
            "sdpa": row(forward=0.31 * scale, backward=0.88 * scale, launches=9),
            "flex attention": {"gate": "fail", "error": 3.2},
            "esvit_fast triton": row(forward=0.051 * scale, backward=0.117 * scale),
            "esvit_fast cuda": {"gate": "absent", "why": "this version has no cuda implementation"},
        },
    } | provenance(**more)


def ceilings():
    return {"op": "ceilings", "bytes_per_s": 4.3e12, "flop_per_s": 788e12} | provenance()


def step():
    return {
        "op": "step",
        "case": "swin_tiny_w7",
        "shape": {"batch": 64, "views": [224, 224, *[96] * 8]},
        "dtype": "bf16",
        "rounds": 9,
        "contestants": {
            "plain torch": row(training=812.0, peak=40 * 2**30, launches=5200),
            "timm fused, compiled": row(training=490.0, peak=31 * 2**30, launches=2100),
            "esvit_fast": row(training=239.0, peak=11 * 2**30, launches=1900),
        },
    } | provenance()


def gates(stem, gate="pass", **more):
    found = {"op": "tests", "case": f"tests/ops/test_{stem}_gpu.py", "stem": stem, "gate": gate, "failed": []}
    return found | {"passed": 9, "skipped": 0, "backends": ["triton"]} | provenance(**more)


def write(folder: Path, **files):
    """Records of the made-up GPU, by file."""
    for file, records in files.items():
        path = folder / GPU / f"{file}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def everything(folder: Path) -> Path:
    """Some of each."""
    stages = (
        ("swin_t 224 stage 1", 56, 96, 1.0),
        ("swin_t 224 stage 2", 28, 192, 0.5),
        ("swin_t 96 stage 1", 24, 96, 0.2),
    )
    return write(
        folder,
        ceilings=[ceilings()],
        tests=[gates("window_attention"), gates("prototype_cross_entropy"), gates("region_match")],
        kernels=[kernels(*stage) for stage in stages],
        step=[step()],
    )
