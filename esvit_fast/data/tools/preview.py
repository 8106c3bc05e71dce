"""A picture of what the networks see: images, where their crops lie, and the crops after augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...config import Config, CropConfig
from ..loading.loader import make_loader
from ..sources.encoded import Source
from ..views.augment import Augmenter, denormalize
from ..views.draws import CROP, uniforms
from ..views.multicrop import MultiCrop, crop_boxes

SIDE = 232
"""Side of a global crop in the picture, and the height of an image; of a local crop half of it, less a gap."""
MARGIN, GAP, HEAD, FOOT = 36, 10, 118, 36
BACKGROUND, INK, FAINT, EDGE = (252, 252, 251), (24, 24, 27), (113, 113, 122), (212, 212, 216)
COLOURS = ((37, 99, 235), (234, 88, 12), (13, 148, 136))
"""Of the first global crop, the second, and the local ones."""


def preview(source: Source, config: Config, count: int = 4, title: str = "") -> Image.Image:
    """The first images of a run with the boxes of their views, and the views as they are trained on, one row each.

    Raises:
        UserError: fewer images than asked for.
    """
    data, seed = replace(config.data, workers=0, decode="cpu"), config.train.seed
    sizes = data.crops.sizes
    loader = make_loader(source, data, batch_size=count, seed=seed, start_samples=0, total_samples=count)
    batch = next(iter(loader))
    views = [denormalize(view, data.augment) for view in Augmenter(data.augment, sizes)(batch, "cpu")]
    indices = batch.index.tolist()
    images = [source.image(index) for index in indices]
    boxes = [_boxes(image, config, index) for image, index in zip(images, indices, strict=True)]
    shown = [_fit(image, round(1.6 * SIDE), SIDE) for image in images]
    first = max(SIDE, *(image.width for image in shown))
    columns = _columns(len(sizes) - 2)
    local = (SIDE - GAP) // 2
    lefts = [MARGIN, MARGIN + first + 2 * GAP, MARGIN + first + 3 * GAP + SIDE, MARGIN + first + 5 * GAP + 2 * SIDE]
    width = lefts[3] + columns * (local + GAP) - GAP + MARGIN if columns else lefts[2] + SIDE + MARGIN
    picture = Image.new("RGB", (width, HEAD + count * (SIDE + FOOT) + MARGIN // 2), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    _heading(draw, config.data.crops, lefts, title, f"seed {seed}, the first {count} of {len(source):,} images")
    for row, (image, index) in enumerate(zip(images, indices, strict=True)):
        top = HEAD + row * (SIDE + FOOT)
        small = shown[row]
        _outline(small, boxes[row] * np.array([small.height / image.shape[0], small.width / image.shape[1]] * 2))
        picture.paste(small, (lefts[0], top + (SIDE - small.height) // 2))
        label = source.label(index)
        name = f"{source.classes[label]}   " if label >= 0 and source.classes else ""
        text = f"{name}{image.shape[1]} x {image.shape[0]}   {source.path(index).rsplit('/', 1)[-1]}"
        below = (lefts[0], top + (SIDE + small.height) // 2 + 6)
        draw.text(below, _shortened(draw, text, first), FAINT, font=_font(13))
        for number, view in enumerate(views):
            place = divmod(number - 2, columns) if number >= 2 else (0, 0)
            side = SIDE if number < 2 else local
            left = lefts[min(number, 2) + 1] + place[1] * (side + GAP)
            picture.paste(_framed(view[row], side, COLOURS[min(number, 2)]), (left, top + place[0] * (side + GAP)))
    return picture


def _columns(count: int) -> int:
    """Columns of local crops, in two rows."""
    return -(-count // 2)


def _boxes(image: np.ndarray, config: Config, index: int) -> np.ndarray:
    """The boxes of an image's views in the first epoch, int64 [V, 4]: top, left, height, width."""
    crops = MultiCrop(config.data.crops)
    draws = uniforms(config.train.seed, 0, index, len(crops.sizes))[:, CROP]
    return crop_boxes(image.shape[0], image.shape[1], crops.scale, draws)


def _fit(pixels: np.ndarray, width: int, height: int) -> Image.Image:
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    return _resized(pixels, max(1, round(scale * pixels.shape[1])), max(1, round(scale * pixels.shape[0])))


def _resized(pixels: np.ndarray, width: int, height: int) -> Image.Image:
    """Small pictures keep their pixels visible."""
    how = Image.Resampling.NEAREST if width > 2 * pixels.shape[1] else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize((width, height), how)


def _framed(pixels: np.ndarray, side: int, colour: tuple[int, int, int]) -> Image.Image:
    tile = _resized(pixels, side, side)
    ImageDraw.Draw(tile).rectangle((0, 0, side - 1, side - 1), outline=colour, width=3 if side == SIDE else 2)
    return tile


def _outline(picture: Image.Image, boxes: np.ndarray) -> None:
    """Draw the boxes of all views, the global ones on top, each with a light edge that shows on dark ground."""
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, picture.width - 1, picture.height - 1), outline=EDGE)
    for number in reversed(range(len(boxes))):
        top, left, height, width = boxes[number].round().astype(int).tolist()
        right, bottom = min(left + width, picture.width) - 1, min(top + height, picture.height) - 1
        box = (left, top, max(left, right), max(top, bottom))
        thick = 3 if number < 2 else 1
        draw.rectangle(box, outline=(255, 255, 255), width=thick + 1)
        draw.rectangle(box, outline=COLOURS[min(number, 2)], width=thick)


def _heading(draw: ImageDraw.ImageDraw, crops: CropConfig, lefts: Sequence[int], title: str, subtitle: str) -> None:
    draw.text((MARGIN, 24), title, INK, font=_font(24))
    draw.text((MARGIN, 56), subtitle, FAINT, font=_font(14))
    sides = {size: crops.sizes[2:].count(size) for size in crops.sizes[2:]}
    counted = " and ".join(f"{count} of {size} px" for size, count in sides.items())
    named = ["image", *(f"{which} global, {crops.global_size} px" for which in ("first", "second"))]
    scale = "{:.0%} to {:.0%} of the area".format(*crops.local_scale)
    for left, name, colour in zip(lefts, named, (INK, *COLOURS), strict=False):
        draw.text((left, HEAD - 24), name, colour, font=_font(15))
    if sides:
        draw.text((lefts[3], HEAD - 24), f"local, {counted}, {scale}", COLOURS[2], font=_font(15))


def _shortened(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """As much of a text as fits."""
    whole = text
    while text and draw.textlength(f"{text}…" if text != whole else text, font=_font(13)) > width:
        text = text[:-1]
    return text if text == whole else f"{text}…"


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
