"""Operators alone, without the layers around them: time of both passes, launches hidden, beside the least bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring import gpu
from benchmarks.measuring.exactness import Draw, doubles, draws, judge
from benchmarks.measuring.timing import costs, fitting, interleaved, judged, on_gpu, provenance
from benchmarks.operators import window_attention_layer as contestants
from benchmarks.operators import window_attention_timed as window_attention
from benchmarks.operators.window_attention_layer import Case, Operator, flex, merged, windows
from benchmarks.report.performance import milliseconds
from esvit_fast import ops, reference


def _fixed(case: Case) -> dict:
    size, shift = (case.window_size,) * 2, (case.shift_size,) * 2
    return {"num_heads": case.num_heads, "window_size": size, "shift_size": shift}


def oracle(case: Case, device: str) -> Operator:
    """The oracle under torch's autograd."""
    options = _fixed(case) | {"pad_mode": "before_roll", "mask_value": -100.0}
    scale = (case.dim // case.num_heads) ** -0.5
    return lambda qkv, table, pads: reference.window_attention(qkv, table, pads, scale=scale, **options)


def _compiled(case: Case, device: str) -> Operator:
    torch._dynamo.reset()
    return torch.compile(oracle(case, device), dynamic=False)


def sdpa(
    qkv: Tensor,
    bias: Tensor,
    *,
    num_heads: int,
    window_size: int,
    shift_size: int,
    pad_kv: Tensor,
    region: Tensor | None = None,
) -> Tensor:
    """Window attention by torch's fused one, as timm calls it: windows in memory, biases and masks as one tensor."""
    if region is None and shift_size:
        region = contestants.regions(qkv.shape[1], window_size, shift_size, qkv.device)
    parts = windows(qkv, pad_kv, num_heads, window_size, shift_size)
    dense = reference.dense_bias(bias, (window_size, window_size)).to(qkv.dtype)[None]
    if shift_size:
        apart = (region[:, None] != region[:, :, None]) * -100.0
        dense = (dense + apart[:, None].to(dense)).repeat(len(qkv), 1, 1, 1)
    return merged(F.scaled_dot_product_attention(*parts, attn_mask=dense), qkv.shape, window_size, shift_size)


def _sdpa(case: Case, device: str) -> Operator:
    options = {"num_heads": case.num_heads, "window_size": case.window_size, "shift_size": case.shift_size}
    region = contestants.regions(case.side, case.window_size, case.shift_size, device)
    return lambda qkv, table, pads: sdpa(qkv, table, pad_kv=pads, region=region, **options)


def _ours(backend: str) -> Callable[[Case, str], Operator]:
    def make(case: Case, device: str) -> Operator:
        options = _fixed(case) | {"backend": backend}
        return lambda qkv, table, pads: ops.window_attention(qkv, table, pad_kv=pads, **options)

    return make


@dataclass(frozen=True)
class Entry:
    """A contestant: how it is made, and why it cannot take part, or None."""

    make: Callable[[Case, str], Operator]
    refuse: Callable[[Case, str, torch.dtype], str | None] = lambda case, device, dtype: None


CONTESTANTS = {
    "torch eager": Entry(oracle),
    "torch.compile": Entry(_compiled),
    "sdpa": Entry(_sdpa),
    "flex attention": Entry(flex, contestants.CONTESTANTS["flex attention"].refuse),
    **{f"esvit_fast {b}": Entry(_ours(b), contestants.needs(b)) for b in ("cpu", "triton", "cuda")},
}
"""The first is what the gate measures all others by."""


def inputs(case: Case, batch: int, dtype: torch.dtype, device: str) -> tuple[list[Tensor], Tensor]:
    """qkv, table and pads, and the gradient of the output, the same for everyone."""
    g = torch.Generator().manual_seed(0)
    shapes = (batch, case.side, case.side, 3 * case.dim), ((2 * case.window_size - 1) ** 2, case.num_heads)
    tensors = [torch.randn(*shape, generator=g).to(device, dtype) for shape in (*shapes, (2 * case.dim,))]
    grad = torch.randn(batch, case.side, case.side, case.dim, generator=g).to(device, dtype)
    return [x.requires_grad_() for x in tensors], grad


def results(run: Operator, tensors: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """Output and all gradients; none where a map has no padding."""
    out = run(*tensors)
    grads = torch.autograd.grad(out, list(tensors), grad, allow_unused=True)
    return [out.detach(), *(torch.zeros_like(x) if g is None else g for x, g in zip(tensors, grads, strict=True))]


def gate(case: Case, entry: Entry, dtype: torch.dtype, device: str) -> float:
    """Errors against float64, in units of what is allowed. Two images are enough."""
    given, plain = inputs(case, 2, dtype, device), oracle(case, device)

    def evaluate(drawn: tuple[list[Tensor], Tensor]) -> Draw:
        return results(plain, *drawn), results(plain, *doubles(drawn))

    return judge(results(entry.make(case, device), *given), draws(evaluate, given)).ratio


def least(case: Case, batch: int, dtype: torch.dtype) -> dict[str, dict[str, int]]:
    """What any implementation moves and multiplies: qkv read, output written; backward both again, and gradients."""
    tokens, item = batch * case.side**2, dtype.itemsize
    products = tokens * min(case.window_size, case.side) ** 2 * case.dim
    return {
        "forward": {"bytes": 4 * tokens * case.dim * item, "flop": 4 * products},
        "backward": {"bytes": 7 * tokens * case.dim * item, "flop": 10 * products},
    }


def measure(case: Case, names: Sequence[str], batch: int, dtype: torch.dtype, device: str, rounds: int) -> dict:
    """A record of one case."""
    tensors, grad = inputs(case, batch, dtype, device)
    rows, runs = {}, {}
    for name in names:
        entry = CONTESTANTS[name]
        reason = entry.refuse(case, device, dtype)
        judge = lambda entry=entry: gate(case, entry, dtype, device)  # noqa: E731
        rows[name] = judged(judge) if reason is None else {"gate": "absent", "why": reason}
        if rows[name]["gate"] == "pass":
            runs[name] = entry.make(case, device)
    whole = {name: lambda run=run: results(run, tensors, grad) for name, run in runs.items()}
    whole = fitting(whole, rows, device)

    def forward(name: str) -> Callable[[], Tensor]:
        return lambda: runs[name](*tensors)

    def backward(name: str) -> Callable[[Tensor], object]:
        return lambda out: torch.autograd.grad(out, tensors, grad, allow_unused=True)

    for name, times in interleaved({n: forward(n) for n in whole}, rounds, device, hidden=True).items():
        rows[name]["forward"] = times
    before = {name: forward(name) for name in whole}
    backwards = {name: backward(name) for name in whole}
    for name, times in interleaved(backwards, rounds, device, before=before, hidden=True).items():
        rows[name]["backward"] = times
    for name, run in whole.items():
        rows[name] |= costs(run, device)
    record = window_attention.identity(case, batch, dtype) | {
        "rounds": rounds,
        "least": least(case, batch, dtype),
        "contestants": rows,
    }
    return record | provenance(device)


def table(record: dict) -> str:
    """A record for people to read; whoever failed the gate has no times."""
    lines = [f"{record['case']}, the operator alone: {record['shape']['batch']} images, {record['dtype']}"]
    lines.append(f"  {'':18} {'forward':>11} {'backward':>11} {'peak':>9} launches  gate")
    for name, row in record["contestants"].items():
        if "backward" not in row:
            lines.append(f"  {name:18} {row['gate']}: {row.get('why') or row['error']}")
            continue
        times = " ".join(f"{milliseconds(row[mode]['p50']):>11}" for mode in ("forward", "backward"))
        lines.append(
            f"  {name:18} {times} {row['peak_bytes'] / 2**20:5.0f} MiB {row.get('launches') or '-':>8}  "
            f"{row['error']:.2f} of what is allowed"
        )
    return "\n".join(lines)


def ceilings(device: str) -> dict:
    """A record of what the card can do at all."""
    if not on_gpu(device):
        raise SystemExit("ceilings are those of a GPU; pass --device cuda on a machine that has one")
    return {"op": "ceilings", **gpu.ceilings(device), **provenance(device)}
