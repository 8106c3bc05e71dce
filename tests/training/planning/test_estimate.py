"""Estimates for GPUs that are not here: operators counted by hand, a roofline written out, and tables that hold."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from esvit_fast.gpus import GPUS, find_gpu
from esvit_fast.training import Ranks
from esvit_fast.training.planning.dry_step import dry_step, peak_of
from esvit_fast.training.planning.estimate import CONTEXT, LAUNCH, MEMORY, PRODUCTS, Work, rate, seconds
from esvit_fast.training.planning.planner import plan_run
from esvit_fast.training.planning.watch import Watch

from ..runs import CPU, small

GPU = Ranks(0, 1, torch.device("cuda"))


def test_the_table_is_plausible_and_names_its_sources():
    for gpu in GPUS.values():
        assert 1 < gpu.half / gpu.single < 40 and 1e11 < gpu.bandwidth < 1e13
        assert 10 < gpu.memory / 1e9 < 300 and "NVIDIA" in gpu.source
    assert GPUS["h100"].half == 989e12 and GPUS["a100"].bandwidth == 2039e9 and GPUS["4090"].memory == 24e9


@pytest.mark.parametrize("name", ["h100", "H100", "NVIDIA H100", "nvidia h100"])
def test_names_are_found_as_people_write_them(name):
    assert find_gpu(name) is GPUS["h100"]
    assert find_gpu("RTX 4090") is find_gpu("GeForce RTX 4090") is GPUS["4090"]
    assert find_gpu("A100-40GB") is GPUS["a100-40gb"]


def test_a_wrong_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"^gpu='h1000' is not in the table; did you mean 'h100'\?$"):
        find_gpu("h1000")
    with pytest.raises(ValueError, match=r"^gpu='quadro' is not in the table; known: b200, h200"):
        find_gpu("quadro")


def test_products_have_the_rate_of_what_they_multiply():
    ada, turing = GPUS["4090"], GPUS["t4"]
    assert rate(ada, "bfloat16", False) == rate(ada, "float16", True) == 165.2e12
    assert rate(ada, "float32", False) == 82.6e12 and rate(GPUS["a100"], "float32", True) == 156e12
    assert rate(turing, "float16", False) == 65e12 and rate(turing, "bfloat16", True) == rate(turing, "float32", True)


def test_a_step_is_the_sum_of_what_limits_each_operator():
    gpu, config = GPUS["h100"], small()
    product, copy = Work("bfloat16", 10**13, 10**6, False, 2), Work("", 0, 10**11, False, 3)
    moved = Work("", 0, 10**10, True, 1)
    products, copies = 2 * 1e13 / (PRODUCTS * 989e12), 3 * 1e11 / (MEMORY * 3350e9)
    update = 1e10 / (MEMORY * 3350e9)
    work = (product, copy, moved)
    assert seconds(work, gpu, config, 1, 1) == pytest.approx(products + copies + update)
    assert seconds(work, gpu, config, 8, 2) == pytest.approx(4 * (products + copies) + update)
    many = (Work("", 0, 8, False, 1000),)
    assert seconds(many, gpu, config, 1, 1) == pytest.approx(1000 * LAUNCH)
    graph = replace(config, train=replace(config.train, cuda_graph=True))
    assert seconds(many, gpu, graph, 1, 1) < LAUNCH


def test_arithmetic_and_bytes_of_operators_are_counted():
    with Watch(False, True) as watch:
        a, b = torch.zeros(4, 8, dtype=torch.bfloat16), torch.zeros(8, 16, dtype=torch.bfloat16)
        watch.begin()
        c = a @ b
        c.view(64).t().detach()  # nothing is moved
        c += 1
        watch.enter("optimizer", "optimizer")
        torch.empty(1000).copy_(torch.ones(1000))
    assert Counter({each[:4]: each.count for each in watch.work()}) == {
        ("bfloat16", 2 * 4 * 8 * 16, 2 * (4 * 8 + 8 * 16 + 4 * 16), False): 1,
        ("", 0, 2 * 2 * 64, False): 1,
        ("", 0, 4000, True): 1,
        ("", 0, 3 * 4000, True): 1,
    }


@pytest.mark.parametrize("images", [1, 3, 8, 50])
@pytest.mark.parametrize("changes", [{}, {"accumulation_steps": 2}, {"precision": "bf16"}], ids=str)
def test_peaks_of_any_size_lie_on_lines_through_two(images, changes):
    config = small(batch_size=16, **changes)
    found = peak_of(images, {count: dry_step(config, count, CPU) for count in (2, 16)})
    assert found == pytest.approx(dry_step(config, images, CPU).peak, abs=1)


@pytest.mark.parametrize("images", [3, 20, 200])
def test_peaks_where_images_are_compared_lie_on_parabolas(images):
    config = small(batch_size=16)
    config = replace(config, method=replace(config.method, koleo_weight=0.5))
    known = {count: dry_step(config, count, CPU) for count in (2, 16, 32)}
    assert peak_of(images, known) == pytest.approx(dry_step(config, images, CPU).peak, abs=1)
    line = peak_of(4000, {count: known[count] for count in (2, 16)})
    assert line < 0.99 * peak_of(4000, known)  # which a line would miss


def test_what_is_no_line_is_not_taken_for_one():
    known = {count: dry_step(small(), count, CPU) for count in (2, 16)}
    other = dry_step(small(accumulation_steps=2), 16, CPU)
    assert peak_of(8, {2: known[2], 16: other}) is None
    assert peak_of(8, {2: known[2], 16: replace(known[16], peak=known[16].peak + 1)}) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="here a step on a GPU is looked at on its own tensors")
def test_a_gpu_keeps_norms_in_float32_and_no_scratch_of_the_cpu():
    config = small(batch_size=64, precision="bf16")
    here, there = dry_step(config, 64, CPU), dry_step(config, 64, GPU)
    assert there.parts["activations"] > 1.1 * here.parts["activations"]
    assert there.flops == here.flops and there.parameters == here.parameters
    full = small(batch_size=64)
    assert dry_step(full, 64, GPU).parts["activations"] == dry_step(full, 64, CPU).parts["activations"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="here a step on a GPU is looked at on its own tensors")
def test_a_plan_for_a_gpu_measures_nothing(monkeypatch):
    monkeypatch.setattr("esvit_fast.training.planning.planner.calibrate", None)
    monkeypatch.setattr("esvit_fast.training.planning.planner.loader_rate", None)
    source, said = range(50), []
    config = small(precision="auto")
    found = plan_run(config, CPU, source, gpu=GPUS["l4"], say=said.append)
    assert found.memory.limit == 24 * 10**9 and found.memory.process == CONTEXT and found.memory.largest > 64
    assert found.step.work and found.time.loader is None and found.time.limit is None
    half = replace(config, train=replace(config.train, precision="bf16"))
    assert found.time.step == seconds(found.step.work, GPUS["l4"], half, 1, 1)
    assert found.time.steps == 12 and found.time.total == pytest.approx(12 * found.time.step)
    assert "bfloat16" in {work.dtype for work in found.step.work}
    assert "bfloat16" not in {work.dtype for work in plan_run(config, CPU, gpu=GPUS["v100"]).step.work}
    assert said == ["counting memory and arithmetic …"]
    assert plan_run(config, CPU, limit=2**20, gpu=GPUS["l4"]).memory.largest == 0  # another limit than the card's
