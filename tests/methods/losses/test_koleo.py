"""KoLeo against its definition, and what it is for: rows that spread."""

import pytest
import torch

from esvit_fast.methods import koleo
from tests import seeds


def rows(count, width, seed=0):
    return torch.randn(count, width, generator=seeds.generator(seed), dtype=torch.float64)


def test_definition_in_plain_loops():
    x = rows(7, 3)
    unit = [row / row.norm() for row in x]
    nearest = [min((a - b).norm() for j, b in enumerate(unit) if j != i) for i, a in enumerate(unit)]
    expected = -torch.stack(nearest).log().mean()
    torch.testing.assert_close(koleo(x, eps=0.0), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(koleo(5 * x), koleo(x), rtol=1e-12, atol=0)


def test_gradient():
    assert torch.autograd.gradcheck(koleo, rows(6, 4, seed=3).requires_grad_(True))


def test_equal_rows_are_finite_and_a_single_one_is_refused():
    x = rows(1, 4).expand(3, 4).clone().requires_grad_(True)
    koleo(x).backward()
    assert koleo(x).isfinite() and torch.equal(x.grad, torch.zeros_like(x))
    with pytest.raises(ValueError, match=r"rows=\[1, 4\] has no neighbours"):
        koleo(rows(1, 4))


def test_descent_spreads_rows_over_the_sphere():
    x = (rows(1, 8) + 0.05 * rows(32, 8, seed=1)).requires_grad_(True)  # a tight bundle

    def similarity():
        unit = torch.nn.functional.normalize(x, dim=1)
        return (unit @ unit.T).fill_diagonal_(-1).max(1).values.mean().item()

    assert similarity() > 0.98
    optimizer = torch.optim.Adam([x], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        koleo(x).backward()
        optimizer.step()
    assert similarity() < 0.6
