"""The stages of a backbone as programs of torch.compile."""

from __future__ import annotations

from torch import nn

_PROGRAMS = 64
"""Of stages: student's and teacher's, each of every size of map; torch would give up at 8."""


def compile_stages(*backbones: nn.Module, backend: str = "inductor") -> None:
    """Let torch.compile make a program of every stage, when it first meets a size of map.

    What is random in a stage is drawn as without. The operators of this library are called by the programs, everything
    around them is fused. Names in state dictionaries stay what they are, and copies of a backbone are not compiled.
    """
    import torch._dynamo  # takes seconds

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _PROGRAMS)
    torch._dynamo.config.optimize_ddp = False  # gradients of a stage are reduced while the one before it is at work
    options = {"fallback_random": True} if backend == "inductor" else None
    for backbone in backbones:
        for stage in backbone.layers:
            stage.compile(backend=backend, dynamic=False, fullgraph=True, options=options)
