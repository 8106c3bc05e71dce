"""What is computed again in the backward pass: the same numbers, and less that is kept."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from esvit_fast.nn import SwinBlock
from esvit_fast.nn.recompute import through
from tests import seeds


def layers(dtype=torch.float32):
    torch.manual_seed(seeds.shifted(0))
    return nn.LayerNorm(6).to(dtype), nn.Linear(6, 5).to(dtype), torch.randn(2, 3, 6, dtype=dtype, requires_grad=True)


def grads(out, first, then, x):
    return torch.autograd.grad(out.float().square().sum(), [x, *first.parameters(), *then.parameters()])


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("first", [nn.LayerNorm(6), nn.GELU()])
def test_the_numbers_are_those_without_it(first, autocast):
    _, then, x = layers()
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        ours, plain = through(first, x, then), then(first(x))
    assert torch.equal(ours, plain)
    assert all(map(torch.equal, grads(ours, first, then, x), grads(plain, first, then, x)))


def kept(function):
    """Elements of what is saved, each storage once."""
    seen = {}

    def pack(tensor):
        seen[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(seen.values())


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("first", [nn.LayerNorm(6), nn.GELU()])
def test_what_is_kept(first, autocast):
    """What is alive after a forward pass, as those who look from outside are left to keep what they like."""
    _, then, x = layers()
    middle = []

    def noted(y):
        middle.append(y)
        return then(y)

    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        out, plain = through(first, x, noted), noted(first(x))
    ours, theirs = ([getattr(n, name) for n, name in saved_of(y.grad_fn)] for y in (out, plain))
    assert ours and all(t.data_ptr() != middle[0].data_ptr() for t in ours)
    # without it, what the layer was given, or made of it, is kept
    assert any(t.numel() == x.numel() and torch.equal(t.flatten(), middle[1].to(t.dtype).flatten()) for t in theirs)
    computed = []
    handle = first.register_forward_hook(lambda *_: computed.append(1))
    out.float().sum().backward()
    handle.remove()
    assert computed == [1]


def test_hooks_that_change_what_it_gives_are_respected():
    first, then, x = layers()
    first.register_forward_hook(lambda module, args, out: 2 * out)
    ours, plain = (grads(y, first, then, x) for y in (through(first, x, then), then(first(x))))
    assert all(map(torch.equal, ours, plain))


def test_hooks_of_all_modules_see_each_call_once():
    norm, x, seen = nn.LayerNorm(4), torch.randn(3, 4, requires_grad=True), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        through(norm, x, lambda y: nn.functional.linear(y, torch.eye(4))).sum().backward()
    finally:
        handle.remove()
    assert seen == [norm]


def test_functional_derivatives():
    first, then, x = layers(torch.float64)
    found = torch.func.grad(lambda x: through(first, x, then).square().sum())(x.detach())
    torch.testing.assert_close(found, torch.autograd.grad(then(first(x)).square().sum(), x)[0])


def saved_of(node):
    for n in [node, *(f for f, _ in node.next_functions if f is not None)]:
        for name in dir(n):
            if name.startswith("_saved_") and isinstance(getattr(n, name), torch.Tensor):
                yield n, name


def test_checkpointing_a_block_keeps_nothing_but_its_input():
    torch.manual_seed(seeds.shifted(0))
    block, x = SwinBlock(16, 2, 4, 2), torch.randn(2, 9, 9, 16, requires_grad=True)
    whole = kept(lambda: block(x))
    alone = kept(lambda: checkpoint(block, x, use_reentrant=False))
    assert alone <= x.numel() < whole
    first = torch.autograd.grad(block(x).square().sum(), x)
    again = torch.autograd.grad(checkpoint(block, x, use_reentrant=False).square().sum(), x)
    torch.testing.assert_close(first, again)


def test_second_derivatives():
    first, then, x = layers(torch.float64)
    assert torch.autograd.gradgradcheck(lambda x: through(first, x, then).square(), x)


def test_a_block_compiles_to_one_graph():
    torch.manual_seed(seeds.shifted(0))
    block, x = SwinBlock(16, 2, 4, 2), torch.randn(1, 8, 8, 16, requires_grad=True)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), block(x))
