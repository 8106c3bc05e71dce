"""The rule by which results are called exact: no false alarm whatever torch's luck, and no error that hides."""

from __future__ import annotations

import itertools
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from benchmarks.measuring.exactness import DRAWS, common, draws, judge, largest, nudged, rms, together
from esvit_fast import ops
from tests.ops.test_window_attention_backends import draw, plainly, results, scales

EPS = torch.finfo(torch.float32).eps
HALF = torch.float16, torch.bfloat16


def gaussian(numbers: int, seed: int, lucky: bool):
    """An exact result, one whose errors are of a size, and draws of such; the first may have none by luck."""
    g = torch.Generator().manual_seed(seed)
    exact = torch.randn(numbers, generator=g, dtype=torch.float64)

    def erring() -> Tensor:
        return exact + 30 * EPS * torch.randn(numbers, generator=g, dtype=torch.float64)

    drawn = (([exact.float() if lucky and number == 0 else erring()], [exact]) for number in itertools.count())
    return [exact], erring, drawn


@pytest.mark.parametrize("numbers", [1, 2, 3, 10, 100, 3000])
def test_no_false_alarm_whatever_torchs_luck(numbers):
    """Errors as large as torch's: 500 times, where torch's first is nearly none."""
    for seed in range(500):
        _, erring, drawn = gaussian(numbers, seed, lucky=True)
        judged = judge([erring()], drawn, dtype=torch.float32)
        assert judged.ratio <= 1, (seed, judged)


@pytest.mark.parametrize(("numbers", "times"), [(1, 20), (3, 10), (100, 3), (3000, 2.2)])
def test_errors_that_are_larger_than_torchs_are_found(numbers, times):
    found = 0
    for seed in range(50):
        (exact,), erring, drawn = gaussian(numbers, seed, lucky=False)
        found += judge([exact + times * (erring() - exact)], drawn, dtype=torch.float32).ratio > 1
    assert found >= (25 if numbers < 10 else 49), found


def turned(x: Tensor | None, parts: int, heads: int) -> Tensor | None:
    """Channels of heads in the reverse order."""
    return None if x is None else x.unflatten(-1, (parts, heads, -1)).flip(-1).flatten(-3)


def in_another_order(qkv, *, pad_kv, num_heads, backend, **given):
    """Window attention by the oracle, with sums over channels that run backwards."""
    qkv, pad_kv = turned(qkv, 3, num_heads), turned(pad_kv, 2, num_heads)
    return turned(reference_of(qkv, pad_kv=pad_kv, num_heads=num_heads, backend="reference", **given), 1, num_heads)


def planted(name: str):
    """The same with an error in its softmax."""

    def change(scores: Tensor, dim: int) -> Tensor:
        weights = softmax(scores, dim)
        at = torch.zeros_like(scores)
        at.view(-1)[weights.argmax()] = 1
        if name == "an element of the mask":
            return softmax(scores - 100 * at, dim)
        return {
            "a term that is left out": weights * (1 - at),
            "a sum without its last key": weights * (1 + weights[..., -1:]),
            "bfloat16 within": weights.bfloat16().to(weights.dtype),
        }[name]

    def run(*args, **given):
        with patch.object(torch.Tensor, "softmax", change):
            return in_another_order(*args, **given)

    return run


reference_of, softmax = ops.window_attention, torch.Tensor.softmax


def computed(how, tensors, options) -> dict[str, Tensor]:
    """Output and gradients by another window attention."""
    with patch.object(ops, "window_attention", how):
        return results(tensors, options, "another")


def judged(found, tensors, options):
    """As tests of kernels do."""
    dtype = tensors["qkv"].dtype
    exact = results(tensors, options, "reference", dtype) if dtype == torch.float64 else None
    return judge(found, draws(lambda drawn: plainly(drawn, options), tensors), exact=exact, dtype=dtype)


def test_another_order_of_sums_is_no_error():
    for seed in range(150):
        problem = draw(seed, side=12, window=8)
        found = judged(computed(in_another_order, *problem), *problem)
        assert found.ratio <= 1, (seed, found)


def test_the_scales_of_cosines_in_another_order_are_no_error_and_4_units_are():
    """In the last place of one to three numbers of each problem."""
    problems = [draw(seed, side=12, window=8) for seed in range(260)]
    problems = [p for p in problems if p[0]["cosine_scale"] is not None and p[0]["qkv"].dtype == torch.float32]
    found = [{"cosine_scale": computed(in_another_order, *p)["cosine_scale"]} for p in problems]
    drawn = [scales(*problem) for problem in problems]
    assert together(found, drawn).ratio <= 1
    off = together([{"cosine_scale": x["cosine_scale"] * (1 + 4 * EPS)} for x in found], drawn)
    assert off.ratio > 1, off


def layer(dtype: torch.dtype, seed: int = 0):
    """A padded, shifted layer of two heads."""
    g = torch.Generator().manual_seed(seed)
    shapes = {"qkv": (1, 9, 8, 3 * 32), "bias": (9**2, 2), "pad_kv": (2 * 32,)}
    tensors = {name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}
    wide = torch.promote_types(dtype, torch.float32)
    tensors = {name: x.to(wide if name == "bias" else dtype) for name, x in tensors.items()} | {"cosine_scale": None}
    return tensors, {"num_heads": 2, "window_size": (5, 5), "shift_size": (2, 2)}


DTYPES = torch.float64, torch.float32, *HALF


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["out", "qkv", "bias", "pad_kv"])
def test_4_units_in_the_last_place_of_every_number_are_found(name, dtype):
    for seed in range(3):
        problem = layer(dtype, seed)
        found = computed(in_another_order, *problem)
        assert judged(found, *problem).ratio <= 1
        off = judged(found | {name: found[name] * (1 + 4 * torch.finfo(dtype).eps)}, *problem)
        assert off.ratio > 1 and off.name == name, (seed, str(off))


@pytest.mark.parametrize("dtype", HALF)
def test_4_units_in_the_last_place_of_one_number_are_found(dtype):
    for seed in range(3):
        problem = layer(dtype, seed)
        found = computed(in_another_order, *problem)
        at = found["out"].abs().argmax()
        found["out"].view(-1)[at] *= 1 + 4 * torch.finfo(dtype).eps
        off = judged(found, *problem)
        assert off.ratio > 1 and off.measure is largest, (seed, off)


@pytest.mark.parametrize(
    ("error", "dtype"),
    [
        *itertools.product(["an element of the mask", "a term that is left out", "a sum without its last key"], DTYPES),
        *itertools.product(["bfloat16 within"], [torch.float64, torch.float32, torch.float16]),
    ],
)
def test_a_wrong_kernel_is_found(error, dtype):
    for seed in range(3):
        problem = layer(dtype, seed)
        found = judged(computed(planted(error), *problem), *problem)
        assert found.ratio > 1, (seed, found)


def test_what_is_no_number_or_of_another_shape_is_an_error():
    exact = [torch.ones(3, dtype=torch.float64), torch.ones(2, dtype=torch.float64)]
    plain = [x.float() for x in exact]
    assert judge(plain, [(plain, exact)]).ratio == 0
    for wrong in (torch.tensor([1.0, torch.nan]), torch.tensor([torch.inf, 1.0]), torch.ones(1)):
        assert judge([plain[0], wrong], [(plain, exact)]).ratio == torch.inf
    with pytest.raises(ValueError, match="found has 1 results; there must be 2"):
        judge(plain[:1], [(plain, exact)])


def test_what_is_below_the_smallest_float32_may_count_as_zero():
    """The gradient of pads that all are masked, as in a map of 24 x 24 that is shifted in windows of 7 x 7."""
    drawn = [([torch.full((3,), 7e-42)], [torch.full((3,), 7e-42, dtype=torch.float64)])]
    assert judge([torch.zeros(3)], drawn).ratio < 1
    assert judge([torch.full((3,), 1e-36)], drawn).ratio > 1


def test_draws_are_asked_for_by_who_exceeds_the_first():
    exact = [torch.ones(2, dtype=torch.float64)]
    asked = []

    def drawn(error):
        for number in range(300):
            asked.append(number)
            yield [exact[0] + error * (number > 2)], exact

    assert judge([exact[0].float()], drawn(1.0)).ratio == 0 and len(asked) == 1
    asked.clear()
    assert judge([exact[0] + 1.5], drawn(1.0), exact=None, dtype=torch.float32).ratio < 1 and len(asked) == 4
    asked.clear()
    assert judge([exact[0] + 2.5], drawn(1.0), dtype=torch.float32).ratio > 1 and len(asked) == DRAWS


def test_a_draw_is_the_same_problem_but_for_a_few_units():
    x = torch.tensor([1.0, -2.0, 0.0, torch.inf], requires_grad=True)
    given = {"x": [x], "half": (torch.ones(3).half(),), "rows": torch.arange(3)}
    assert nudged(given, 0) is given
    moved, again = nudged(given, 5), nudged(given, 5)
    assert torch.equal(moved["x"][0], again["x"][0]) and moved["x"][0].requires_grad
    off = (moved["x"][0] / x)[:2] - 1
    assert 0 < off.abs().max() <= 4.5 * EPS and torch.equal(moved["x"][0][2:], x[2:])
    assert 0 < (moved["half"][0] - 1).abs().max() < 5e-3 and torch.equal(moved["rows"], given["rows"])


def test_what_errors_have_in_common_is_their_part_along_the_result():
    exact = torch.tensor([3.0, -4.0], dtype=torch.float64)
    assert common(1e-3 * exact, exact).item() == pytest.approx(1e-3 * rms(exact, exact).item())
    assert common(torch.tensor([4.0, 3.0], dtype=torch.float64), exact) == 0
    assert common(exact * 0, exact * 0) == 0
