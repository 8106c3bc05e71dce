"""Softmax of rows over very many prototypes: scores are made, used and forgotten tile by tile."""

import triton
import triton.language as tl

from ._prototype_cross_entropy import GAIN, add_exactly, load_rows, store_rows


@triton.jit
def prototype_cross_entropy_prepare(
    weight, weight_g, prototypes, length, count, WIDTH: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Rows of `weight` [count, WIDTH], scaled to the lengths `weight_g` [count], in another dtype.

    Args:
        prototypes: [count, WIDTH], what is computed in.
        length: float32 [count], of the rows of `weight`.

    The grid is blocks of rows.
    """
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = load_rows(weight, k, count, WIDTH, BLOCK_D).to(tl.float32)
    norm = tl.sqrt_rn(tl.sum(row * row, 1))
    tl.store(length + k, norm, k < count)
    row *= (tl.load(weight_g + k, k < count, 0.0).to(tl.float32) / norm)[:, None]
    store_rows(prototypes, row, k, count, WIDTH, BLOCK_D)


@triton.jit
def prototype_cross_entropy_fwd(
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
    row_blocks,
    tiles_of_split,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One block of rows and one split of the prototypes.

    Args:
        rows: [count, WIDTH]; keys: [prototypes, WIDTH], in one dtype.
        values: as keys, whose means are wanted; None: those of keys.
        bias: float32 [prototypes], added to scores; None: nothing is.
        level: float32 [count], the mean score of each row, or less. Of all weights, what such a score has is taken:
            where all weights are much alike, this leaves more of them when they are rounded.
        means: float32 [splits, count, WIDTH], sums of weighted values; None: none are wanted.
        sums: float32 [splits, 5, count]: the highest score, and what weights are relative to, which is that or the
            level, if it is higher; sums of weights, of ones rounded to 16 bits (times `GAIN`; in float32, nothing), and
            of weights times scores less that.
        best: int32 [splits, count], the first prototype with the highest score.

    The grid is row_blocks * splits, row blocks fastest: those read the same prototypes side by side.
    """
    block, split = tl.program_id(0) % row_blocks, tl.program_id(0) // row_blocks
    r = block * BLOCK_M + tl.arange(0, BLOCK_M)
    x = load_rows(rows, r, count, WIDTH, BLOCK_D)
    HALF: tl.constexpr = keys.dtype.element_ty.primitive_bitwidth == 16
    none, mean_score = tl.zeros([BLOCK_M], tl.float32), tl.load(level + r, r < count, 0.0)
    reached, which = tl.full([BLOCK_M], float("-inf"), tl.float32), tl.zeros([BLOCK_M], tl.int32)
    highest, total, rounded, moment, rest = mean_score, none, none, none, none
    mean = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    first, stop = split * tiles_of_split * BLOCK_N, tl.minimum((split + 1) * tiles_of_split * BLOCK_N, prototypes)
    for start in tl.range(first, stop, BLOCK_N):
        k = start + tl.arange(0, BLOCK_N)
        w = load_rows(keys, k, prototypes, WIDTH, BLOCK_D)
        z = tl.dot(x, tl.trans(w), input_precision="ieee") * scale
        if bias is not None:
            z += tl.load(bias + k, k < prototypes, 0.0)[None, :]
        z = tl.where((k < prototypes)[None, :], z, float("-inf"))
        top, place = tl.max(z, 1, return_indices=True)
        which = tl.where(top > reached, start + place, which)
        reached, higher = tl.maximum(reached, top), tl.maximum(highest, top)
        less, drop = z - higher[:, None], highest - higher
        shrink, p = tl.exp(drop), tl.exp(less)
        moment = shrink * (moment + total * drop) + tl.sum(tl.where(less < -1e30, 0.0, p * less), 1)
        if HALF:
            total = shrink * total + tl.sum(p, 1)
        else:
            total, rest = add_exactly(shrink * total, tl.sum(p, 1), shrink * rest)
        highest = higher
        if means is not None:
            p = tl.where((k < prototypes)[None, :], p - tl.exp(mean_score - higher)[:, None], 0.0)
            if HALF:
                p = (p * GAIN).to(keys.dtype.element_ty)
                rounded = shrink * rounded + tl.sum(p.to(tl.float32), 1)
            v = w
            if values is not None:
                v = load_rows(values, k, prototypes, WIDTH, BLOCK_D)
            mean = mean * shrink[:, None] + tl.dot(p, v, input_precision="ieee")
    to = split.to(tl.int64) * count
    tl.store(best + to + r, which, r < count)
    tl.store(sums + 5 * to + r, reached, r < count)
    tl.store(sums + 5 * to + count + r, highest, r < count)
    tl.store(sums + 5 * to + 2 * count + r, total + rest, r < count)
    tl.store(sums + 5 * to + 3 * count + r, rounded, r < count)
    tl.store(sums + 5 * to + 4 * count + r, moment, r < count)
    if means is not None:
        store_rows(means + to * WIDTH, mean, r, count, WIDTH, BLOCK_D)


@triton.jit
def prototype_cross_entropy_merge(
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
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HALF: tl.constexpr,
):
    """The splits of a block of rows become one, in their order.

    Args:
        means, sums, best, level: as the forward pass has them.
        value_sum: float32 [WIDTH], the sum of all values.
        mean: float32 [count, WIDTH]; None: no means.
        found: float32 [3, count]: logarithm of the sum of exponentials, entropy, and highest score.
        which: int64 [count], the first prototype with the highest score.

    The grid is blocks of rows.
    """
    r, d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, BLOCK_D)
    reached, first = tl.full([BLOCK], float("-inf"), tl.float32), tl.zeros([BLOCK], tl.int32)
    mean_score = tl.load(level + r, r < count, 0.0)
    highest, wide = mean_score, tl.zeros([], tl.int64) + count
    for split in tl.range(splits):
        to = split * wide
        top = tl.load(sums + 5 * to + r, r < count, 0.0)
        first = tl.where(top > reached, tl.load(best + to + r, r < count, 0), first)
        reached = tl.maximum(reached, top)
        highest = tl.maximum(highest, tl.load(sums + 5 * to + count + r, r < count, 0.0))
    total, moment = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    rest, rounded = total, total
    taken = tl.exp(mean_score - highest)
    if HALF:
        taken *= GAIN
        rounded = taken * prototypes
    merged = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    if mean is not None:
        merged += taken[:, None] * tl.load(value_sum + d, d < WIDTH, 0.0)[None, :]
    for split in tl.range(splits):
        to = split * wide
        drop = tl.load(sums + 5 * to + count + r, r < count, 0.0) - highest
        shrink, own = tl.exp(drop), tl.load(sums + 5 * to + 2 * count + r, r < count, 0.0)
        total, rest = add_exactly(total, shrink * own, rest)
        if HALF:
            rounded += shrink * tl.load(sums + 5 * to + 3 * count + r, r < count, 0.0)
        moment += shrink * (tl.load(sums + 5 * to + 4 * count + r, r < count, 0.0) + own * drop)
        if mean is not None:
            merged += shrink[:, None] * load_rows(means + to * WIDTH, r, count, WIDTH, BLOCK_D)
    total = tl.where(r < count, total + rest, 1.0)
    log = tl.log(total)
    tl.store(found + r, highest + log, r < count)
    tl.store(found + count + r, log - moment / total, r < count)
    tl.store(found + 2 * count + r, reached, r < count)
    tl.store(which + r, first.to(tl.int64), r < count)
    if mean is not None:
        # of rounded weights, what was rounded alike
        merged /= (tl.where(r < count, rounded, 1.0) if HALF else total)[:, None]
        store_rows(mean, merged, r, count, WIDTH, BLOCK_D)
