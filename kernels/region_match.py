"""The best of a teacher's regions for each of a student's: similarities are compared block by block and forgotten."""

import triton
import triton.language as tl

from ._window_attention import LIMIT


@triton.jit
def _load(at, i, count, c, channels):
    real = (i < count)[:, None] & (c < channels)[None, :]
    return tl.load(at + i[:, None] * channels + c[None, :], mask=real, other=0.0).to(tl.float32)


@triton.jit
def _length(at, i, count, channels, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr):
    """Lengths of rows i, as torch.nn.functional.normalize divides by them: [BLOCK, 1]."""
    squares = tl.zeros([BLOCK], tl.float32)
    for start in tl.range(0, channels, BLOCK_C):
        row = _load(at, i, count, start + tl.arange(0, BLOCK_C), channels)
        squares += tl.sum(row * row, 1)
    length = tl.sqrt_rn(squares)
    # as a maximum would not, this keeps what is no number
    return tl.where(length < LIMIT, LIMIT, length)[:, None]


@triton.jit
def region_match(
    student,
    teacher,
    index,
    similarity,
    margin,
    views,
    tokens,
    candidates,
    channels,
    blocks,
    ROUNDING: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Match one block of the student's regions of an image with one view of the teacher's.

    Args:
        student: [batch, tokens, channels]; teacher: [batch, views, candidates, channels]; float32, float16 or bfloat16.
        index: int64, similarity, margin: float32 [batch, views, tokens]: the first best, its cosine similarity, and how
            much less that of the second best is.
        ROUNDING: dtype that normalised rows and similarities are rounded to before they are compared; float32: none.

    The grid is batch * views * blocks. Rows are normalised, multiplied and compared in float32. What is no number is
    the largest, the first of them first, as in torch.max.
    """
    block, pair = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    i = block * BLOCK_M + tl.arange(0, BLOCK_M)
    of_student, of_teacher = student + pair // views * tokens * channels, teacher + pair * candidates * channels
    length = _length(of_student, i, tokens, channels, BLOCK_M, BLOCK_C)
    best, second = tl.full([BLOCK_M], float("-inf"), tl.float32), tl.full([BLOCK_M], float("-inf"), tl.float32)
    which = tl.zeros([BLOCK_M], tl.int32)
    for first in tl.range(0, candidates, BLOCK_N):
        j = first + tl.arange(0, BLOCK_N)
        other_length = _length(of_teacher, j, candidates, channels, BLOCK_N, BLOCK_C)
        found = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for start in tl.range(0, channels, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)
            a = (_load(of_student, i, tokens, c, channels) / length).to(ROUNDING)
            b = (_load(of_teacher, j, candidates, c, channels) / other_length).to(ROUNDING)
            found += tl.dot(a.to(tl.float32), tl.trans(b.to(tl.float32)), input_precision="ieee")
        found = found.to(ROUNDING).to(tl.float32)
        found = tl.where(found != found, float("inf"), found)
        found = tl.where((j < candidates)[None, :], found, float("-inf"))
        top, place = tl.max(found, 1, return_indices=True)
        rest = tl.max(tl.where(tl.arange(0, BLOCK_N)[None, :] == place[:, None], float("-inf"), found), 1)
        second = tl.maximum(tl.minimum(best, top), tl.maximum(second, rest))
        which = tl.where(top > best, first + place, which)
        best = tl.maximum(best, top)
    best = tl.where(best == float("inf"), float("nan"), best)
    to = pair * tokens + i
    tl.store(index + to, which.to(tl.int64), i < tokens)
    tl.store(similarity + to, best, i < tokens)
    tl.store(margin + to, best - second, i < tokens)
