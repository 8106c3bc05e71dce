"""The forward pass of window attention: a kernel for windows that are one block, another for larger ones."""

import triton
import triton.language as tl

from ._window_attention import (
    LOG2E,
    exp2,
    load_block,
    load_keys,
    load_rows,
    load_tile,
    places_of,
    products,
    share_of_windows,
    store_rows,
)


@triton.jit
def window_attention_fwd(
    qkv,
    out,
    tiles,
    pad_kv,
    cosine_scale,
    positions,
    shares,
    scale,
    heads,
    channels,
    area,
    stride,
    tile_rows,
    tile_columns,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Attend in all windows of a share, for one head.

    Args:
        qkv: [batch, area, 3 * channels]; out: [batch, area, channels]; float32, float16 or bfloat16.
        tiles: float32 [classes, heads, tile_rows, tile_columns], added to scores. All windows of a share are of one
            class, whose tile stays in registers.
        pad_kv: [2 * channels], the virtual key and value after the tokens, in the dtype of qkv; None: there are none.
        cosine_scale: float32 [heads]; None: scores are dot products times `scale`.
        positions: int32 [windows of an image, stride], the places of their tokens, sorted by class.
        shares: int32 [shares, 8], see `share_of_windows`.

    The grid is heads * shares, heads fastest: slices of one line of memory are read side by side. Scores and sums are
    float32; weights are rounded to the dtype of qkv before they meet the values.
    """
    head, share = tl.program_id(0) % heads, tl.program_id(0) // heads
    klass, first, step, stop, begin, windows, tokens = share_of_windows(shares, share)
    i = tl.arange(0, BLOCK)
    tile = load_tile(tiles, klass * heads + head, tile_rows, tile_columns, i, i, tokens)
    VIRTUAL: tl.constexpr = pad_kv is not None
    COSINE: tl.constexpr = cosine_scale is not None
    factor = LOG2E * (tl.load(cosine_scale + head) if COSINE else scale)
    at = qkv + head * HEAD_DIM
    for item in tl.range(first, stop, step, disable_licm=BLOCK < 64):
        places = places_of(positions, stride, item, begin, windows, i, tokens, area)
        q = load_rows(at, places, 3 * channels, i, tokens, HEAD_DIM, BLOCK_D)
        k, v = load_keys(at, pad_kv, head, channels, places, i, tokens, VIRTUAL, HEAD_DIM, BLOCK_D)
        score = products(q, k, COSINE) * factor + tile
        p = exp2(score - tl.max(score, 1)[:, None])
        o = tl.dot(p.to(v.dtype), v, input_precision="ieee") / tl.sum(p, 1)[:, None]
        store_rows(out + head * HEAD_DIM, o, places, channels, i, tokens, HEAD_DIM, BLOCK_D)


@triton.jit
def window_attention_fwd_blocks(
    qkv,
    out,
    tiles,
    pad_kv,
    cosine_scale,
    positions,
    shares,
    scale,
    heads,
    channels,
    area,
    stride,
    tile_rows,
    tile_columns,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """The same for one of BLOCKS blocks of queries, with sums that are scaled anew at each block of keys.

    The grid is heads * BLOCKS * shares; the blocks of a window follow each other, as they read the same keys.
    """
    head, block = tl.program_id(0) % heads, tl.program_id(0) // heads % BLOCKS
    klass, first, step, stop, begin, windows, tokens = share_of_windows(shares, tl.program_id(0) // heads // BLOCKS)
    i = block * BLOCK + tl.arange(0, BLOCK)
    if block * BLOCK >= tokens:
        stop = first
    VIRTUAL: tl.constexpr = pad_kv is not None
    COSINE: tl.constexpr = cosine_scale is not None
    factor = LOG2E * (tl.load(cosine_scale + head) if COSINE else scale)
    at = qkv + head * HEAD_DIM
    for item in tl.range(first, stop, step, disable_licm=COSINE):
        queries = places_of(positions, stride, item, begin, windows, i, tokens, area)
        q = load_rows(at, queries, 3 * channels, i, tokens, HEAD_DIM, BLOCK_D)
        # not -infinity, from which a row of -infinities could not be told apart
        highest = tl.full([BLOCK], -3e38, tl.float32)
        total, o = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK, BLOCK_D], tl.float32)
        for start in tl.range(0, tokens + VIRTUAL, BLOCK, disable_licm=True):
            j = start + tl.arange(0, BLOCK)
            k, v, tile = load_block(
                at, pad_kv, tiles, klass * heads + head, head, channels, positions, stride, item, begin, windows,
                tokens, area, tile_rows, tile_columns, i, j, VIRTUAL, HEAD_DIM, BLOCK_D,
            )  # fmt: skip
            score = products(q, k, COSINE) * factor + tile
            higher = tl.maximum(highest, tl.max(score, 1))
            shrink, highest = exp2(highest - higher), higher
            p = exp2(score - highest[:, None])
            total = total * shrink + tl.sum(p, 1)
            o = o * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        store_rows(out + head * HEAD_DIM, o / total[:, None], queries, channels, i, tokens, HEAD_DIM, BLOCK_D)
