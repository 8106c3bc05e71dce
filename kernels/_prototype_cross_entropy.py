"""What the kernels of the loss over prototypes share."""

import triton
import triton.language as tl

GAIN = tl.constexpr(32768.0)
"""What weights are multiplied by before they are rounded to 16 bits, where 1 / 65,536 would be subnormal."""


@triton.jit
def load_rows(at, r, count, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows r of [count, WIDTH], filled up with zeros to BLOCK_D; zeros beyond them."""
    d = tl.arange(0, BLOCK_D)
    real = (r < count)[:, None]
    if WIDTH < BLOCK_D:
        real = real & (d < WIDTH)[None, :]
    return tl.load(at + r.to(tl.int64)[:, None] * WIDTH + d[None, :], mask=real, other=0.0)


@triton.jit
def add_exactly(total, more, rest):
    """total + more, and `rest` with what that loses to rounding: beside a weight near one, many small ones vanish."""
    added = total + more
    part = added - total
    return added, rest + ((total - (added - part)) + (more - part))


@triton.jit
def store_rows(at, rows, r, count, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr):
    """The reverse of `load_rows`."""
    d = tl.arange(0, BLOCK_D)
    real = (r < count)[:, None]
    if WIDTH < BLOCK_D:
        real = real & (d < WIDTH)[None, :]
    tl.store(at + r.to(tl.int64)[:, None] * WIDTH + d[None, :], rows.to(at.dtype.element_ty), mask=real)
