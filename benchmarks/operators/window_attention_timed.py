"""Window attention of a layer, projections included: time and memory of everyone who can compute it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.measuring.exactness import Draw, doubles, draws, judge
from benchmarks.measuring.timing import costs, fitting, interleaved, judged, provenance
from benchmarks.operators.window_attention_layer import CASES, CONTESTANTS, NAMES, Case, Contestant, Weights, eager
from benchmarks.report.performance import ours

Given = tuple[Tensor, Weights, Tensor]


def inputs(case: Case, batch: int, dtype: torch.dtype, device: str) -> Given:
    """x, weights and the gradient of the output, the same for everyone."""
    g = torch.Generator().manual_seed(0)
    dim, table = case.dim, ((2 * case.window_size - 1) ** 2, case.num_heads)
    shapes = {"qkv.weight": (3 * dim, dim), "qkv.bias": (3 * dim,), "relative_position_bias_table": table}
    shapes |= {"proj.weight": (dim, dim), "proj.bias": (dim,)}
    scale = {"qkv.weight": dim**-0.5, "proj.weight": dim**-0.5}

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    weights = {
        name: (scale.get(name, 1.0) * normal(*shapes[name])).to(device, dtype).requires_grad_() for name in NAMES
    }
    shape = (batch, case.side, case.side, dim)
    return normal(*shape).to(device, dtype).requires_grad_(), weights, normal(*shape).to(device, dtype)


def results(run: Callable[[Tensor], Tensor], x: Tensor, weights: Weights, grad: Tensor) -> list[Tensor]:
    """Output and all gradients."""
    out = run(x)
    return [out.detach(), *torch.autograd.grad(out, [x, *weights.values()], grad)]


def gate(case: Case, contestant: Contestant, dtype: torch.dtype, device: str) -> float:
    """Errors against float64, in units of what is allowed: above 1 is a failure. Two images are enough."""
    given = inputs(case, 2, dtype, device)

    def run(make: Callable[[Case, Weights], Callable[[Tensor], Tensor]], given: Given) -> list[Tensor]:
        return results(make(case, given[1]), *given)

    def evaluate(drawn: Given) -> Draw:
        plain = partial(eager, pad_mode=contestant.pad_mode)
        return run(plain, drawn), run(plain, doubles(drawn))

    return judge(run(contestant.make, given), draws(evaluate, given)).ratio


def measure(case: Case, names: Sequence[str], batch: int, dtype: torch.dtype, device: str, rounds: int) -> dict:
    """A record of one case."""
    x, weights, grad = inputs(case, batch, dtype, device)
    rows, training, forward = {}, {}, {}
    for name in names:
        contestant = CONTESTANTS[name]
        reason = contestant.refuse(case, device, dtype)
        if reason is None:
            rows[name] = judged(lambda contestant=contestant: gate(case, contestant, dtype, device))
        else:
            rows[name] = {"gate": "absent", "why": reason}
        if rows[name]["gate"] == "pass":
            run = contestant.make(case, weights)
            training[name] = lambda run=run: results(run, x, weights, grad)
            forward[name] = lambda run=run: _without_grad(run, x)
    training = fitting(training, rows, device)
    forward = {name: forward[name] for name in training}
    for mode, runs in (("forward", forward), ("training", training)):
        for name, times in interleaved(runs, rounds, device).items():
            rows[name][mode] = times
    for name, run in training.items():
        rows[name] |= costs(run, device)
    return identity(case, batch, dtype) | {"rounds": rounds, "contestants": rows} | provenance(device)


def identity(case: Case, batch: int, dtype: torch.dtype) -> dict:
    """What tells a record from those of other cases."""
    shape = {"batch": batch, "side": case.side, "dim": case.dim, "heads": case.num_heads, "window": case.window_size}
    shape |= {"shift": case.shift_size}
    return {"op": "window_attention", "case": case.name, "shape": shape, "dtype": str(dtype)}


def _without_grad(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        return run(x)


def table(record: dict) -> str:
    """A record for people to read; whoever failed the gate has no times."""
    rows, shape = record["contestants"], record["shape"]
    size = f"[{shape['batch']}, {shape['side']}, {shape['side']}, {shape['dim']}]"
    lines = [
        f"{record['case']}: {size}, {shape['heads']} heads, window {shape['window']}, shift {shape['shift']}, "
        f"{record['dtype']}",
        f"  {'':18} {'forward':>10} {'training':>10} {'times':>7} {'peak':>9}  gate",
    ]
    timed = {name: row for name, row in rows.items() if "training" in row}
    peers = [row["training"]["p50"] for name, row in timed.items() if not ours(name)]
    for name, row in rows.items():
        if name not in timed:
            lines.append(f"  {name:18} {row['gate']}: {row.get('why') or row['error']}")
            continue
        times = f"{min(peers) / row['training']['p50']:6.2f}x" if peers else ""
        lines.append(
            f"  {name:18} {row['forward']['p50']:7.2f} ms {row['training']['p50']:7.2f} ms {times:>7} "
            f"{row['peak_bytes'] / 2**20:5.0f} MiB  {row['error']:.2f} of what is allowed"
        )
    return "\n".join(lines)


def chosen_cases(text: str | None) -> list[Case]:
    """Cases whose name contains the text; all without one."""
    found = [case for case in CASES if text is None or text in case.name]
    if not found:
        raise SystemExit(f"--case {text!r} is in none of: {'; '.join(case.name for case in CASES)}")
    return found
