"""What a logged step says of features, weights and centres."""

import math
from dataclasses import replace

import pytest
import torch

from esvit_fast.evaluation.measures.health import feature_health
from esvit_fast.training import Trainer
from esvit_fast.training.monitoring.signals import feature_rank, signals
from esvit_fast.training.step.optimizer import make_optimizer, update_ratio

from ..runs import CPU, batches, small


def stepped(config, steps=3):
    trainer = Trainer(config, 48, CPU)
    for batch in batches(steps):
        before = [p.detach().clone() for p in _matrices(trainer)]
        result = trainer.train_step([batch])
    return trainer, result, before


def _matrices(trainer):
    return [p for p in trainer.method.student.backbone.parameters() if p.ndim > 1]


def test_the_ratio_is_that_of_the_step_that_was_taken():
    trainer, result, before = stepped(small(weight_decay=0.0, weight_decay_end=0.0))
    after = _matrices(trainer)
    moved = math.sqrt(sum((a - b).double().square().sum().item() for a, b in zip(after, before, strict=True)))
    size = math.sqrt(sum(a.double().square().sum().item() for a in after))
    assert moved > 0
    assert signals(trainer, result)["update_ratio"] == pytest.approx(moved / size, rel=1e-4)


def test_the_ratio_before_the_first_step_is_zero():
    layer = torch.nn.Linear(3, 3)
    optimizer = make_optimizer(layer, small().train)
    assert update_ratio(optimizer, layer.parameters()) == 0


def test_features_are_those_of_the_first_view_of_the_student():
    trainer, found = Trainer(small(), 48, CPU), []
    trainer.method.student.backbone.norm.register_forward_hook(lambda module, args, out: found.append(out.detach()))
    result = trainer.train_step(batches(1))
    assert result.features.shape == (8, 192) and not result.features.requires_grad
    torch.testing.assert_close(result.features, found[0][:8].mean((1, 2)))
    rank = feature_health(result.features).rank
    assert feature_rank(result.features) == pytest.approx(rank, rel=1e-6)
    assert 1 < rank < 8


def test_ranks_of_known_features():
    assert feature_rank(torch.ones(100, 32)) == pytest.approx(1, abs=1e-6)
    assert feature_rank(torch.eye(128)) == pytest.approx(64)  # of 64 images at most
    assert math.isnan(feature_rank(torch.tensor([[1.0, math.inf], [0.0, 1.0]])))


def test_centres_are_told_where_there_are_any():
    trainer, result, _ = stepped(small())
    found = {name: value.item() for name, value in signals(trainer, result).items()}
    center = trainer.method.loss.region_center.double()
    assert found["region_center_norm"] == pytest.approx((center - center.mean()).norm().item(), rel=1e-5)
    trainer.method.loss.view_center += 1000  # changes no assignment
    assert signals(trainer, result)["center_norm"].item() == pytest.approx(found["center_norm"], rel=1e-2)
    sinkhorn = replace(small(), method=replace(small().method, centering="sinkhorn", view_weight=0.0))
    trainer, result, _ = stepped(sinkhorn, steps=1)
    assert signals(trainer, result).keys() == {"update_ratio"}
