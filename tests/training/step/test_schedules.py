"""Schedules against NumPy arrays built step by step as the published code builds them."""

from __future__ import annotations

import dataclasses
import math
from operator import attrgetter

import numpy as np
import pytest

from esvit_fast.config import Config, TrainConfig
from esvit_fast.methods.esvit_settings import EsViTSettings
from esvit_fast.training.step.schedules import schedule, total_steps

EPOCHS, WARMUP, BATCH, STEPS_PER_EPOCH = 12, 3, 64, 25
EPOCH_SAMPLES = BATCH * STEPS_PER_EPOCH


def config(method: dict | None = None, **train) -> Config:
    method = {"teacher_temp_warmup_epochs": 3.0, **(method or {})}
    return Config(
        train=TrainConfig(**{"epochs": EPOCHS, "warmup_epochs": WARMUP, "batch_size": BATCH, **train}),
        method=EsViTSettings(**method),
    )


def column(config: Config, field: str) -> np.ndarray:
    """The schedule at every step of a run whose epochs are whole steps."""
    at = schedule(config, EPOCH_SAMPLES)
    value = attrgetter(field)
    return np.array([value(at(step * BATCH)) for step in range(EPOCHS * STEPS_PER_EPOCH)])


def published_cosine(start: float, end: float, warmup_epochs: int = 0) -> np.ndarray:
    """One value a step: linspace from 0 to start, then a cosine whose last value is one step short of the end."""
    warmup = np.linspace(0, start, warmup_epochs * STEPS_PER_EPOCH)
    phase = np.arange(EPOCHS * STEPS_PER_EPOCH - len(warmup)) / (EPOCHS * STEPS_PER_EPOCH - len(warmup))
    return np.concatenate([warmup, end + (start - end) * (np.cos(np.pi * phase) + 1) / 2])


def test_learning_rate_is_the_published_one_up_to_the_end_of_the_warm_up():
    peak, warm = 5e-4 * BATCH / 256, WARMUP * STEPS_PER_EPOCH
    found, expected = column(config(), "learning_rate"), published_cosine(peak, 1e-6, WARMUP)
    np.testing.assert_allclose(found[warm:], expected[warm:], rtol=1e-12)
    # the published linspace divides by one step less
    np.testing.assert_allclose(found[:warm], expected[:warm] * (warm - 1) / warm, rtol=1e-12)
    assert np.abs(found - expected).max() <= peak / warm * (1 + 1e-9)
    assert found[0] == 0.0 and found.argmax() == warm and found[warm] == peak
    assert (np.diff(found[: warm + 1]) > 0).all() and (np.diff(found[warm:]) < 0).all()


@pytest.mark.parametrize(
    ("field", "start", "end"),
    [("weight_decay", 0.04, 0.4), ("method.teacher_momentum", 0.996, 1.0)],
    ids=["decay", "momentum"],
)
def test_weight_decay_and_momentum_are_the_published_cosines(field, start, end):
    found = column(config(), field)
    np.testing.assert_allclose(found, published_cosine(start, end), rtol=1e-12)
    assert found[0] == pytest.approx(start, rel=1e-12) and (np.diff(found) > 0).all() and found[-1] < end


def test_the_ends_are_reached_exactly_and_stay():
    at = schedule(config(), EPOCH_SAMPLES)
    for samples in (EPOCHS * EPOCH_SAMPLES, EPOCHS * EPOCH_SAMPLES + 1, 10**9):
        point = at(samples)
        assert (point.learning_rate, point.weight_decay, point.method.teacher_momentum, point.method.teacher_temp) == (
            1e-6,
            0.4,
            1.0,
            0.07,
        )


def test_teacher_temperature_per_epoch_is_the_published_linspace():
    found = column(config(), "method.teacher_temp")
    per_epoch = np.concatenate([np.linspace(0.04, 0.07, 3), np.full(EPOCHS - 3, 0.07)])
    np.testing.assert_allclose(found, np.repeat(per_epoch, STEPS_PER_EPOCH), rtol=1e-12)
    assert found[STEPS_PER_EPOCH] == pytest.approx(0.055)


@pytest.mark.parametrize(
    ("warmup", "per_epoch"),
    [(0, [0.07, 0.07, 0.07]), (1, [0.04, 0.07, 0.07]), (2, [0.04, 0.07, 0.07]), (2.5, [0.04, 0.055, 0.07])],
)
def test_short_and_fractional_temperature_warm_ups(warmup, per_epoch):
    at = schedule(config({"teacher_temp_warmup_epochs": warmup}), EPOCH_SAMPLES)
    assert [at(epoch * EPOCH_SAMPLES).method.teacher_temp for epoch in range(3)] == pytest.approx(per_epoch, rel=1e-12)


def test_teacher_temperature_per_sample_is_linear_and_needs_no_whole_epochs():
    at = schedule(config({"teacher_temp_schedule": "sample", "teacher_temp_warmup_epochs": 1.5}), 1000)
    samples = np.arange(0, 3000, 50)
    found = [at(int(s)).method.teacher_temp for s in samples]
    np.testing.assert_allclose(found, np.interp(samples, [0, 1500], [0.04, 0.07]), rtol=1e-12)
    at = schedule(config({"teacher_temp_schedule": "sample", "teacher_temp_warmup_epochs": 0}), 1000)
    assert at(0).method.teacher_temp == 0.07


def test_a_falling_temperature_works_too():
    at = schedule(config({"teacher_temp_start": 0.1, "teacher_temp_schedule": "sample"}), 1000)
    assert at(1500).method.teacher_temp == pytest.approx(0.085)


@pytest.mark.parametrize(("epochs", "frozen"), [(0, 0), (0.5, 800), (1, 1600), (2, 3200)])
def test_the_last_layer_is_frozen_for_a_number_of_samples(epochs, frozen):
    at = schedule(config(freeze_last_layer_epochs=epochs), EPOCH_SAMPLES)
    assert [at(s).method.freeze_last_layer for s in (frozen - 1, frozen) if s >= 0] == (
        [True, False] if frozen else [False]
    )


def test_without_warm_up_the_first_step_has_the_peak():
    found = column(config(warmup_epochs=0), "learning_rate")
    np.testing.assert_allclose(found, published_cosine(5e-4 * BATCH / 256, 1e-6), rtol=1e-12)


def test_a_run_that_is_all_warm_up_stays_finite():
    at = schedule(config(epochs=2, warmup_epochs=2), 1000)
    rates = [at(s).learning_rate for s in range(0, 2048, BATCH)]
    assert all(math.isfinite(rate) for rate in rates) and (np.diff(rates[:-1]) > 0).all()
    assert max(rates) <= 5e-4 * BATCH / 256


@pytest.mark.parametrize("batch_size", [32, 128, 512])
def test_the_learning_rate_scales_with_the_batch_and_the_rest_does_not_change(batch_size):
    base, other = schedule(config(), 51_200), schedule(config(batch_size=batch_size, min_learning_rate=0), 51_200)
    for samples in (0, 512 * 30, 512 * 500, 512 * 1000):
        a, b = base(samples), other(samples)
        assert dataclasses.replace(a, learning_rate=0) == dataclasses.replace(b, learning_rate=0)
    assert other(3 * 51_200).learning_rate == pytest.approx(5e-4 * batch_size / 256, rel=1e-12)


def test_total_steps_rounds_epochs_to_whole_steps():
    assert total_steps(config(), EPOCH_SAMPLES) == EPOCHS * STEPS_PER_EPOCH
    assert total_steps(config(epochs=1, warmup_epochs=0), 1000) == 16  # 15.6
    assert total_steps(config(epochs=0.5, warmup_epochs=0), 1000) == 8  # 7.8
    assert total_steps(config(epochs=1, warmup_epochs=0), 10) == 1
    at = schedule(config(epochs=1, warmup_epochs=0), 1000)
    assert at(16 * BATCH).learning_rate == 1e-6 < at(1000).learning_rate


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="epoch_samples=0"):
        schedule(config(), 0)
