"""Launch configurations, as data: no torch, no triton, no tuning at run time.

They were chosen from the registers, spills and instructions of offline compilation (benchmarks/manifest), not from
times, but for what is in `TUNED`.
"""

TUNED: dict[int, dict[str, dict[str, int]]] = {}
"""By architecture and problem, what was measured to be faster than what is chosen below, which it takes the place of.
`python -m benchmarks.compiled.tune write DIR` writes it from measurements; it is empty while there are none."""

PROGRAMS = {80: 4 * 108, 90: 4 * 132, 100: 4 * 148}
"""Programs that a launch aims at, by architecture: four for each processor of an A100, H100 and B200."""

SIDES = (16, 32, 64)
"""Windows of up to so many queries and keys are one block of that side; larger ones have several of the last."""
LARGEST_WINDOW = 256
LARGEST_HEAD = 64

WARPS = {"half": {16: 1, 32: 2, 64: 4}, "float": {16: 2, 32: 4, 64: 8}, "float, wide": {16: 2, 32: 8, 64: 16}}
"""By precision and side of a block. Products of float32 use no tensor cores, but many registers, and those of heads
of more than 32 channels twice as many."""
WARPS_BACKWARD = {
    80: {"half": 4, "half, more": 4, "float": 16, "float, more": 16},
    90: {"half": 4, "half, more": 8, "float": 8, "float, more": 16},
    100: {"half": 8, "half, more": 8, "float": 8, "float, more": 16},
}
"""The backward pass of windows that are one block of 64, by architecture; more: of cosines, or of heads of more than
32 channels. On 80, eight warps of half precision would compute everything twice."""
STAGES = 1
"""More would keep the rows of the next window in shared memory; they come through registers as they are gathered."""


def architecture(capability: tuple[int, int] | None) -> int:
    """The newest architecture with a table that is not newer than `capability`; without a GPU, that of the H100."""
    if capability is None:
        return 90
    return max(number for number in PROGRAMS if number <= max(80, 10 * capability[0] + capability[1]))


def window_attention(
    capability: tuple[int, int] | None, itemsize: int, tokens: int, keys: int, head_dim: int, cosine: bool = False
) -> dict[str, int]:
    """Launch configuration for windows of at most so many tokens, and keys with the virtual one."""
    precision = "half" if itemsize == 2 else "float" if head_dim <= 32 else "float, wide"
    backward = ("half" if itemsize == 2 else "float") + (", more" if cosine or head_dim > 32 else "")
    most, arch = max(tokens, keys), architecture(capability)
    side = next((side for side in SIDES if side >= most), SIDES[-1])
    blocks = -(-most // side)
    warps, width = WARPS[precision][side], max(16, 1 << (head_dim - 1).bit_length())
    chosen = {
        "block": side,
        "blocks": blocks,
        "block_d": width,
        "programs": PROGRAMS[arch],
        "num_stages": STAGES,
        "num_warps": warps,
        "num_warps_backward": WARPS_BACKWARD[arch][backward] if (side, blocks) == (64, 1) else warps,
    }
    name = f"window_attention {backward.split(',')[0]}, {blocks} x {side}, heads of {width}" + ", cosine" * cosine
    return chosen | TUNED.get(arch, {}).get(name, {})


MULTICROP_AUGMENT = {"block": 1024, "num_warps": 4, "block_blur": 1024, "num_warps_blur": 4, "values": 1 << 24}
"""Launch configuration for augmentation: pixels at a time, all channels of them or, in the blur, one; and values that
are held at a time, twice, between the launches."""

REGION_MATCH = {"block_m": 64, "block_n": 32, "block_c": 32, "num_warps": 16, "num_stages": 1}
"""Launch configuration for matching regions: blocks of both sides' regions, and channels at a time."""

SOFT_CROSS_ENTROPY = {"block": 4096, "num_warps": 16}
"""Launch configuration for given logits: few rows at a time, as each is read twice."""
SOFT_CROSS_ENTROPY_USAGE = {"block": 128, "num_warps": 4}

LARGEST_WIDTH = 512
SPLITS = 8
"""Into how many parts prototypes are divided, where there are 1,024 for each: a few rows then keep a GPU busy."""
BLOCKS = {
    "half": {256: (64, 32, 8, 64, 32, 8, 2), 512: (32, 32, 8, 32, 32, 8, 2)},
    "float": {64: (16, 16, 8, 16, 16, 8, 1), 256: (32, 32, 16, 16, 16, 8, 1), 512: (16, 16, 8, 16, 16, 8, 1)},
}
"""By precision and width: rows, prototypes and warps of the forward pass, prototypes, rows and warps of the backward
pass, and stages. Larger blocks would not fit the registers, or not the shared memory of sm_86, sm_89 and sm_120."""
PROTOTYPE_ROWS = {"block": 16, "num_warps": 4, "num_stages": 1}
"""Launch configuration for what is before and after the passes over prototypes: rows at a time."""


def prototype_cross_entropy(
    itemsize: int, width: int, prototypes: int, capability: tuple[int, int] | None = None
) -> dict[str, int]:
    """Launch configuration for rows of so many channels. Splits depend on prototypes and architecture alone."""
    blocks = BLOCKS["half" if itemsize == 2 else "float"]
    most, (m, n, warps, k, r, warps_backward, stages) = next(found for found in blocks.items() if width <= found[0])
    chosen = {
        "block_m": m,
        "block_n": n,
        "block_k": k,
        "block_r": r,
        "block_d": max(16, 1 << (width - 1).bit_length()),
        "num_warps": warps,
        "num_warps_backward": warps_backward,
        "num_stages": stages,
    }
    name = f"prototype_cross_entropy {'half' if itemsize == 2 else 'float'}, {most}"
    chosen |= TUNED.get(architecture(capability), {}).get(name, {})
    tiles = -(-prototypes // chosen["block_n"])
    tiles_of_split = -(-tiles // max(1, min(SPLITS, prototypes // 1024)))
    return chosen | {"splits": -(-tiles // tiles_of_split), "tiles_of_split": tiles_of_split}
