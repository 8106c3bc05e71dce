"""The backward pass of window attention where windows are several blocks: by queries, then by keys and by tiles.

Each gradient is summed by the one program that stores it. Weights are computed again for each, as there is no room
for those of a whole window; what that needs to know of each query are its statistics, float32 [4, batch, heads, area]:
highest exponent, one over the sum of weights, mean derivative, and what is left of that mean after it is taken away.

Arguments are those of `window_attention_bwd`; grids are heads * BLOCKS * shares, but for tiles with BLOCKS squared.
"""

import triton
import triton.language as tl

from ._window_attention import (
    LOG2E,
    anew,
    by_norms,
    exp2,
    load_block,
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
def statistics_at(statistics, queries, item, windows, heads, head, area):
    """Where the statistics of queries are, given their rows of the map."""
    return statistics + (item // windows).to(tl.int64) * (heads - 1) * area + head * area + queries


@triton.jit
def load_statistics(at, plane, real):
    """Of each query that is real; of others, such that their weights are zero."""
    return (
        tl.load(at, mask=real, other=0.0),
        tl.load(at + plane, mask=real, other=0.0),
        tl.load(at + 2 * plane, mask=real, other=0.0),
        tl.load(at + 3 * plane, mask=real, other=0.0),
    )


@triton.jit
def weights_and_derivatives(product, v, do, factor, tile, highest, inverse, mean, rest):
    """A block's weights and the derivatives of its scores, float32."""
    p = exp2(product * (factor * LOG2E) + tile - highest[:, None]) * inverse[:, None]
    ds = tl.dot(do, tl.trans(v), input_precision="ieee") - mean[:, None]
    return p, (ds - rest[:, None]) * p


@triton.jit
def statistics_of(
    q, do, at, pad_kv, tiles, number, head, channels, positions, stride, item, begin, windows, tokens, area,
    rows, columns, i, factor,
    VIRTUAL: tl.constexpr, COSINE: tl.constexpr, REFINE: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of queries i of an item, over all of its keys."""
    highest = tl.full([BLOCK], -3e38, tl.float32)
    total, mean, rest = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for start in tl.range(0, tokens + VIRTUAL, BLOCK, disable_licm=True):
        j = start + tl.arange(0, BLOCK)
        k, v, tile = load_block(
            at, pad_kv, tiles, number, head, channels, positions, stride, item, begin, windows, tokens, area,
            rows, columns, i, j, VIRTUAL, HEAD_DIM, BLOCK_D,
        )  # fmt: skip
        score = products(q, k, COSINE) * (factor * LOG2E) + tile
        higher = tl.maximum(highest, tl.max(score, 1))
        shrink, highest = exp2(highest - higher), higher
        p = exp2(score - highest[:, None])
        total = total * shrink + tl.sum(p, 1)
        mean = mean * shrink + tl.sum(p * tl.dot(do, tl.trans(v), input_precision="ieee"), 1)
    inverse = 1.0 / total
    mean *= inverse
    if REFINE:
        none = rest
        for start in tl.range(0, tokens + VIRTUAL, BLOCK, disable_licm=True):
            j = start + tl.arange(0, BLOCK)
            k, v, tile = load_block(
                at, pad_kv, tiles, number, head, channels, positions, stride, item, begin, windows, tokens, area,
                rows, columns, i, j, VIRTUAL, HEAD_DIM, BLOCK_D,
            )  # fmt: skip
            product = products(q, k, COSINE)
            _, ds = weights_and_derivatives(product, v, do, factor, tile, highest, inverse, mean, none)
            rest += tl.sum(ds, 1)
    return highest, inverse, mean, rest


@triton.jit
def window_attention_bwd_queries(
    grad,
    qkv,
    dqkv,
    tiles,
    pad_kv,
    cosine_scale,
    dcosine_scale,
    statistics,
    positions,
    shares,
    plane,
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
    REFINE: tl.constexpr,
):
    """Statistics, and gradients of queries; dcosine_scale is float32 [shares, BLOCKS, heads]."""
    head, block = tl.program_id(0) % heads, tl.program_id(0) // heads % BLOCKS
    share = tl.program_id(0) // heads // BLOCKS
    klass, first, step, stop, begin, windows, tokens = share_of_windows(shares, share)
    i = block * BLOCK + tl.arange(0, BLOCK)
    if block * BLOCK >= tokens:
        stop = first
    VIRTUAL: tl.constexpr = pad_kv is not None
    COSINE: tl.constexpr = cosine_scale is not None
    WIDE: tl.constexpr = qkv.dtype.element_ty == tl.float32
    factor = tl.load(cosine_scale + head) if COSINE else scale
    at = qkv + head * HEAD_DIM
    number = klass * heads + head
    dcosine = tl.zeros([BLOCK], tl.float32)
    for item in tl.range(first, stop, step, disable_licm=True):
        queries = places_of(positions, stride, item, begin, windows, i, tokens, area)
        q = load_rows(at, queries, 3 * channels, i, tokens, HEAD_DIM, BLOCK_D)
        do = load_rows(grad + head * HEAD_DIM, queries, channels, i, tokens, HEAD_DIM, BLOCK_D)
        highest, inverse, mean, rest = statistics_of(
            q, do, at, pad_kv, tiles, number, head, channels, positions, stride, item, begin, windows, tokens, area,
            tile_rows, tile_columns, i, factor, VIRTUAL, COSINE, REFINE, HEAD_DIM, BLOCK_D, BLOCK,
        )  # fmt: skip
        dq = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        for start in tl.range(0, tokens + VIRTUAL, BLOCK, disable_licm=True):
            j = start + tl.arange(0, BLOCK)
            k, v, tile = load_block(
                at, pad_kv, tiles, number, head, channels, positions, stride, item, begin, windows, tokens, area,
                tile_rows, tile_columns, i, j, VIRTUAL, HEAD_DIM, BLOCK_D,
            )  # fmt: skip
            product = products(q, k, COSINE)
            _, ds = weights_and_derivatives(product, v, do, factor, tile, highest, inverse, mean, rest)
            if COSINE and not WIDE:
                k = anew(k)
            dq += query_gradients(ds, k, COSINE)
            if COSINE and WIDE:
                dcosine += tl.sum(ds * product, 1)
        if COSINE:
            dq, along = unnormalized(dq, q)
            if not WIDE:
                dcosine += along
        store_rows(dqkv + head * HEAD_DIM, dq * factor, queries, 3 * channels, i, tokens, HEAD_DIM, BLOCK_D)
        statistic = statistics_at(statistics, queries, item, windows, heads, head, area)
        tl.store(statistic, highest, mask=i < tokens)
        tl.store(statistic + plane, inverse, mask=i < tokens)
        tl.store(statistic + 2 * plane, mean, mask=i < tokens)
        tl.store(statistic + 3 * plane, rest, mask=i < tokens)
    if COSINE:
        tl.store(dcosine_scale + (share * BLOCKS + block) * heads + head, tl.sum(dcosine, 0))


@triton.jit
def window_attention_bwd_keys(
    grad,
    qkv,
    dqkv,
    tiles,
    pad_kv,
    dpad_kv,
    cosine_scale,
    statistics,
    positions,
    shares,
    plane,
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
    """Gradients of keys and values; dpad_kv is float32 [shares, BLOCKS, 2 * channels]."""
    head, block = tl.program_id(0) % heads, tl.program_id(0) // heads % BLOCKS
    share = tl.program_id(0) // heads // BLOCKS
    klass, first, step, stop, begin, windows, tokens = share_of_windows(shares, share)
    VIRTUAL: tl.constexpr = pad_kv is not None
    COSINE: tl.constexpr = cosine_scale is not None
    WIDE: tl.constexpr = qkv.dtype.element_ty == tl.float32
    j = block * BLOCK + tl.arange(0, BLOCK)
    if block * BLOCK >= tokens + VIRTUAL:
        stop = first
    factor = tl.load(cosine_scale + head) if COSINE else scale
    at, to = qkv + head * HEAD_DIM, dqkv + head * HEAD_DIM
    dpad_k, dpad_v = tl.zeros([BLOCK_D], tl.float32), tl.zeros([BLOCK_D], tl.float32)
    for item in tl.range(first, stop, step, disable_licm=True):
        keys = places_of(positions, stride, item, begin, windows, j, tokens, area)
        k, v = load_keys(at, pad_kv, head, channels, keys, j, tokens, VIRTUAL, HEAD_DIM, BLOCK_D)
        dk, dv = tl.zeros([BLOCK, BLOCK_D], tl.float32), tl.zeros([BLOCK, BLOCK_D], tl.float32)
        for start in tl.range(0, tokens, BLOCK, disable_licm=True):
            i = start + tl.arange(0, BLOCK)
            queries = places_of(positions, stride, item, begin, windows, i, tokens, area)
            q = load_rows(at, queries, 3 * channels, i, tokens, HEAD_DIM, BLOCK_D)
            do = load_rows(grad + head * HEAD_DIM, queries, channels, i, tokens, HEAD_DIM, BLOCK_D)
            statistic = statistics_at(statistics, queries, item, windows, heads, head, area)
            highest, inverse, mean, rest = load_statistics(statistic, plane, i < tokens)
            tile = load_tile(tiles, klass * heads + head, tile_rows, tile_columns, i, j, tokens)
            product = products(q, k, COSINE)
            p, ds = weights_and_derivatives(product, v, do, factor, tile, highest, inverse, mean, rest)
            dv += tl.dot(tl.trans(p.to(q.dtype)), do, input_precision="ieee")
            if COSINE and not WIDE:
                q = anew(q)
            dk += tl.dot(tl.trans(by_norms(ds, q, 1, COSINE).to(q.dtype)), q, input_precision="ieee")
        more_v = store_keys(to + 2 * channels, dv, keys, 3 * channels, j, tokens, HEAD_DIM, BLOCK_D)
        if COSINE:
            dk, _ = unnormalized(dk, k)
        more_k = store_keys(to + channels, dk * factor, keys, 3 * channels, j, tokens, HEAD_DIM, BLOCK_D)
        if VIRTUAL:
            dpad_k += more_k
            dpad_v += more_v
    if VIRTUAL:
        store_virtual(dpad_kv, share * BLOCKS + block, head, channels, dpad_k, dpad_v, HEAD_DIM, BLOCK_D)


@triton.jit
def window_attention_bwd_tiles(
    grad,
    qkv,
    tiles,
    dtiles,
    pad_kv,
    cosine_scale,
    statistics,
    positions,
    shares,
    plane,
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
    """Gradients of tiles, a block of each program's own in its registers."""
    head, share = tl.program_id(0) % heads, tl.program_id(0) // heads // (BLOCKS * BLOCKS)
    row, column = tl.program_id(0) // heads // BLOCKS % BLOCKS, tl.program_id(0) // heads % BLOCKS
    klass, first, step, stop, begin, windows, tokens = share_of_windows(shares, share)
    VIRTUAL: tl.constexpr = pad_kv is not None
    COSINE: tl.constexpr = cosine_scale is not None
    i, j = row * BLOCK + tl.arange(0, BLOCK), column * BLOCK + tl.arange(0, BLOCK)
    if (row * BLOCK >= tokens) | (column * BLOCK >= tokens + VIRTUAL):
        stop = first
    factor = tl.load(cosine_scale + head) if COSINE else scale
    at = qkv + head * HEAD_DIM
    number = klass * heads + head
    KEEP: tl.constexpr = not COSINE or qkv.dtype.element_ty == tl.float32  # the tile in registers
    if KEEP:
        tile = load_tile(tiles, number, tile_rows, tile_columns, i, j, tokens)
    dtile = tl.zeros([BLOCK, BLOCK], tl.float32)
    for item in tl.range(first, stop, step, disable_licm=True):
        queries = places_of(positions, stride, item, begin, windows, i, tokens, area)
        keys = places_of(positions, stride, item, begin, windows, j, tokens, area)
        q = load_rows(at, queries, 3 * channels, i, tokens, HEAD_DIM, BLOCK_D)
        do = load_rows(grad + head * HEAD_DIM, queries, channels, i, tokens, HEAD_DIM, BLOCK_D)
        k, v = load_keys(at, pad_kv, head, channels, keys, j, tokens, VIRTUAL, HEAD_DIM, BLOCK_D)
        statistic = statistics_at(statistics, queries, item, windows, heads, head, area)
        highest, inverse, mean, rest = load_statistics(statistic, plane, i < tokens)
        if not KEEP:
            tile = load_tile(tiles, number, tile_rows, tile_columns, anew(i), j, tokens)
        product = products(q, k, COSINE)
        _, ds = weights_and_derivatives(product, v, do, factor, tile, highest, inverse, mean, rest)
        dtile += ds
    store_tile(dtiles, share * heads + head, tile_rows, tile_columns, i, j, dtile)
