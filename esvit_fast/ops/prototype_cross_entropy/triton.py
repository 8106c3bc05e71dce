"""The cross-entropy over prototypes in Triton: no logits, sums in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .._core.plan import Facts, capability_of
from .._core.prototypes import Found, Problem, Pull, cross_entropy
from .._core.triton import constants, refuse_device


def refuse(facts: Facts) -> str | None:
    """Why the kernels cannot run, or None."""
    reason = refuse_device(facts)
    if reason is not None or "student" not in facts.shapes:
        return reason
    from ...kernels._tables import LARGEST_WIDTH

    width = facts.shapes["student"][1]
    return None if width <= LARGEST_WIDTH else f"D={width} is more than {LARGEST_WIDTH}"


def configure(facts: Facts) -> Mapping[str, int]:
    """The launch configuration, for facts that are not refused; nothing where shapes are not known."""
    from ...kernels import _tables

    if "student" not in facts.shapes:
        return {}
    itemsize, (count, width) = _computed(facts.dtype).itemsize, facts.shapes["student_weight"]
    return _tables.prototype_cross_entropy(itemsize, width, count, facts.capability)


def _computed(dtype: torch.dtype) -> torch.dtype:
    """What tensor cores are given: rows of about unit length have more use for bits of fraction than of exponent."""
    exact = dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    return torch.float32 if exact else torch.float16


def forward(student, *args, **options) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, statistics and gradients; arguments as `esvit_fast.ops.prototype_cross_entropy`."""
    dtype = _computed(student.dtype)

    def passes(given: Problem, pull: Pull | None) -> Found:
        return _passes(given, pull, dtype)

    with torch.cuda.device_of(student):
        # of rows that are rounded, everything is rounded alike: what cancels, does
        return cross_entropy(passes, student.to(dtype).to(torch.float32), *args, **options)


def _passes(given: Problem, pull: Pull | None, dtype: torch.dtype) -> Found:
    from ...kernels import _tables
    from ...kernels._prototype_cross_entropy import GAIN
    from ...kernels.prototype_cross_entropy_bwd import prototype_cross_entropy_bwd

    count, width = given.weight.shape
    config = _tables.prototype_cross_entropy(dtype.itemsize, width, count, capability_of(given.student.device))
    prototypes, length = _prepare(given.weight, given.weight_g, dtype, config)
    teacher_prototypes, _ = _prepare(given.teacher_weight, given.teacher_weight_g, dtype, config)
    student, teacher = given.student.to(dtype), given.teacher.to(dtype)
    scales = 1 / given.student_temp, 1 / given.teacher_temp
    bias = given.center / -given.teacher_temp
    keys, total = (x.sum(0, dtype=torch.float32) for x in (teacher_prototypes, prototypes))
    (teacher_log_total, entropy, most), best, target = _assign(
        teacher, teacher_prototypes, keys, prototypes, total, bias, scales[1], config
    )
    total_of_means = total if given.needs[0] else None
    (log_total, _, _), _, mean = _assign(student, prototypes, total, None, total_of_means, None, scales[0], config)

    usage, dweight, dg, factor, outer, shares = bias.new_empty(count), None, None, None, None, (None, None)
    if pull is not None:
        dweight, dg = torch.empty_like(given.weight), None if length is None else bias.new_empty(count)
        # of what is paired with one row alone, the mean is that row: rounded alike, the two cancel where they must
        outer = (pull.pulled / pull.teacher_share.clamp_min(1e-30)[:, None]).to(dtype)
        largest = torch.maximum(pull.share.abs().amax(), pull.teacher_share.amax()).clamp_min(1e-30)
        shares = pull.share / largest, pull.teacher_share / -largest
        # what rounding to 16 bits was spared is taken back
        factor = (largest / given.student_temp / (1 if dtype == torch.float32 else GAIN.value)).view(1)
    prototype_cross_entropy_bwd[(-(-count // config["block_k"]),)](
        student,
        prototypes,
        shares[0],
        log_total,
        teacher,
        teacher_prototypes,
        outer,
        shares[1],
        teacher_log_total,
        bias,
        factor,
        given.weight,
        None if length is None else given.weight_g.flatten(),
        length,
        dweight,
        dg,
        usage,
        *scales,
        1 / count,
        len(student),
        len(teacher),
        count,
        WIDTH=width,
        BLOCK_K=config["block_k"],
        BLOCK_M=config["block_r"],
        BLOCK_D=config["block_d"],
        num_warps=config["num_warps_backward"],
        num_stages=config["num_stages"],
    )
    return Found(log_total, mean, teacher_log_total, target, entropy, most, best, usage, dweight, dg)


def _prepare(weight: Tensor, weight_g: Tensor | None, dtype: torch.dtype, config) -> tuple[Tensor, Tensor | None]:
    """Prototypes in the dtype that is computed in, and the lengths of their directions."""
    from ...kernels._tables import PROTOTYPE_ROWS
    from ...kernels.prototype_cross_entropy_fwd import prototype_cross_entropy_prepare

    if weight_g is None:
        return weight.to(dtype), None
    count, width = weight.shape
    prototypes, length = weight.new_empty(weight.shape, dtype=dtype), weight.new_empty(count)
    prototype_cross_entropy_prepare[(-(-count // PROTOTYPE_ROWS["block"]),)](
        weight,
        weight_g.flatten(),
        prototypes,
        length,
        count,
        WIDTH=width,
        BLOCK_D=config["block_d"],
        **constants(PROTOTYPE_ROWS),
    )
    return prototypes, length


def _assign(rows, keys, key_sum, values, value_sum, bias, scale, config) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log of the sum, entropy and highest score of each row; the prototype that has it; the mean of values, whose sum
    over all prototypes is given if it is wanted, and which are the keys where they are None."""
    from ...kernels._tables import PROTOTYPE_ROWS
    from ...kernels.prototype_cross_entropy_fwd import prototype_cross_entropy_fwd, prototype_cross_entropy_merge

    (count, width), prototypes, splits, wanted = rows.shape, len(keys), config["splits"], value_sum is not None

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return rows.new_empty(shape, dtype=dtype)

    # scores are linear in the prototypes: their mean is the score of the mean. Not as a product with a matrix, whose
    # bits may depend on how many rows there are
    level = (rows * (key_sum * (scale / prototypes))).sum(-1)
    if bias is not None:
        level = level + bias.mean()
    level = level.clamp_min(-3e38)
    means = new(splits, count, width) if wanted else None
    sums, best = new(splits, 5, count), new(splits, count, dtype=torch.int32)
    blocks = -(-count // config["block_m"])
    fixed = {"WIDTH": width, "BLOCK_D": config["block_d"]}
    prototype_cross_entropy_fwd[(blocks * splits,)](
        rows,
        keys,
        values,
        bias,
        level,
        means,
        sums,
        best,
        scale,
        count,
        prototypes,
        blocks,
        config["tiles_of_split"],
        BLOCK_M=config["block_m"],
        BLOCK_N=config["block_n"],
        **fixed,
        num_warps=config["num_warps"],
        num_stages=config["num_stages"],
    )
    mean, found, which = new(count, width) if wanted else None, new(3, count), new(count, dtype=torch.int64)
    prototype_cross_entropy_merge[(-(-count // PROTOTYPE_ROWS["block"]),)](
        means,
        sums,
        best,
        level,
        value_sum,
        mean,
        found,
        which,
        count,
        prototypes,
        splits,
        HALF=rows.dtype != torch.float32,
        **fixed,
        **constants(PROTOTYPE_ROWS),
    )
    return found, which, mean
