"""`esvit-fast doctor`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rich.table import Table

from ..errors import UserError
from .options import Parser
from .tables import show


def doctor(argv: Sequence[str]) -> int:
    """Say what this machine has and which backend would run each operator; 1 if a forced backend cannot be honoured."""
    Parser("doctor", "What this machine has, and which backend runs each operator.").parse_args(argv)
    import torch

    from ..ops import ORDER, Facts, plan
    from ..ops._core.plan import asked_for_unproven, operators
    from ..runs.environment import environment

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    capability = torch.cuda.get_device_capability() if device.type == "cuda" else None
    forced = os.environ.get("ESVIT_FAST_BACKEND") or None
    try:
        unproven = asked_for_unproven()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    failed = False

    facts = Table(box=None, show_header=False)
    for name, value in environment(device).items():
        facts.add_row(name, "not installed" if value is None else str(value))
    facts.add_row("ESVIT_FAST_BACKEND", forced or "not set: the first of " + ", ".join(ORDER) + " that can run")
    show(facts)

    table = Table("operator", "backend", "run on a GPU", "why not a faster one", box=None, header_style="bold")
    for op in operators():
        try:
            plans = {}
            for dtype in (torch.float32, torch.bfloat16)[: 1 + (device.type == "cuda")]:
                known = Facts(device.type, dtype, {}, {}, capability, forced=forced, unproven=unproven)
                plans[str(dtype).removeprefix("torch.")] = plan(op, known)
            of_dtype = {name: chosen.backend for name, chosen in plans.items()}
            same = len(set(of_dtype.values())) == 1
            backends = plans["float32"].backend if same else "\n".join(f"{b} ({d})" for d, b in of_dtype.items())
            reasons = "\n".join(f"{b}: {reason}" for b, reason in plans["float32"].refused.items())
            table.add_row(op, backends, _proven(op), reasons)
        except UserError as error:
            table.add_row(op, "none", _proven(op), str(error))
            failed = True
    print()
    show(table)
    if failed:
        print(f"ESVIT_FAST_BACKEND={forced} cannot be honoured; unset it or choose another", file=sys.stderr)
    return int(failed)


def _proven(op: str) -> str:
    """A line for each backend with kernels for GPUs: on which they have run and were right."""
    from ..ops._core.plan import implementations
    from ..ops._core.proven import PROVEN

    lines = []
    for backend in (name for name in ("cuda", "triton") if name in implementations(op)):
        on = ", ".join(f"sm_{major}{minor}" for major, minor in sorted(PROVEN.get((op, backend), ())))
        lines.append(f"{backend}: {on or 'not yet'}")
    return "\n".join(lines) or "has no kernels for one"
