"""Which settings a run may have changed when it goes on."""

from __future__ import annotations

import re

FREE = re.compile(
    r"eval\..*|data\.(source|workers|decode|max_corrupt_share)|model\.checkpoint_stages|"
    r"train\.(device|accumulation_steps|micro_batch_size|shard|compile|cuda_graph)|"
    r"train\.(checkpoint_every_steps|keep_checkpoints|log_every_steps|loggers|stop_on_collapse)"
)
"""Settings that may change when a run goes on: they say where and how the same is computed, and what is written."""
CURES = re.compile(
    r"train\.(epochs|precision|matmul|(min_)?learning_rate|warmup_epochs|weight_decay(_end)?|clip_grad|clip_by)|"
    r"method\.((view|region)_weight|student_temp|teacher_temp.*|teacher_momentum|centering|center_momentum|koleo_weight|"
    r"match_dtype)"
)
"""Settings that make another run of it, from here on, and that whoever resumes a run may change on purpose: what its
checkpoint holds fits all of them, but for a task that begins or ends: one of weight 0 has no head."""


def may_change(name: str) -> bool:
    """Whether whoever resumes a run may give a setting, by its dotted name."""
    return bool(FREE.fullmatch(name) or CURES.fullmatch(name))


def cures(name: str, old: str, new: str) -> bool:
    """Whether a run may be cured by this change of a setting, of values as they are written."""
    begins_or_ends = name in ("method.view_weight", "method.region_weight") and 0 in (float(old), float(new))
    return bool(CURES.fullmatch(name)) and not begins_or_ends
