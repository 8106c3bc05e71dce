"""Augmentation of crops: what is done to each pixel in one launch, and the blur in two, by parameters of each sample.

Colours are levels, 0 to 255, until they are normalised: the threshold of solarisation is exact where nothing else was
done. Pixels of no image are black, and black stays black in all that may come before a mean is taken.
"""

import triton
import triton.language as tl

FLIP = tl.constexpr(0)
ORDER = tl.constexpr(1)
BRIGHTNESS = tl.constexpr(2)
CONTRAST = tl.constexpr(3)
SATURATION = tl.constexpr(4)
HUE = tl.constexpr(5)
GREY = tl.constexpr(6)
SIGMA = tl.constexpr(7)
SOLARIZE = tl.constexpr(8)
COLUMNS = tl.constexpr(9)


@triton.jit
def _operations(order):
    """Numbers of the four operations of a jitter, which are brightness, contrast, saturation and hue."""
    order = tl.maximum(order, 0.0).to(tl.int32)
    first = order // 6
    second = order % 6 // 2
    second += (second >= first).to(tl.int32)
    low, high = tl.minimum(first, second), tl.maximum(first, second)
    least = tl.where(low > 0, 0, tl.where(high > 1, 1, 2))  # of the two that remain
    third = tl.where(order % 2 == 0, least, 6 - first - second - least)
    return first, second, third, 6 - first - second - third


@triton.jit
def _needs_mean(row):
    return (tl.load(row + ORDER) >= 0) & (tl.load(row + CONTRAST) != 1)


@triton.jit
def _read(images, row, place, inside, width, pixels):
    """Red, green and blue of pixels, float32."""
    source = tl.where(tl.load(row + FLIP) != 0, place + width - 1 - 2 * (place % width), place)
    red = tl.load(images + source, inside, 0).to(tl.float32)
    green = tl.load(images + pixels + source, inside, 0).to(tl.float32)
    blue = tl.load(images + 2 * pixels + source, inside, 0).to(tl.float32)
    return red, green, blue


@triton.jit
def _luminance(red, green, blue):
    return red * 0.2989 + green * 0.587 + blue * 0.114


@triton.jit
def _blend(x, rest, share):
    return tl.minimum(tl.maximum(x * share + rest, 0.0), 255.0)


@triton.jit
def _turned(hue, value, chroma):
    """A channel, from how far its colour is, in sixths of a turn and never below 0."""
    k = hue - 6 * tl.floor(hue * (1 / 6))
    return value - tl.minimum(tl.maximum(tl.minimum(k, 4 - k), 0.0), 1.0) * chroma


@triton.jit
def _turn(red, green, blue, shift):
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    # of grey, differences are 0 whatever they are divided by
    inverse = 1 / tl.maximum(chroma, 1e-20)
    hue = tl.where(
        value == red,
        (green - blue) * inverse,
        tl.where(value == green, (blue - red) * inverse + 2, (red - green) * inverse + 4),
    )
    hue += 6 * (shift - tl.floor(shift))
    return _turned(hue + 5, value, chroma), _turned(hue + 3, value, chroma), _turned(hue + 1, value, chroma)


@triton.jit
def _jitter(red, green, blue, row, mean, before_contrast: tl.constexpr):
    """All of the jitter, or what comes before contrast."""
    order = tl.load(row + ORDER)
    first, second, third, fourth = _operations(order)
    count = tl.where(order >= 0, 4, 0)
    if before_contrast:
        count = tl.where(first == 1, 0, tl.where(second == 1, 1, tl.where(third == 1, 2, 3)))
    todo = first + 4 * second + 16 * third + 64 * fourth
    for _ in tl.range(0, count):
        if todo % 4 == 3:
            red, green, blue = _turn(red, green, blue, tl.load(row + HUE))
        else:
            share = tl.load(row + BRIGHTNESS + todo % 4)
            other = tl.where(todo % 4 == 2, _luminance(red, green, blue), tl.where(todo % 4 == 1, mean, 0.0))
            rest = other * (1 - share)
            red, green, blue = _blend(red, rest, share), _blend(green, rest, share), _blend(blue, rest, share)
        todo //= 4
    return red, green, blue


@triton.jit
def _finish(x, row, mean, scale):
    threshold = tl.where(tl.load(row + SOLARIZE) != 0, 128.0, float("inf"))
    return (tl.where(x >= threshold, 255.0 - x, x) - mean) * scale


@triton.jit
def _weigh(at, inside, place, last, step, sigma, radius):
    """Numbers at `at` blurred along an axis, where they are at `place` of 0 to `last`, and neighbours `step` apart.

    Weights that float32 cannot tell from none, beyond 5.77 sigma, are left out.
    """
    total, reach = tl.load(at, inside, 0.0), tl.minimum(5.768 * sigma, radius * 1.0).to(tl.int32)
    weights = 1.0
    for k in tl.range(1, reach + 1):
        weight = tl.exp(-0.5 * k * k / (sigma * sigma))
        before, after = tl.minimum(place, k) * step, tl.minimum(last - place, k) * step
        total += weight * (tl.load(at - before, inside, 0.0) + tl.load(at + after, inside, 0.0))
        weights += 2 * weight
    return total / weights


@triton.jit
def multicrop_augment_mean(images, parameters, sums, width, pixels, blocks, BLOCK: tl.constexpr):
    """Sum of the luminance of one block of a sample's pixels, as its jitter of contrast finds them.

    Args:
        images: uint8 [samples, 3, pixels]; parameters: float32 [samples, 9].
        sums: float32 [samples, blocks]; those of samples without such a jitter are left as they are.

    The grid is samples * blocks.
    """
    sample, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    row = parameters + sample * COLUMNS
    if _needs_mean(row):
        place = block * BLOCK + tl.arange(0, BLOCK)
        red, green, blue = _read(images + sample * 3 * pixels, row, place, place < pixels, width, pixels)
        red, green, blue = _jitter(red, green, blue, row, 0.0, True)
        tl.store(sums + sample * blocks + block, tl.sum(_luminance(red, green, blue), 0))


@triton.jit
def multicrop_augment_color(
    images,
    parameters,
    sums,
    held,
    out,
    mean_red,
    mean_green,
    mean_blue,
    scale_red,
    scale_green,
    scale_blue,
    width,
    pixels,
    blocks,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """One block of a sample's pixels up to the blur, or, where there is none, to the end.

    Args:
        images, parameters, sums: as `multicrop_augment_mean` has them.
        held: float32 [samples, 3, pixels], levels of samples that will be blurred.
        out: [samples, 3, pixels], (level - mean) * scale of the others.
        BLOCKS: a power of 2, at least blocks.

    The grid is samples * blocks.
    """
    sample, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    row, start = parameters + sample * COLUMNS, sample * 3 * pixels
    place, lane = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, BLOCKS)
    inside = place < pixels
    made = tl.where(_needs_mean(row), blocks, 0)
    mean = tl.sum(tl.load(sums + sample * blocks + lane, lane < made, 0.0), 0) / pixels
    red, green, blue = _read(images + start, row, place, inside, width, pixels)
    red, green, blue = _jitter(red, green, blue, row, mean, False)
    if tl.load(row + GREY) != 0:
        red = _luminance(red, green, blue)
        green, blue = red, red
    if tl.load(row + SIGMA) > 0:
        to = held + start + place
        tl.store(to, red, inside)
        tl.store(to + pixels, green, inside)
        tl.store(to + 2 * pixels, blue, inside)
    else:
        at = out + start + place
        tl.store(at, _finish(red, row, mean_red, scale_red).to(out.dtype.element_ty), inside)
        tl.store(at + pixels, _finish(green, row, mean_green, scale_green).to(out.dtype.element_ty), inside)
        tl.store(at + 2 * pixels, _finish(blue, row, mean_blue, scale_blue).to(out.dtype.element_ty), inside)


@triton.jit
def multicrop_augment_blur_along(held, parameters, blurred, width, pixels, radius, blocks, BLOCK: tl.constexpr):
    """Blur one block of a channel along its rows, where its sample is to be blurred.

    Args:
        held, blurred: float32 [samples, 3, pixels]; parameters: float32 [samples, 9].

    The grid is samples * 3 * blocks.
    """
    channel, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    sigma = tl.load(parameters + channel // 3 * COLUMNS + SIGMA)
    if sigma > 0:
        place = block * BLOCK + tl.arange(0, BLOCK)
        inside, start = place < pixels, channel * pixels
        x = _weigh(held + start + place, inside, place % width, width - 1, 1, sigma, radius)
        tl.store(blurred + start + place, x, inside)


@triton.jit
def multicrop_augment_blur_across(
    blurred,
    parameters,
    out,
    mean_red,
    mean_green,
    mean_blue,
    scale_red,
    scale_green,
    scale_blue,
    width,
    pixels,
    radius,
    blocks,
    BLOCK: tl.constexpr,
):
    """Blur one block of a channel across its rows and go on to the end, where its sample is to be blurred.

    The arguments are those of the other kernels. The grid is samples * 3 * blocks.
    """
    channel, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    row, color = parameters + channel // 3 * COLUMNS, channel % 3
    sigma = tl.load(row + SIGMA)
    if sigma > 0:
        mean = tl.where(color == 0, mean_red, tl.where(color == 1, mean_green, mean_blue))
        scale = tl.where(color == 0, scale_red, tl.where(color == 1, scale_green, scale_blue))
        place = block * BLOCK + tl.arange(0, BLOCK)
        inside, start = place < pixels, channel * pixels
        x = _weigh(blurred + start + place, inside, place // width, pixels // width - 1, width, sigma, radius)
        tl.store(out + start + place, _finish(x, row, mean, scale).to(out.dtype.element_ty), inside)
