import math

import numpy as np
import pytest
import torch

from esvit_fast.evaluation.measures.health import effective_rank, feature_health


def test_health_equals_numpy():
    x = np.random.default_rng(0).standard_normal((40, 7)).astype(np.float32) + 0.5
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    share = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    share /= share.sum()
    pairs = [unit[i] @ unit[j] for i in range(40) for j in range(40) if i != j]
    health = feature_health(torch.from_numpy(x))
    assert health.rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-9)
    assert health.cosine == pytest.approx(np.mean(pairs), rel=1e-9)
    assert health.std == pytest.approx(unit.std(axis=0).mean() * math.sqrt(7), rel=1e-9)
    assert health.rank_limit == 7


def test_collapsed_and_spread_features():
    same = feature_health(torch.ones(10, 4))
    assert same.rank == pytest.approx(1)
    assert same.cosine == pytest.approx(1)
    assert same.std == pytest.approx(0, abs=1e-12)
    axes = feature_health(torch.cat([torch.eye(4), -torch.eye(4)]))
    assert axes.rank == pytest.approx(4)
    assert axes.std == pytest.approx(1)
    assert axes.cosine == pytest.approx(-1 / 7)


def test_effective_rank_ignores_scale_and_rotation():
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    assert effective_rank(3 * x @ rotation) == pytest.approx(effective_rank(x), rel=1e-10)
    assert effective_rank(torch.zeros(3, 2)) == 0


@pytest.mark.parametrize(
    ("features", "words"),
    [(torch.ones(1, 3), "features hold 1 vectors"), (torch.tensor([[1.0], [math.nan]]), "not finite")],
)
def test_bad_input(features, words):
    with pytest.raises(ValueError, match=words):
        feature_health(features)
