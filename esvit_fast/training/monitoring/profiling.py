"""Where the time of a step goes: a trace, and a table that people can read, of some steps of a run."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from ...text import counted

logger = logging.getLogger(__name__)

WARM_UP = 3
"""Steps that are not looked at: memory grows, and tables are made, in the first ones."""
STEP, DATA, UPDATE = "step", "waiting for data", "optimiser, teacher, centres"
_OUTSIDE = "Python and framework"
_OURS = {  # what is in the name of an operator of this library
    "linear": "matrix products",
    "window_attention": "window attention",
    "cross_entropy": "loss over prototypes",
    "prototype": "loss over prototypes",
    "region_match": "region matching",
    "multicrop_augment": "augmentation",
}
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "convolution", "slow_conv2d")
_NORMS = ("layer_norm", "batch_norm", "gelu", "softmax", "normalize", "vector_norm", "sigmoid", "silu", "relu")
FUSED = (*dict.fromkeys(_OURS.values()),)
"""Groups of matrix products and of this library's operators; other groups of operators are elementwise."""


class StepProfiler:
    """Looks at `steps` steps of a run after `WARM_UP` others, then writes `profile.txt`, `profile.json` and
    `trace.json.gz` into the folder of the run, which goes on; with 0 steps it does nothing.

    Args:
        title: what is trained, for the head of the table.
    """

    def __init__(self, steps: int, out: Path, device: torch.device, title: str = ""):
        self.steps, self.out, self.device, self.title = steps, out, device, title
        self._begun, self._profile, self._range = 0, None, None

    def __enter__(self) -> StepProfiler:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._profile is not None:
            self._finish()
        elif 0 < self._begun <= WARM_UP or (self.steps and not self._begun):
            logger.warning("--profile looks at steps after the first %d, before which the run ended", WARM_UP)

    def next(self) -> None:
        """A step begins, and with it ends the one before."""
        if not self.steps:
            return
        self._begun += 1
        if self._begun == WARM_UP + 1:
            os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # it reports errors that are none, such as a missing GPU
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])]
            self._profile = profile(activities=activities, acc_events=True)
            self._profile.start()
            self._since = time.perf_counter()
        if self._profile is not None:
            self._end_step()
            if self._begun == WARM_UP + self.steps + 1:
                self._finish()
            else:
                self._range = record_function(STEP)
                self._range.__enter__()

    def _end_step(self) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None

    def _finish(self) -> None:
        self._end_step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds, found = time.perf_counter() - self._since, self._profile
        self._profile, self.steps = None, 0
        found.stop()
        summary = {"title": self.title, **summarize(found.events(), seconds, self.device.type == "cuda")}
        (self.out / "profile.json").write_text(json.dumps(summary, indent=2) + "\n")
        (self.out / "profile.txt").write_text(table(summary) + "\n")
        found.export_chrome_trace(str(self.out / "trace.json.gz"))
        logger.warning(
            "%s\n\nthis is in %s, each call in trace.json.gz there", table(summary), self.out / "profile.txt"
        )


def summarize(events: Iterable[Any], seconds: float, on_gpu: bool = False) -> dict[str, Any]:
    """Milliseconds per step by group and by operator, of the profiler's events in ranges named `STEP`.

    On a CPU the time is that between an operator's begin and end, less that of operators within; on a GPU, that of
    its kernels. What is left of a step is Python, autograd and other overhead, on a GPU all time without a kernel.
    """
    steps, ours = 0, defaultdict(lambda: [0.0, 0])
    for event in events:
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue
        path = [event.name, *(parent.name for parent in _ancestors(event))]
        steps += event.name == STEP
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if on_gpu or STEP in path:
            entry = ours[group(path, on_gpu), event.name]
            entry[0] += spent / 1000
            entry[1] += 1
    steps = max(1, steps)
    total = 1000 * seconds / steps
    spent_in = defaultdict(float)
    for (name, _), (spent, _) in ours.items():
        spent_in[name] += spent / steps
    spent_in[_OUTSIDE] = total - sum(spent for name, spent in spent_in.items() if name != _OUTSIDE)
    groups = {name: {"ms": spent, "share": spent / total} for name, spent in spent_in.items()}
    longest = sorted(ours.items(), key=lambda item: -item[1][0])[:20]
    return {
        "steps": steps,
        "ms": total,
        "operators": 1 - sum(groups[name]["share"] for name in (_OUTSIDE, DATA) if name in groups),
        "products_and_fused": sum(groups[name]["share"] for name in FUSED if name in groups),
        "groups": dict(sorted(groups.items(), key=lambda item: -item[1]["ms"])),
        "longest": [
            {"name": name, "group": of, "ms": spent / steps, "calls": calls / steps}
            for (of, name), (spent, calls) in longest
            if name != STEP
        ],
    }


def _ancestors(event: Any) -> Iterator[Any]:
    while event.cpu_parent is not None:
        event = event.cpu_parent
        yield event


def group(path: list[str], on_gpu: bool = False) -> str:
    """What an event is counted as, from its name and those of the events around it, the nearest first."""
    name = path[0]
    if DATA in path:
        return DATA
    space, _, operator = name.rpartition("::")
    # the door of an operator is Python, which launches kernels on a GPU and calls others on a CPU
    if not space or space.startswith("autograd") or (space == "esvit_fast" and not on_gpu):
        return _OUTSIDE
    if UPDATE in path:
        return UPDATE
    if space.startswith(("c10d", "nccl", "gloo")):
        return "communication"
    for around in path:
        if around.startswith("esvit_fast"):
            return next((of for part, of in _OURS.items() if part in around), _OUTSIDE)
    if operator.removesuffix("_backward").removeprefix("mkldnn_") in _PRODUCTS:
        return "matrix products"
    if any(part in operator for part in _NORMS):
        return "norms and activations"
    return "sums, copies and the like"


def table(summary: dict[str, Any]) -> str:
    """A summary for people."""
    groups = summary["groups"]
    lines = [f"{summary['title']}: {summary['ms']:,.0f} ms a step, mean of {counted(summary['steps'], 'step')}", ""]

    def line(name: str, share: float, ms: float, calls: float | None = None) -> str:
        often = "" if calls is None else f"{calls:9,.0f} calls"
        return f"{name:<40}{share:7.1%}{ms:11,.1f} ms{often}"

    outside = [name for name in (DATA, _OUTSIDE) if name in groups]
    lines.append(line("in operators", summary["operators"], summary["operators"] * summary["ms"]))
    rows = [(name, found) for name, found in groups.items() if name not in outside]
    rows += [(name, groups[name]) for name in outside]
    for name, found in rows:
        if name == outside[0]:
            rest = 1 - summary["operators"]
            lines += ["", line("outside of them", rest, rest * summary["ms"])]
        lines.append(line(f"  {name}", found["share"], found["ms"]))
    share = summary["products_and_fused"]
    lines += ["", line("matrix products and fused operators", share, share * summary["ms"]), "", "longest"]
    for found in summary["longest"][:12]:
        lines.append(line(f"  {found['name'][:37]}", found["ms"] / summary["ms"], found["ms"], found["calls"]))
    return "\n".join(lines)
