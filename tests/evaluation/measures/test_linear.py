import math

import pytest
import torch
from torch import nn

from esvit_fast.evaluation.features import Features
from esvit_fast.evaluation.measures.linear import LEARNING_RATES, linear_probe, train_classifiers


def blobs(count, classes=3, width=5, seed=0, spread=0.7):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(77)) * 2
    labels = torch.randint(classes, (count,), generator=generator)
    return Features(centres[labels] + spread * torch.randn(count, width, generator=generator), labels)


def test_every_slice_equals_torch_sgd_on_its_own():
    data, rates, epochs, batch = blobs(50), torch.tensor([0.02, 0.3]), 4, 16
    x = nn.functional.pad(data.features, (0, 1), value=1.0)
    start = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(5)) * 0.01
    got = train_classifiers(start, x, data.labels, rates, epochs, batch, torch.Generator().manual_seed(9))
    for number, rate in enumerate(rates.tolist()):
        layer = nn.Linear(5, 3)
        layer.load_state_dict({"weight": start[:5, number].T, "bias": start[5, number]})
        optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9)
        generator, step, steps = torch.Generator().manual_seed(9), 0, epochs * 4
        for _ in range(epochs):
            for rows in torch.randperm(50, generator=generator).split(batch):
                optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
                optimizer.zero_grad()
                nn.functional.cross_entropy(layer(data.features[rows]), data.labels[rows]).backward()
                optimizer.step()
                step += 1
        torch.testing.assert_close(got[:5, number].T, layer.weight.detach(), atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(got[5, number], layer.bias.detach(), atol=2e-6, rtol=1e-5)


def test_separable_classes_are_learnt_and_the_seed_decides():
    train, test = blobs(400), blobs(200, seed=1)
    first = linear_probe(train, test, epochs=20, batch_size=64)
    assert first.top1 > 95
    assert first.top5 == 100
    assert [row.learning_rate for row in first.table] == list(LEARNING_RATES)
    assert first == linear_probe(train, test, epochs=20, batch_size=64)
    assert first != linear_probe(train, test, epochs=20, batch_size=64, seed=1)


def test_a_probe_has_as_many_outputs_as_classes_occur():
    train, test = blobs(200), blobs(80, seed=1)
    numbers = torch.tensor([3, 10**9, 2**62])  # one output a number would take exabytes
    plain = linear_probe(train, test, epochs=5)
    assert plain == linear_probe(*(side._replace(labels=numbers[side.labels]) for side in (train, test)), epochs=5)
    lost = linear_probe(train, test._replace(labels=torch.where(test.labels == 1, 99, test.labels)), epochs=5)
    share = 100 * (test.labels != 1).double().mean().item()
    assert lost.top1 <= share and lost.top5 == pytest.approx(share)  # all five answers of three classes


def test_the_rate_is_chosen_without_the_test_images():
    train, test = blobs(300, spread=2.5), blobs(100, seed=1, spread=2.5)
    honest = linear_probe(train, test, epochs=5)
    shuffled = Features(test.features, test.labels.roll(1))
    assert linear_probe(train, shuffled, epochs=5).learning_rate == honest.learning_rate
    chosen = next(row for row in honest.table if row.learning_rate == honest.learning_rate)
    assert chosen.held_out.top1 == max(row.held_out.top1 for row in honest.table)
    assert chosen.test == (honest.top1, honest.top5)


def test_diverging_rates_are_dropped_and_named():
    train, test = blobs(100), blobs(50, seed=1)
    result = linear_probe(train, test, learning_rates=(0.1, 1e38), epochs=30, batch_size=32)
    assert result.diverged == (1e38,)
    assert [row.learning_rate for row in result.table] == [0.1]
    with pytest.raises(ValueError, match="all diverge; pass smaller ones"):
        linear_probe(train, test, learning_rates=(1e38,), epochs=30, batch_size=32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "epochs=0 must be greater than 0"),
        ({"learning_rates": ()}, "learning_rates=0 must"),
        ({"held_out": 1.0}, "held_out=1.0 must lie between 0 and 1"),
        ({"test": blobs(5, width=4)}, "test has 4 features but train has 5"),
        ({"train": Features(torch.ones(3, 5), torch.tensor([-1, 0, 1]))}, "train: 1 of 3 images have no class"),
        ({"train": blobs(1)}, "train: holds 1 image"),
    ],
)
def test_bad_input(change, words):
    arguments = {"train": blobs(20), "test": blobs(10, seed=1)} | change
    with pytest.raises(ValueError, match=words) as error:
        linear_probe(arguments.pop("train"), arguments.pop("test"), **arguments)
    assert "\n" not in str(error.value)
