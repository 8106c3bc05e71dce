"""Parts of a network as programs of torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

_PROGRAMS = 256
"""Of one kind of part: student's and teacher's, of every width and size of map; torch would give up at 8."""


def compile_parts(parts: Iterable[nn.Module], backend: str = "inductor") -> None:
    """Let torch.compile make a program of every part, when it first meets a size of map.

    What is random is drawn as without. The operators of this library are called by the programs, everything around them
    is fused. Names in state dictionaries stay what they are, and copies of a part are not compiled.
    """
    import torch._dynamo  # takes seconds

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _PROGRAMS)
    torch._dynamo.config.optimize_ddp = False  # gradients of a part are reduced while the one before it is at work
    options = {"fallback_random": True} if backend == "inductor" else None
    options = {"backend": backend, "dynamic": False, "fullgraph": True, "options": options}
    for part in parts:
        if type(part).__module__.startswith("torch."):  # whose own frames torch.compile passes over, without a word
            part._compiled_call_impl = torch.compile(_called(part), **options)
        else:
            part.compile(**options)


def _called(part: nn.Module) -> Callable[..., object]:
    call = part._call_impl
    return lambda *args, **kwargs: call(*args, **kwargs)
