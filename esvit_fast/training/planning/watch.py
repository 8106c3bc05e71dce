"""What a training step takes while it runs on tensors without memory: bytes that are there, arithmetic, and traffic."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ...ops._core.flops import FLOPS
from ...ops.prototype_cross_entropy.cpu import scratch_bytes
from .estimate import Work

_SCALAR = torch.ops.aten._local_scalar_dense.default
UPDATE = "optimizer"
"""The part of a step that moves weights, once, however many micro-batches there are."""


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the elements of tensors."""
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)


class Watch(TorchDispatchMode):
    """Counts the bytes of storages from when they are made until they are gone, and the arithmetic of operators."""

    def __init__(self, scaled: bool, on_gpu: bool):
        super().__init__()
        self.scaled, self.on_gpu = scaled, on_gpu
        self.kind = self.part = "activations"
        self.held: dict[int, tuple[int, str]] = {}
        self.live: Counter[str] = Counter()
        self.begin()

    def begin(self) -> None:
        """Forget the peak so far, and what was computed."""
        self.total, self.flops = sum(self.live.values()), Counter()
        self.high, self.most = self.total, Counter(self.live)
        self.course, self.done = [self.total], Counter()

    def work(self) -> tuple[Work, ...]:
        """What was done since `begin`."""
        return tuple(Work(*each, count) for each, count in self.done.items())

    def enter(self, kind: str, part: str) -> None:
        """From now on, new tensors are of this kind, and arithmetic of this part."""
        self.kind, self.part = kind, part

    @contextmanager
    def noting(self, kind: str) -> Iterator[None]:
        """Let what is made within be of this kind."""
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before

    def note(self, tensor: Tensor, kind: str) -> None:
        """Count a tensor among those of a kind, whatever it was thought to be."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.held:
            self.live[self.held[key][1]] -= size
        else:
            weakref.finalize(storage, self._free, key)
            self.total += size
        self.held[key] = size, kind
        self.live[kind] += size
        self.course.append(self.total)
        if self.total > self.high:
            self.high, self.most = self.total, Counter(self.live)

    def passing(self, kind: str, size: int, beside: Iterable[Tensor]) -> None:
        """Count bytes of a kind that were there for a moment, with tensors that are about to be noted."""
        size += bytes_of(beside)
        self.course.append(self.total + size)
        if self.total + size > self.high:
            self.high, self.most = self.total + size, self.live + Counter({kind: size})

    def _free(self, key: int) -> None:
        size, kind = self.held.pop(key)
        self.live[kind] -= size
        self.total -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is _SCALAR:  # a number that nobody knows: no check finds that anything is wrong
            return args[0].dtype != torch.bool and 0.0
        before = sum(self.flops.values())
        if func.namespace == "esvit_fast":
            out = self._operator(func, args)
        else:
            out = func(*args, **kwargs)
            if formula := flop_registry.get(func.overloadpacket):
                self.flops[self.part] += formula(*args, **kwargs, out_val=out)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if func.namespace != "prim" and not func.is_view and "empty" not in func._opname:
            self._count(tree_leaves((args, kwargs)), made, sum(self.flops.values()) - before)
        for tensor in made:
            if tensor.untyped_storage()._cdata not in self.held:
                self.note(tensor, self.kind)
        return out

    def _count(self, given: Iterable[object], made: Iterable[Tensor], flops: int) -> None:
        """An operator reads all that it is given and writes all that it makes."""
        given = [leaf for leaf in given if isinstance(leaf, Tensor)]
        dtype = str(given[0].dtype).removeprefix("torch.") if flops else ""
        self.done[dtype, flops, bytes_of((*given, *made)), self.part == UPDATE] += 1

    def _operator(self, func, args) -> object:
        """An operator of ours: its arithmetic, whoever does it."""
        name = func._opname
        if name in FLOPS:
            self.flops[self.part] += FLOPS[name](*args[:-1])
        if name == "prototype_cross_entropy_backward" and not self.scaled:
            return args[-4:-1]
        out = func(*args)
        if name == "prototype_cross_entropy" and args[-1] == "cpu" and not self.on_gpu:
            self.passing(self.kind, _scratch_of_loss(*args), out)
        return out


def _scratch_of_loss(student, weight, weight_g, teacher, *rest) -> int:
    """Bytes that the larger of its two passes over prototypes takes beside its results."""
    needs = rest[-2]
    size = torch.promote_types(student.dtype, torch.float32).itemsize
    passes = (teacher, True), (student, needs[0])
    return max(scratch_bytes(*rows.shape, len(weight), size, means, any(needs[1:])) for rows, means in passes)
