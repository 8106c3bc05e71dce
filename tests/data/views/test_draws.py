from __future__ import annotations

import numpy as np

from esvit_fast.data.views.draws import AUGMENT, CROP, SLOTS, epoch_order, replacements, uniforms


def test_uniforms_are_a_function_of_their_counter():
    one = uniforms(3, 2, 17, 6)
    assert one.shape == (6, SLOTS) and one.dtype == np.float64
    assert np.array_equal(one, uniforms(3, 2, 17, 6))
    assert np.array_equal(one, uniforms(3, 2, 17, 10)[:6]), "more views must not change earlier ones"
    for other in (uniforms(4, 2, 17, 6), uniforms(3, 1, 17, 6), uniforms(3, 2, 18, 6)):
        assert not np.isin(one, other).any()


def test_streams_are_pinned():
    """These values are part of what a resume relies on: they must never change."""
    expected = np.random.Generator(np.random.Philox(key=[5, 1], counter=[0, 0, 7, 2])).random((2, SLOTS))
    assert np.array_equal(uniforms(5, 2, 7, 2), expected)
    assert epoch_order(0, 0, 6).tolist() == [0, 2, 1, 5, 4, 3]
    assert replacements(0, 0, 1, 100, 4) == [90, 0, 72, 76]


def test_uniforms_are_uniform_and_uncorrelated():
    u = np.stack([uniforms(0, 0, i, 2) for i in range(4000)])
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean((0, 1)) - 0.5).max() < 5 * 12**-0.5 / 8000**0.5
    assert abs(u.std((0, 1)) - 12**-0.5).max() < 0.01
    correlation = np.corrcoef(u[:, 0].T) - np.eye(SLOTS)
    assert abs(correlation).max() < 5 / 4000**0.5
    neighbours = np.corrcoef(u[:-1, 0].ravel(), u[1:, 0].ravel())[0, 1]
    assert abs(neighbours) < 5 / u[:-1, 0].size ** 0.5


def test_slots_do_not_overlap():
    assert (CROP.start, CROP.stop, AUGMENT.start) == (0, 22, 22) and AUGMENT.stop <= SLOTS


def test_epoch_order_is_a_new_permutation_every_epoch():
    first, second = epoch_order(1, 0, 1000), epoch_order(1, 1, 1000)
    assert np.array_equal(np.sort(first), np.arange(1000)) and np.array_equal(np.sort(second), np.arange(1000))
    assert (first == second).sum() < 10
    assert not np.array_equal(first, epoch_order(2, 0, 1000))


def test_negative_and_large_seeds():
    assert not np.array_equal(uniforms(-1, 0, 0, 1), uniforms(0, 0, 0, 1))
    assert np.isfinite(uniforms(2**63, 0, 0, 1)).all()
