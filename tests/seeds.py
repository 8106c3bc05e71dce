"""Where the random numbers of the tests begin: ESVIT_FAST_TEST_SEED, 0 without it, draws others everywhere."""

from __future__ import annotations

import os
import random

import torch

SEED = int(os.environ.get("ESVIT_FAST_TEST_SEED", "0"))


def shifted(seed: int) -> int:
    """A test's own seed, moved to where no other seed of the tests is."""
    return seed + 1_000_003 * SEED


def generator(seed: int, device: str = "cpu") -> torch.Generator:
    """Of tensors."""
    return torch.Generator(device).manual_seed(shifted(seed))


def choices(seed: int) -> random.Random:
    """Of shapes and other choices."""
    return random.Random(shifted(seed))


def begin() -> None:
    """Set the generators that belong to nobody, so that a test draws the same after any other."""
    random.seed(SEED)
    torch.manual_seed(SEED)
