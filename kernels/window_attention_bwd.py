"""The backward pass of window attention where windows are one block; see window_attention_bwd_blocks for others."""

import triton
import triton.language as tl

from ._window_attention import (
    LOG2E,
    anew,
    by_norms,
    exp2,
    load_keys,
    load_rows,
    load_tile,
    places_of,
    products,
    query_gradients,
    share_of_windows,
    store_keys,
    store_rows,
    store_tile,
    store_virtual,
    unnormalized,
)


@triton.jit
def window_attention_bwd(
    grad,
    qkv,
    dqkv,
    tiles,
    dtiles,
    pad_kv,
    dpad_kv,
    cosine_scale,
    dcosine_scale,
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
    REFINE: tl.constexpr,
):
    """All gradients from the windows of a share, for one head.

    Arguments and grid are those of `window_attention_fwd`, and:
        grad: like out; dqkv: like qkv.
        dtiles: float32 [shares, heads, tile_rows, tile_columns]: sums over the windows of a share.
        dpad_kv: float32 [shares, 2 * channels], likewise; None without pad_kv.
        dcosine_scale: float32 [shares, heads], likewise; None without cosine_scale.
        REFINE: take the mean of a row's derivatives away twice, which leaves less rounding where one key has most of
            the weight, as the virtual one may.

    Weights are computed again. They and the scores' derivatives are rounded to the dtype of qkv for products only.
    """
    head, share = tl.program_id(0) % heads, tl.program_id(0) // heads
    klass, first, step, stop, begin, windows, tokens = share_of_windows(shares, share)
    i = tl.arange(0, BLOCK)
    number = klass * heads + head
    VIRTUAL: tl.constexpr = pad_kv is not None
    COSINE: tl.constexpr = cosine_scale is not None
    WIDE: tl.constexpr = qkv.dtype.element_ty == tl.float32  # float32 has registers for products
    KEEP: tl.constexpr = not COSINE and (WIDE or HEAD_DIM <= 32)  # the tile, and rows as operands, in registers
    if KEEP:
        tile = load_tile(tiles, number, tile_rows, tile_columns, i, i, tokens)
    factor = tl.load(cosine_scale + head) if COSINE else scale
    at, to = qkv + head * HEAD_DIM, dqkv + head * HEAD_DIM
    dtile = tl.zeros([BLOCK, BLOCK], tl.float32)
    dpad_k, dpad_v = tl.zeros([BLOCK_D], tl.float32), tl.zeros([BLOCK_D], tl.float32)
    dcosine = tl.zeros([BLOCK], tl.float32)
    for item in tl.range(first, stop, step, disable_licm=True):
        places = places_of(positions, stride, item, begin, windows, i, tokens, area)
        q = load_rows(at, places, 3 * channels, i, tokens, HEAD_DIM, BLOCK_D)
        k, v = load_keys(at, pad_kv, head, channels, places, i, tokens, VIRTUAL, HEAD_DIM, BLOCK_D)
        do = load_rows(grad + head * HEAD_DIM, places, channels, i, tokens, HEAD_DIM, BLOCK_D)
        product = products(q, k, COSINE)
        if not KEEP:
            tile = load_tile(tiles, number, tile_rows, tile_columns, i, anew(i), tokens)
        score = product * (factor * LOG2E) + tile
        p = exp2(score - tl.max(score, 1)[:, None])
        p *= (1.0 / tl.sum(p, 1))[:, None]
        if not KEEP and not WIDE:
            q, k, v, do = anew(q), anew(k), anew(v), anew(do)
        dv = tl.dot(tl.trans(p.to(q.dtype)), do, input_precision="ieee")
        more_v = store_keys(to + 2 * channels, dv, places, 3 * channels, i, tokens, HEAD_DIM, BLOCK_D)
        ds = tl.dot(do, tl.trans(v), input_precision="ieee")
        ds -= tl.sum(p * ds, 1)[:, None]
        if REFINE:
            ds -= tl.sum(p * ds, 1)[:, None]
        ds *= p
        dtile += ds
        if not KEEP and not WIDE:
            q, k = anew(q), anew(k)
        dk = tl.dot(tl.trans(by_norms(ds, q, 1, COSINE).to(q.dtype)), q, input_precision="ieee")
        if COSINE:
            dk, _ = unnormalized(dk, k)
        more_k = store_keys(to + channels, dk * factor, places, 3 * channels, i, tokens, HEAD_DIM, BLOCK_D)
        dq = query_gradients(ds, k, COSINE)
        if COSINE:
            if not WIDE:
                q = anew(q)
            dq, along = unnormalized(dq, q)
            dcosine += tl.sum(ds * product, 1) if WIDE else along
        store_rows(to, dq * factor, places, 3 * channels, i, tokens, HEAD_DIM, BLOCK_D)
        if VIRTUAL:
            dpad_k += more_k
            dpad_v += more_v
    store_tile(dtiles, share * heads + head, tile_rows, tile_columns, i, i, dtile)
    if COSINE:
        tl.store(dcosine_scale + share * heads + head, tl.sum(dcosine, 0))
    if VIRTUAL:
        store_virtual(dpad_kv, share, head, channels, dpad_k, dpad_v, HEAD_DIM, BLOCK_D)
