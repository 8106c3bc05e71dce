"""JPEGs of a batch to crops on a GPU: decoded by nvJPEG through torchvision, cut and resized there.

The process waits for nvJPEG, but not for the step that the GPU is at. It has not yet run on one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils import deterministic

from ...errors import UserError
from ..batch import Batch, Jpegs
from ..decode import reason
from ..views.multicrop import view_groups
from .dataset import CropDataset

logger = logging.getLogger(__name__)

DECODED_BYTES = 128 << 20
"""Of at most 64 decoded images on the device at a time; one larger image is decoded alone."""
HELD_BYTES = 2 * DECODED_BYTES
"""That decoding takes there with what makes the crops; more where an image has more than 20 megapixels."""

_BAND = 1 << 23  # pixels

Decoder = Callable[[Sequence[torch.Tensor], torch.device], Sequence[torch.Tensor]]
"""JPEGs, uint8 [bytes] each, to uint8 RGB [3, H, W] each on a device; RuntimeError where it refuses one of them."""


class DeviceDecoder:
    """Makes the crops that the loader left to a device.

    What the device refuses is loaded as by data.decode=cpu: decoded on the CPU, or, if it is corrupt, reported and
    replaced by the same image.

    Args:
        dataset: the same images, all decoded on the CPU.
    """

    def __init__(self, dataset: CropDataset, decode: Decoder | None = None):
        self.dataset, self.decode = dataset, decode or decode_jpegs
        self.told = False

    def __call__(self, batch: Batch, device: torch.device) -> Batch:
        """The batch with all its crops, on the device.

        Raises:
            TooManyCorrupt: a JPEG is refused, and in its place image after image cannot be read.
        """
        jpegs, count, sides = batch.jpegs, len(batch.index), self.dataset.crop.sizes
        shapes = [(len(views), count, 3, side, side) for side, views in view_groups(sides)]
        crops = [torch.empty(shape, dtype=torch.uint8, device=device) for shape in shapes]
        if batch.crops:
            others = torch.ones(count, dtype=torch.bool).index_fill_(0, jpegs.rows, False).nonzero()[:, 0].to(device)
            for crop, made in zip(crops, batch.crops, strict=True):
                crop.index_copy_(1, others, made.to(device, non_blocking=True))
        refused = decode_and_crop(jpegs, crops, sides, self.decode)
        batch = batch._replace(crops=crops, jpegs=None)
        for number, why in refused.items():
            self._load(batch, int(jpegs.rows[number]), tuple(jpegs.keys[number].tolist()), why)
        return batch

    def _load(self, batch: Batch, row: int, key: tuple[int, int], why: str) -> None:
        """Put what the CPU makes of an image into a row of a batch."""
        sample = self.dataset[key]
        if isinstance(sample, Exception):
            raise sample
        if sample.index == batch.index[row] and not self.told:
            path, self.told = self.dataset.source.path(sample.index), True
            logger.warning("data.decode=gpu: %s is refused by the GPU (%s); the CPU decodes such images", path, why)
        for crop, made in zip(batch.crops, sample.crops, strict=True):
            crop[:, row] = made.to(crop.device)
        batch.draws[:, row] = torch.from_numpy(sample.draws)
        batch.index[row] = sample.index
        batch.failures.extend(sample.failures)


def decode_and_crop(
    jpegs: Jpegs, crops: Sequence[torch.Tensor], sides: Sequence[int], decode: Decoder
) -> dict[int, str]:
    """Decode images on a device and write their crops into their rows of a batch.

    Args:
        crops: uint8 [V_r, B, 3, S, S] on the device, one for each resolution in the order of `view_groups`.
        sides: of each view in px.

    Returns:
        The numbers of images that were refused, whose rows stay as they are, with the reasons.
    """
    groups, device, refused = view_groups(sides), crops[0].device, {}
    encoded, sizes, rows = jpegs.data.split(jpegs.lengths.tolist()), jpegs.sizes.tolist(), jpegs.rows.tolist()
    for numbers in _portions(sizes):
        images = _decoded([encoded[number] for number in numbers], device, decode)
        index, weight = taps(jpegs.boxes[numbers], sides, device)
        for number, image, *found in zip(numbers, images, index, weight, strict=True):
            if isinstance(image, str):
                refused[number] = image
            elif [*image.shape[1:]] != sizes[number]:
                refused[number] = "it has another size than its header says"
            else:
                for crop, made in zip(crops, resized(image, *found, groups), strict=True):
                    crop[:, rows[number]] = made
    return refused


def taps(boxes: torch.Tensor, sides: Sequence[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels that antialiased bicubic interpolation (Keys, a = -1/2, as Pillow's) sums for rows and columns of crops.

    Args:
        boxes: int64 [N, V, 4] on the CPU.

    Returns:
        int64 and float32 [N, 2, R, K] on the device: numbers and weights of K pixels, for the R rows, and then the R
        columns, of the crops of all views in the order of `view_groups`. Those outside of a box weigh nothing, and
        numbers may be up to K beyond the image. Weights are still to be divided by their sum.
    """
    most = max(1.0, (boxes[..., 2:] / torch.tensor(sides)[:, None]).max().item())
    order = [view for _, views in view_groups(sides) for view in views]
    view = torch.tensor([view for view in order for _ in range(sides[view])], device=device)  # [R]
    side = torch.tensor(sides, device=device)[view]
    place = torch.cat([torch.arange(sides[view], device=device) for view in order]) + 0.5
    lines = boxes.to(device, non_blocking=True)[:, view].transpose(1, 2)  # [N, 4, R]
    start, extent = lines[:, :2], lines[:, 2:]
    scale = extent / side
    centre, reach = place * scale, scale.clamp(min=1)
    first = (centre - 2 * reach - 0.5).ceil().clamp(min=0)
    pixel = first[..., None] + torch.arange(int(4 * most) + 2, device=device)  # from the box's edge
    x = ((pixel + 0.5 - centre[..., None]) / reach[..., None]).abs()
    outer, inner = (2 - x).relu(), (1 - x).relu()
    weight = 0.5 * outer.square() * (outer - 1) + inner.square() * (1 - 2 * inner)
    return pixel.long() + start[..., None], weight * (pixel < extent[..., None])


def resized(
    image: torch.Tensor, index: torch.Tensor, weight: torch.Tensor, groups: Sequence[tuple[int, Sequence[int]]]
) -> list[torch.Tensor]:
    """Crops of uint8 [3, H, W] by taps [2, R, K]: float32 [V_r, 3, S, S] for each resolution, whole numbers in 0..255.

    First along the rows, then along the columns, rounded after either as the CPU's resize is, from which it differs by
    1 where roundings do. A matrix product makes all views at once, whatever their boxes; on a device, the bits depend
    on no other image.
    """
    height, width = image.shape[1:]
    longest = max(height, width)
    dense = weight.new_zeros(*index.shape[:2], longest + index.shape[2]).scatter_(2, index, weight)
    dense = dense[..., :longest].contiguous()
    dense /= dense.sum(2, keepdim=True)
    down, across = dense[0, :, :height], dense[1, :, :width]
    bands = image.flatten(0, 1).split(max(1, _BAND // width))  # as floats, a large image would be too large
    narrow = torch.cat([_rounded(band.float() @ across.T) for band in bands]).view(3, height, -1)  # [3, H, R]
    crops, start = [], 0
    for side, views in groups:
        lines = slice(start, start := start + len(views) * side)
        each = narrow[..., lines].unflatten(2, (len(views), side)).permute(2, 0, 1, 3)  # [V_r, 3, H, S]
        crops.append(_rounded(down[lines].unflatten(0, (len(views), 1, side)) @ each))
    return crops


def decode_jpegs(encoded: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Decode JPEGs, uint8 [bytes] each on the CPU, to uint8 RGB [3, H, W] each on a device; EXIF is ignored.

    Raises:
        RuntimeError: one of them is refused, or there is no such decoder.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    on_gpu, filled = device.type == "cuda", deterministic.fill_uninitialized_memory
    if on_gpu:
        # nvJPEG writes at once, also to memory that the stream gave back but still reads (pytorch/vision#9606)
        torch.cuda.current_stream(device).synchronize()
    try:
        deterministic.fill_uninitialized_memory = False  # which would come after it
        return decode_jpeg(list(encoded), ImageReadMode.RGB, device)
    except RuntimeError:
        if on_gpu:
            torch.cuda.synchronize(device)  # the images before may still be written
        raise
    finally:
        deterministic.fill_uninitialized_memory = filled


def check_device_decode(device: torch.device) -> None:
    """Find out whether JPEGs can be decoded there.

    Raises:
        UserError: it is no GPU, or torchvision has no decoder for it.
    """
    if device.type != "cuda":
        raise UserError(f"data.decode=gpu needs an NVIDIA GPU, but the run is on {device}; pass --data.decode cpu")
    try:
        from torchvision.io import encode_jpeg

        decode_jpegs([encode_jpeg(torch.zeros(3, 16, 16, dtype=torch.uint8))], device)
    except RuntimeError as error:
        raise UserError(
            f"data.decode=gpu: torchvision cannot decode JPEGs on {device} ({reason(error)}); pass --data.decode cpu, "
            "or install a torchvision that is built for CUDA with nvJPEG"
        ) from None


def _portions(sizes: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Numbers of images, smallest first, that are decoded together: as many as would fit if all were as the largest."""
    portion: list[int] = []
    for number in sorted(range(len(sizes)), key=lambda number: math.prod(sizes[number])):
        if portion and (len(portion) + 1) * max(3 * math.prod(sizes[number]), DECODED_BYTES // 64) > DECODED_BYTES:
            yield portion
            portion = []
        portion.append(number)
    yield portion


def _decoded(encoded: Sequence[torch.Tensor], device: torch.device, decode: Decoder) -> list[torch.Tensor | str]:
    """Pixels of each image, or why it is refused; a decoder that refuses one gives none, so that it is sought."""
    try:
        return list(decode(encoded, device))
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except RuntimeError as error:
        if len(encoded) == 1:
            return [reason(error)]
        half = len(encoded) // 2
        return [*_decoded(encoded[:half], device, decode), *_decoded(encoded[half:], device, decode)]


def _rounded(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.round_().clamp_(0, 255)
