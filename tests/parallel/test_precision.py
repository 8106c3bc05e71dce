"""Precision: what auto becomes on any machine, that a run keeps it, and that whoever asks for a slow one is told."""

import json
from dataclasses import replace

import pytest
import torch
import yaml

from esvit_fast.config import load_config, recipe_names
from esvit_fast.parallel import precision as module
from esvit_fast.parallel.precision import cpu_features, fast_precision, precision_here, settled, slow_precision
from esvit_fast.runs.metrics import read_metrics
from esvit_fast.training import Ranks, Trainer, pretrain, resume

from ..training.runs import CPU, Silent, small


@pytest.mark.parametrize(
    ("device", "capability", "features", "most", "name", "why"),
    [
        ("cuda", (9, 0), (), "", "bf16", "compute capability 9.0"),
        ("cuda", (8, 0), (), "AVX2", "bf16", "compute capability 8.0"),
        ("cuda", (7, 5), ("avx512_bf16",), "", "fp32", "compute capability 7.5 have no bf16"),
        ("cpu", None, ("avx2", "avx512_bf16"), "", "bf16", "this CPU has AVX512_BF16"),
        ("cpu", None, ("amx_bf16", "amx_tile"), "", "bf16", "this CPU has AMX"),
        ("cpu", None, ("neon", "bf16"), "", "bf16", "this CPU has its BF16 instructions"),
        (
            "cpu",
            None,
            ("avx2", "avx512_f", "avx512_vnni", "amx_tile"),
            "",
            "fp32",
            "no instructions that multiply bf16",
        ),
        ("cpu", None, (), "", "fp32", "no instructions that multiply bf16"),
        ("cpu", None, ("avx512_bf16",), "avx2", "fp32", "ONEDNN_MAX_CPU_ISA=avx2 leaves bf16 to slow instructions"),
        ("cpu", None, ("avx512_bf16",), "AVX512_CORE_VNNI", "fp32", "AVX512_CORE_VNNI leaves bf16"),
        ("cpu", None, ("avx512_bf16",), "AVX512_CORE_BF16", "bf16", "AVX512_BF16"),
        ("cpu", None, ("avx512_bf16",), "default", "bf16", "AVX512_BF16"),
    ],
)
def test_what_auto_becomes(device, capability, features, most, name, why):
    found = fast_precision(device, capability, set(features), most)
    assert found.name == name and why in found.why


def test_what_linux_and_torch_say_of_this_cpu_agrees(monkeypatch):
    told = cpu_features() & module._BF16_OF_CPUS.keys()
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert cpu_features() & module._BF16_OF_CPUS.keys() == told


def of(precision: str):
    return small(precision=precision)


@pytest.fixture
def lacks_bf16(monkeypatch):
    monkeypatch.setattr(module, "cpu_features", lambda: {"avx2"})


@pytest.fixture
def has_bf16(monkeypatch):
    monkeypatch.setattr(module, "cpu_features", lambda: {"avx512_bf16"})
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)


def test_a_choice_is_not_touched(lacks_bf16):
    for name in ("fp32", "bf16", "fp16"):
        assert settled(of(name), CPU) == of(name)
    assert settled(of("auto"), CPU) == of("fp32")


def test_one_rank_that_lacks_it_decides_for_all(monkeypatch, has_bf16):
    assert settled(of("auto"), CPU) == of("bf16")
    monkeypatch.setattr(module, "gather", lambda items: [*items, module.Precision("fp32", "")])
    assert settled(of("auto"), CPU) == of("fp32")


def test_recipes_leave_it_to_the_machine():
    assert {load_config(name).train.precision for name in recipe_names()} == {"auto"}


def test_a_run_keeps_what_auto_became(tmp_path, monkeypatch, has_bf16):
    run = tmp_path / "run"
    pretrain(small(precision="auto", epochs=0.5), run, CPU, Silent())
    assert load_config(run / "config.yaml").train.precision == "bf16"
    assert (
        json.loads((run / "environment.json").read_text())["precision"] == "auto is bf16, as this CPU has AVX512_BF16"
    )
    monkeypatch.setattr(module, "cpu_features", set)  # another machine
    resume(run, CPU, Silent())
    pretrain(small(precision="auto", epochs=0.5), run, CPU, Silent(), or_resume=True)
    assert load_config(run / "config.yaml").train.precision == "bf16"
    assert all(record["kind"] != "settings" for record in read_metrics(run / "metrics.jsonl"))
    resume(run, CPU, Silent(), small(precision="auto", epochs=0.5))  # asked for: it is chosen anew
    assert load_config(run / "config.yaml").train.precision == "fp32"
    assert [r["changed"] for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "settings"] == [
        {"train.precision": ["bf16", "fp32"]}
    ]


def test_steps_are_taken_in_it(lacks_bf16):
    trainer = Trainer(of("auto"), 48, CPU)
    assert trainer.config == of("fp32") and trainer.augment.dtype == torch.float32
    assert trainer.state()[1]["config"]["train"]["precision"] == "fp32"


def test_a_slow_choice_is_said(lacks_bf16):
    assert slow_precision(of("bf16"), CPU) == (
        "warning: train.precision=bf16 is slow here: this CPU has no instructions that multiply bf16; "
        "pass --train.precision fp32"
    )
    assert slow_precision(of("fp32"), CPU) == "" and "fp16 is slow" in slow_precision(of("fp16"), CPU)
    assert slow_precision(of("fp16"), Ranks(0, 1, torch.device("cuda"))) == ""


def test_none_is_said_of_a_fast_one(has_bf16):
    assert slow_precision(of("bf16"), CPU) == ""
    assert precision_here(CPU.device).name == "bf16"


def test_auto_in_yaml_is_a_word(tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"train": {"precision": "auto"}}))
    config = load_config(tmp_path / "run.yaml")
    assert config == replace(config, train=replace(config.train, precision="auto"))
