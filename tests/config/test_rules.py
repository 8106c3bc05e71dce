"""Rules beside a field: ranges with their sentences, and what may change when a run goes on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Annotated

import pytest

from esvit_fast.config import Config, leaves, settings
from esvit_fast.config.rules import Cure, Free, Range, Rising

FREE = re.compile(
    r"eval\..*|data\.(source|workers|decode|max_corrupt_share)|model\.checkpoint_stages|"
    r"train\.(device|accumulation_steps|micro_batch_size|shard|compile|cuda_graph)|"
    r"train\.(checkpoint_every_steps|keep_checkpoints|log_every_steps|loggers|stop_on_collapse)"
)
CURES = re.compile(
    r"train\.(epochs|precision|matmul|(min_)?learning_rate|warmup_epochs|weight_decay(_end)?|clip_grad|clip_by)|"
    r"method\.((view|region)_weight|student_temp|teacher_temp.*|teacher_momentum|centering|center_momentum|koleo_weight|"
    r"match_dtype)"
)
TASKS = ("method.view_weight", "method.region_weight")


@pytest.mark.parametrize("setting", list(leaves(Config())), ids=lambda setting: setting.name)
def test_what_may_change_is_what_version_0_1_let_change(setting):
    name, another = setting.name, object()
    assert setting.is_free() == bool(FREE.fullmatch(name))
    assert setting.is_cured_by(another) == bool(CURES.fullmatch(name))
    assert setting.may_change() == bool(FREE.fullmatch(name) or CURES.fullmatch(name))
    may_end = bool(CURES.fullmatch(name)) and name not in TASKS
    assert setting.is_cured_by(0.0) == may_end
    assert setting._replace(value=0).is_cured_by(0.5) == may_end


@pytest.mark.parametrize(
    ("rule", "said", "inside", "outside"),
    [
        (Range(above=0), "must be greater than 0", [1e-9, 5, (1, 2)], [0, -1, (1, 0), float("nan")]),
        (Range(least=0), "must not be negative", [0, 3, ()], [-1e-9, (1, -1)]),
        (Range(least=-1), "must be at least -1", [-1, 8], [-2]),
        (Range(least=0, most=0.5), "must lie between 0 and 0.5", [0, 0.5, (0.1, 0.5)], [-0.1, 0.51, (0.1, 0.6)]),
        (Range(least=0, most=2**64 - 1), "must lie between 0 and 2**64 - 1", [2**64 - 1], [2**64]),
        (Range(above=0, most=1), "must be greater than 0 and at most 1", [0.5, 1], [0, 1.1]),
        (Rising(), "must rise above 0", [(0.1, 2), (2, 2)], [(0, 1), (2, 1)]),
        (Rising(most=1), "must rise within (0, 1]", [(0.1, 1)], [(0.1, 1.5), (0, 1), (0.5, 0.4)]),
    ],
    ids=str,
)
def test_a_range_says_what_it_takes(rule, said, inside, outside):
    assert str(rule) == said
    assert all(rule.holds(value) for value in inside) and not any(rule.holds(value) for value in outside)


@dataclass(frozen=True)
class _Base:
    temperature: Annotated[float, Range(above=0), Cure()] = 0.1


@dataclass(frozen=True)
class _Part(_Base):
    """Settings of somebody else's."""

    size: Annotated[int | None, Range(least=2)] = None
    where: Annotated[str, Free()] = "here"


@dataclass(frozen=True)
class _Whole:
    part: _Part | None = field(default_factory=_Part)
    count: int = 3


def test_rules_are_found_in_whatever_dataclass_stands_there():
    whole = _Whole()
    assert list(settings(whole)) == [
        ("part.temperature", 0.1),
        ("part.size", None),
        ("part.where", "here"),
        ("count", 3),
    ]
    temperature, size, where, count = leaves(whole)
    assert [s.hint for s in (temperature, size, where, count)] == [float, int | None, str, int]
    assert [s.section for s in (temperature, count)] == [_Part, _Whole]
    assert temperature.is_cured_by(0.2) and where.is_free() and not (size.may_change() or count.may_change())
    assert [s.why_wrong() for s in leaves(whole)] == [None] * 4, "nothing is asked of what is not given"
    wrong = replace(whole, part=_Part(temperature=0, size=1))
    assert [s.why_wrong() for s in leaves(wrong)][:2] == ["must be greater than 0", "must be at least 2"]
    assert list(settings(_Whole(part=None))) == [("part", None), ("count", 3)]
