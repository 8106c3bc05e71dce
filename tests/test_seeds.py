"""One variable moves all seeds of the tests, and every test begins alike."""

from __future__ import annotations

import random

import pytest
import torch

from tests import seeds


def drawn():
    return torch.rand(3, generator=seeds.generator(5)).tolist(), seeds.choices(5).random()


def common():
    seeds.begin()
    return torch.rand(3).tolist(), random.random()


@pytest.mark.parametrize("draw", [drawn, common])
def test_a_seed_draws_the_same_again_and_another_draws_others(draw, monkeypatch):
    monkeypatch.setattr(seeds, "SEED", 0)
    first, again = draw(), draw()
    monkeypatch.setattr(seeds, "SEED", 1)
    other = draw()
    assert first == again and first[0] != other[0] and first[1] != other[1]


def test_no_seed_is_a_tests_own_seed_of_another(monkeypatch):
    found = set()
    for seed in range(20):
        monkeypatch.setattr(seeds, "SEED", seed)
        found |= {seeds.shifted(own) for own in range(3000)}
    assert len(found) == 20 * 3000
