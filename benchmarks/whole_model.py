"""A whole foreign model as it comes, and patched: time and memory of forward and backward."""

from __future__ import annotations

import copy

import timm
import torch
from torch import Tensor, nn

from benchmarks.measuring import interleaved, peak_bytes, provenance, rms, worst_ratio
from esvit_fast.nn import patch_model


def contestants(model: nn.Module) -> dict[str, nn.Module]:
    """timm's two settings, and ours."""
    plain, fused, patched = (copy.deepcopy(model) for _ in range(3))
    for module in (*plain.modules(), *fused.modules()):
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    for module in fused.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = True
    report = patch_model(patched)
    if len(report.patched) != len(report) or not report.rows:
        raise SystemExit(str(report))
    return {"timm": plain, "timm fused": fused, "esvit_fast": patched}


def results(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Output and gradients of all parameters, for a loss that treats no output like another."""
    out = model(images)
    weights = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=out.dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad(out, list(model.parameters()), weights)]


def measure(name: str, batch: int, dtype: torch.dtype, device: str, rounds: int) -> dict:
    """A record of one model at its own resolution."""
    torch.manual_seed(0)
    model = timm.create_model(name, drop_path_rate=0.0).to(device, dtype)
    side = model.default_cfg["input_size"][-1]
    images = torch.randn(batch, 3, side, side, device=device, dtype=dtype)
    models = contestants(model)
    truth = results(copy.deepcopy(model).double(), images[:1].double())
    plain = results(models["timm"], images[:1])
    rows = {}
    for contestant, copied in models.items():
        # not the largest error of a tensor: of 28 million numbers some are far off in any order of sums
        ratio = worst_ratio(results(copied, images[:1]), plain, truth, (rms,))
        rows[contestant] = {"gate": "pass" if ratio <= 1 else "fail", "error": round(ratio, 3)}
    runs = {c: lambda m=m: results(m, images) for c, m in models.items() if rows[c]["gate"] == "pass"}
    for contestant, times in interleaved(runs, rounds, device).items():
        rows[contestant] |= {"training": times, "peak_bytes": peak_bytes(runs[contestant], device)}
    record = {"op": "model", "case": name, "shape": {"batch": batch, "side": side}, "dtype": str(dtype)}
    return record | {"rounds": rounds, "contestants": rows} | provenance(device)


def table(record: dict) -> str:
    """A record for people to read."""
    rows = record["contestants"]
    lines = [f"{record['case']}: {record['shape']['batch']} images, forward and backward, {record['dtype']}"]
    timed = {name: row for name, row in rows.items() if "training" in row}
    peers = [row["training"]["p50"] for name, row in timed.items() if name != "esvit_fast"]
    for name, row in rows.items():
        if name not in timed:
            lines.append(f"  {name:12} gate {row['gate']}: {row['error']} of what is allowed")
            continue
        lines.append(
            f"  {name:12} {row['training']['p50']:8.1f} ms {min(peers) / row['training']['p50']:6.2f}x "
            f"{row['peak_bytes'] / 2**20:6.0f} MiB  {row['error']:.2f} of what is allowed"
        )
    return "\n".join(lines)
