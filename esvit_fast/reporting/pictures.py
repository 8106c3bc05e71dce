"""The pictures of the report, each a piece of HTML: crops, attention, region correspondence, nearest neighbours."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import AugmentConfig, Config
from ..data import Augmenter, CorruptImage, Source, denormalize, eval_image, make_loader, normalize
from ..evaluation.features import evaluating, extract_features, log
from ..evaluation.measures.correspondence import PAIRS, Correspondence, Pair, chebyshev, match_pair
from ..evaluation.measures.knn import nearest
from ..evaluation.targets import subset
from .svg import data_uri, img, is_small

HEAT = ((11, 7, 36), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164))
"""Colours of attention from none to most, evenly spaced."""
NAMES = ("untrained", "trained")
PAIR_TITLES = {"published": "As published: mirrored, jittered, gray", "crops": "Two crops that keep their colors"}
LINKS = 16
HEADS = 12


class Models(NamedTuple):
    """The two backbones that the pictures compare."""

    before: nn.Module
    after: nn.Module


def readable(source: Source, indices: Sequence[int], count: int) -> list[tuple[int, np.ndarray]]:
    """Random images of these, always the same, with their indices; another for one that cannot be read."""
    spread = subset(len(indices), count)
    found: list[tuple[int, np.ndarray]] = []
    for place in [*spread, *(i for i in subset(len(indices), 8 * count) if i not in spread)]:
        if len(found) == count:
            break
        try:
            found.append((indices[place], source.image(indices[place])))
        except CorruptImage as error:
            log.warning("image %d (%s) is left out: %s", indices[place], error.path, error.why)
    return sorted(found, key=lambda pair: pair[0])


def crops(source: Source, config: Config, count: int = 3) -> str:
    """The first images of the run's first batch: the image, its global views and its local ones, after augmentation."""
    data = dataclasses.replace(config.data, workers=0, decode="cpu")
    count, sizes = min(count, len(source)), config.data.crops.sizes
    loader = make_loader(source, data, batch_size=count, seed=config.train.seed, start_samples=0, total_samples=count)
    batch = next(iter(loader))
    views = [denormalize(view, data.augment) for view in Augmenter(data.augment, sizes)(batch, "cpu")]
    cards = []
    for row, index in enumerate(batch.index.tolist()):
        tiles = [img(view[row], f"view {number}") for number, view in enumerate(views)]
        parts = [("image", [img(_fit(source.image(index)), "image")], 1)]
        parts += [(f"2 global, {_sides(sizes[:2])}", tiles[:2], 2)]
        if len(tiles) > 2:
            parts += [(f"{len(tiles) - 2} local, {_sides(sizes[2:])}", tiles[2:], max(4, (len(tiles) - 1) // 2))]
        cells = (f"<div><h4>{title}</h4>{_tiles(part, columns)}</div>" for title, part, columns in parts)
        cards.append(f'<div class="card crops">{"".join(cells)}</div>')
    return f'<div class="stack">{"".join(cards)}</div>'


def attention(models: Models, images: Sequence[np.ndarray], augment: AugmentConfig, device: str | torch.device) -> str:
    """Where the last block looks, before and after training, averaged over heads, and the heads of one image; empty for
    backbones without attention."""
    size = models.after.image_size
    frames = torch.stack([eval_image(image, size) for image in images])
    maps = [attention_share(model, normalize(frames.to(device), augment)) for model in models]
    if any(shares is None for shares in maps):
        return ""
    before, after = (m.mean(1) for m in maps)
    reach = max(0.25, (torch.cat([before, after]) - 1).abs().flatten().quantile(0.98).item())
    span = (max(0.0, 1 - reach), 1 + reach)
    pictures = frames.permute(0, 2, 3, 1).numpy()
    cards = []
    for picture, *pair in zip(pictures, before, after, strict=True):
        shots = [_shot(picture, "image")]
        shots += [
            _shot(overlay(picture, m, span), name) for m, name in zip(pair, ("untrained", "trained"), strict=True)
        ]
        cards.append(f'<div class="card strip">{"".join(shots)}</div>')
    heads = [_shot(overlay(pictures[0], m, span), f"head {n}") for n, m in enumerate(maps[1][0][:HEADS], start=1)]
    ramp = ", ".join(f"rgb{colour}" for colour in HEAT)
    legend = (
        f'<ul class="legend"><li>{span[0]:.2f}<i class="ramp" style="background:linear-gradient(90deg, {ramp})"></i>'
        f"{span[1]:.2f} times the average</li></ul>"
    )
    title = f"<h3>Heads of the trained model, first image ({len(heads)} of {maps[1].shape[1]})</h3>"
    return f'{legend}<div class="pictures">{"".join(cards)}</div>{title}<div class="heads">{"".join(heads)}</div>'


def attention_share(model: nn.Module, x: Tensor) -> Tensor | None:
    """Attention that each position receives relative to the average position; float32 [B, heads, h, w] on the CPU."""
    with evaluating(model):
        maps = model.attention_maps(x)
    if maps is None:
        return None
    maps = maps.float()
    return (maps / maps.mean((2, 3), keepdim=True)).cpu().clone()


def overlay(picture: np.ndarray, share: Tensor, span: tuple[float, float]) -> np.ndarray:
    """A picture uint8 [H, W, 3] under the colours of attention [h, w] over `span`; at least 160 pixels wide."""
    side = max(160, *picture.shape[:2])
    grey = torch.from_numpy(picture).permute(2, 0, 1)[None].float().mean(1, keepdim=True)
    grey = F.interpolate(grey, size=(side, side), mode="nearest")[0, 0].numpy()
    heat = F.interpolate(share[None, None].float(), size=(side, side), mode="bilinear", align_corners=False)[0, 0]
    level = ((heat - span[0]) / (span[1] - span[0])).clamp(0, 1).numpy()
    stops = np.linspace(0, 1, len(HEAT))
    colour = np.stack([np.interp(level, stops, [c[i] for c in HEAT]) for i in range(3)], axis=-1)
    return (0.38 * grey[..., None] + 0.62 * colour).round().astype(np.uint8)


def region_links(
    models: Models,
    images: Sequence[tuple[int, np.ndarray]],
    augment: AugmentConfig,
    device: str | torch.device,
) -> str:
    """Two views of each image with lines from regions of the first to their matches in the second, before and after.

    The pairs of views are those of the evaluation: first as published, then crops.
    """
    legend = "".join(
        f'<li><i style="background:var(--{colour})"></i>{text}</li>'
        for colour, text in (("good", "true region"), ("near", "a neighbour of it"), ("bad", "elsewhere"))
    )
    parts = [f'<ul class="legend">{legend}</ul>']
    for views, title in PAIR_TITLES.items():
        cards = []
        for index, image in images:
            pair = PAIRS[views](image, models.after.image_size, 0, index)
            links = (_links(name, model, pair, augment, device) for name, model in zip(NAMES, models, strict=True))
            cards.append(f'<div class="card"><div class="pictures">{"".join(links)}</div></div>')
        parts.append(f'<h3>{title}</h3><div class="stack">{"".join(cards)}</div>')
    return "".join(parts)


def _links(name: str, model: nn.Module, pair: Pair, augment: AugmentConfig, device: str | torch.device) -> str:
    found = match_pair(model, pair, augment, device)
    exact, both = int((chebyshev(found)[found.truth >= 0] == 0).sum()), int((found.truth >= 0).sum())
    caption = f"<figcaption>{name}: {exact} of {both} regions found</figcaption>"
    return f'<figure class="pair">{link_svg(pair, found)}{caption}</figure>'


def link_svg(pair: Pair, found: Correspondence, links: int = LINKS, side: int = 200, gap: int = 24) -> str:
    """Both views side by side, with lines for at most `links` regions that both show, spread evenly."""
    shown = (found.truth >= 0).nonzero().flatten().tolist()
    shown = [shown[i * len(shown) // min(links, len(shown))] for i in range(min(links, len(shown)))]
    steps, offset = chebyshev(found).tolist(), side + gap
    lines, spots = [], []
    for a in shown:
        b = int(found.match[a])
        kind = ("exact", "close", "wrong")[min(steps[a], 2)]
        (x1, y1), (x2, y2) = (_centre(cell, grid, side) for cell, grid in ((a, found.grid_a), (b, found.grid_b)))
        x2 += offset
        bow = 4 + 0.09 * (side - x1)  # lines of one row would otherwise lie on one another
        path = f"M{x1:.1f} {y1:.1f}Q{(x1 + x2) / 2:.1f} {(y1 + y2) / 2 - bow:.1f} {x2:.1f} {y2:.1f}"
        lines.append(f'<path class="link {kind}" d="{path}"/>')
        spots.append(f'<circle class="spot {kind}" cx="{x1:.1f}" cy="{y1:.1f}" r="4"/>')
        spots.append(f'<circle class="spot end" cx="{x2:.1f}" cy="{y2:.1f}" r="3.2"/>')
    views = []
    for view, left in ((pair.view_a, 0), (pair.view_b, offset)):
        picture = view.permute(1, 2, 0).numpy()
        css = ' class="pixel"' if is_small(picture) else ""
        views.append(f'<image{css} href="{data_uri(picture)}" x="{left}" width="{side}" height="{side}"/>')
    return f'<svg viewBox="0 0 {2 * side + gap} {side}" role="img">{"".join(views + lines + spots)}</svg>'


def neighbours(
    models: Models,
    bank: tuple[Source, Sequence[int]],
    queries: tuple[Source, Sequence[int]],
    augment: AugmentConfig,
    device: str | torch.device,
    count: int = 6,
) -> str:
    """Query images and their nearest bank images, before and after training."""
    source, query_source = bank[0], queries[0]
    found = []
    for model in models:
        sides = [extract_features(model, s, augment=augment, indices=i, device=device) for s, i in (bank, queries)]
        index = nearest(sides[0].features, sides[1].features, min(count, len(sides[0].features)))[1]
        found.append((sides[0].indices[index], sides[1].indices))
    cards = []
    for number, query in enumerate(found[1][1].tolist()):
        label = query_source.label(query)
        strips = []
        for name, (index, _) in zip(("untrained", "trained"), found, strict=True):
            shots = [_neighbour(source, i, label) for i in index[number].tolist()]
            strips.append(f"<div><h4>{name}</h4><div class=strip>{''.join(shots)}</div></div>")
        asked = _shot(_fit(query_source.image(query)), _class(query_source, label))
        cards.append(f'<div class="card near"><div><h4>query</h4>{asked}</div>{"".join(strips)}</div>')
    return f'<div class="stack">{"".join(cards)}</div>'


def _neighbour(source: Source, index: int, wanted: int) -> str:
    label = source.label(index)
    css = "" if wanted < 0 or label < 0 else "hit" if label == wanted else "miss"
    return _shot(_fit(source.image(index)), _class(source, label), css)


def _class(source: Source, label: int) -> str:
    return source.classes[label] if label >= 0 else ""


def _shot(picture: np.ndarray, caption: str, css: str = "") -> str:
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="shot {css}">{img(picture, caption)}{text}</figure>'


def _fit(image: np.ndarray, side: int = 192) -> np.ndarray:
    """The central square, at most `side` pixels wide."""
    short = min(image.shape[:2])
    top, left = ((n - short) // 2 for n in image.shape[:2])
    square = image[top : top + short, left : left + short]
    if short <= side:
        return square
    small = F.interpolate(
        torch.from_numpy(square.copy()).permute(2, 0, 1)[None], size=(side, side), mode="bicubic", antialias=True
    )
    return small[0].permute(1, 2, 0).numpy()


def _centre(cell: int, grid: tuple[int, int], side: int) -> tuple[float, float]:
    return (cell % grid[1] + 0.5) / grid[1] * side, (cell // grid[1] + 0.5) / grid[0] * side


def _tiles(tiles: Sequence[str], columns: int) -> str:
    return f'<div class="tiles" style="grid-template-columns:repeat({columns}, 1fr)">{"".join(tiles)}</div>'


def _sides(sizes: Sequence[int]) -> str:
    return " and ".join(f"{size} px" for size in dict.fromkeys(sizes))
