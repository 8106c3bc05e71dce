"""What the kernels of window attention share: where windows lie, what is loaded and stored of them, scores.

In all of them: batch * area rows of a map; i and j number the tokens of a window as queries and as keys; `channels`
are those of the output, of all heads.

Loops have `disable_licm`, and values are taken `anew`, where what would otherwise be kept from one iteration or product
to the next, mostly operands and addresses of shared memory, has no registers left.
"""

import os

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LIMIT = tl.constexpr(1e-12)  # of the norms that divide, as in torch.nn.functional.normalize
SHARE_FIELDS = tl.constexpr(8)
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def share_of_windows(shares, share):
    """A row of the table of shares: class, first item, step and end of items, first window, windows, tokens.

    An item is a window of the class in one image: item = image * windows + window - first window.
    """
    row = shares + share * SHARE_FIELDS
    return (
        tl.load(row),
        tl.load(row + 1),
        tl.load(row + 2),
        tl.load(row + 3),
        tl.load(row + 4),
        tl.load(row + 5),
        tl.load(row + 6),
    )


@triton.jit
def places_of(positions, stride, item, begin, windows, i, tokens, area):
    """Rows of the map in which tokens i of an item lie, int64; the image's first one beyond its tokens."""
    place = tl.load(positions + (begin + item % windows) * stride + i, mask=i < tokens, other=0)
    return (item // windows).to(tl.int64) * area + place


@triton.jit
def load_rows(at, places, row_stride, i, tokens, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """[i, BLOCK_D] of a map from channel `at` on; zeros beyond tokens and head_dim."""
    d = tl.arange(0, BLOCK_D)
    real = (i < tokens)[:, None] & (d < HEAD_DIM)[None, :]
    return tl.load(at + places[:, None] * row_stride + d[None, :], mask=real, other=0.0)


@triton.jit
def store_rows(at, rows, places, row_stride, i, tokens, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """The reverse of `load_rows`."""
    d = tl.arange(0, BLOCK_D)
    real = (i < tokens)[:, None] & (d < HEAD_DIM)[None, :]
    tl.store(at + places[:, None] * row_stride + d[None, :], rows.to(at.dtype.element_ty), mask=real)


@triton.jit
def load_keys(
    at, pad_kv, head, channels, places, j, tokens, VIRTUAL: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Keys and values [j, BLOCK_D]; where VIRTUAL, those of padded positions follow the tokens."""
    k = load_rows(at + channels, places, 3 * channels, j, tokens, HEAD_DIM, BLOCK_D)
    v = load_rows(at + 2 * channels, places, 3 * channels, j, tokens, HEAD_DIM, BLOCK_D)
    if VIRTUAL:
        d = tl.arange(0, BLOCK_D)
        pad, virtual = pad_kv + head * HEAD_DIM + d, (j == tokens)[:, None]
        k = tl.where(virtual, tl.load(pad, mask=d < HEAD_DIM, other=0.0)[None, :], k)
        v = tl.where(virtual, tl.load(pad + channels, mask=d < HEAD_DIM, other=0.0)[None, :], v)
    return k, v


@triton.jit
def load_tile(tiles, number, rows, columns, i, j, tokens):
    """[i, j] of a tile in units of exponents of two: -infinity beyond its columns, zeros beyond the tokens."""
    real = (i < tokens)[:, None] & (j < columns)[None, :]
    at = tiles + number.to(tl.int64) * rows * columns
    tile = tl.load(at + i[:, None] * columns + j[None, :], mask=real, other=float("-inf"))
    return tl.where((i < tokens)[:, None], tile * LOG2E, 0.0)


@triton.jit
def load_block(
    at, pad_kv, tiles, number, head, channels, positions, stride, item, begin, windows, tokens, area, rows, columns,
    i, j, VIRTUAL: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Keys and values j of an item and [i, j] of its tile."""
    places = places_of(positions, stride, item, begin, windows, j, tokens, area)
    k, v = load_keys(at, pad_kv, head, channels, places, j, tokens, VIRTUAL, HEAD_DIM, BLOCK_D)
    return k, v, load_tile(tiles, number, rows, columns, i, j, tokens)


@triton.jit
def exp2(x):
    """Two to the power of x; 0 for what is below the smallest normal number."""
    if INTERPRETED:
        return tl.exp2(x)
    # tl.exp2 guards against subnormal results with three more instructions an element
    return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=r,r", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def anew(x):
    """The same values, of which the compiler does not know it: what it makes of them is not made early and kept."""
    if INTERPRETED:
        return x
    pack: tl.constexpr = 32 // x.dtype.primitive_bitwidth
    return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], x.dtype, is_pure=False, pack=pack)


@triton.jit
def inverse_norms(rows):
    """One over the Euclidean length of each row."""
    wide = rows.to(tl.float32)
    return 1.0 / tl.maximum(tl.sqrt(tl.sum(wide * wide, 1)), LIMIT)


@triton.jit
def products(q, k, COSINE: tl.constexpr):
    """Dot products of queries [i, D] and keys [j, D], or their cosines, float32 [i, j]."""
    product = tl.dot(q, tl.trans(k), input_precision="ieee")
    if COSINE:  # the norms divide products of what was given, as normalised rows would be rounded to 16 bits
        product *= inverse_norms(q)[:, None] * inverse_norms(k)[None, :]
    return product


@triton.jit
def by_norms(ds, rows, AXIS: tl.constexpr, COSINE: tl.constexpr):
    """[i, j] over the lengths of rows, one for each of the other axis than AXIS; as it is without COSINE."""
    if COSINE:  # rather than unit rows, which would take many registers beside the rows themselves
        ds *= tl.expand_dims(inverse_norms(rows), AXIS)
        ds = tl.minimum(tl.maximum(ds, -65504.0), 65504.0)  # times a row of zeros, infinity would not be 0
    return ds


@triton.jit
def query_gradients(ds, k, COSINE: tl.constexpr):
    """The derivative by queries, or by unit queries, float32 [i, D]."""
    ds = by_norms(ds, k, 0, COSINE)
    rounded = ds.to(k.dtype)
    dq = tl.dot(rounded, k, input_precision="ieee")
    if COSINE and k.dtype != tl.float32:  # for that of cosine_scale, a sum in which much cancels
        dq += tl.dot((ds - rounded.to(tl.float32)).to(k.dtype), k, input_precision="ieee")
    return dq


@triton.jit
def unnormalized(drows, rows):
    """From the derivative by unit rows to that by the rows; and the sums of the former times the unit rows."""
    inverse = inverse_norms(rows)
    unit = rows.to(tl.float32) * inverse[:, None]
    along = tl.sum(drows * unit, 1)
    # a row shorter than the limit is multiplied by a constant
    kept = tl.where(inverse * LIMIT < 1.0, along, 0.0)
    return (drows - unit * kept[:, None]) * inverse[:, None], along


@triton.jit
def store_keys(at, rows, places, row_stride, j, tokens, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Store gradients of keys or values, and return that of the virtual one, [D]: zeros where there is none."""
    store_rows(at, rows, places, row_stride, j, tokens, HEAD_DIM, BLOCK_D)
    return tl.sum(tl.where((j == tokens)[:, None], rows, 0.0), 0)


@triton.jit
def store_virtual(dpad_kv, number, head, channels, dpad_k, dpad_v, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """The sums of a program for the virtual key and value, to row `number` of dpad_kv."""
    d = tl.arange(0, BLOCK_D)
    at = dpad_kv + number.to(tl.int64) * 2 * channels + head * HEAD_DIM + d
    tl.store(at, dpad_k, mask=d < HEAD_DIM)
    tl.store(at + channels, dpad_v, mask=d < HEAD_DIM)


@triton.jit
def store_tile(dtiles, number, rows, columns, i, j, dtile):
    """The sums of a program for [i, j] of tile `number` of dtiles."""
    at = dtiles + number.to(tl.int64) * rows * columns + i[:, None] * columns + j[None, :]
    tl.store(at, dtile, mask=(i < rows)[:, None] & (j < columns)[None, :])
