"""Bytes to pixels: uint8 RGB, or CorruptImage with the reason."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
# what Pillow's parsers raise on damaged files
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip


class CorruptImage(ValueError):
    """An image that cannot be read or is refused; `path` names it and `why` gives the reason."""

    def __init__(self, path: str, why: str):
        super().__init__(path, why)
        self.path, self.why = path, why

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


def decode_image(data: bytes, path: str, max_megapixels: float = 64.0) -> np.ndarray:
    """Decode one encoded image to uint8 RGB [H, W, 3].

    The size is read from the header and checked before any pixel is decoded. Grey, palette, CMYK and 16-bit grey images
    become RGB, alpha is dropped, the EXIF orientation ignored, and of an animation the first frame taken. JPEGs go
    through simplejpeg where it is installed, which gives the same pixels as Pillow.

    Raises:
        CorruptImage: the bytes are no readable image, or have more than max_megapixels (Pillow's own limit, 179
            megapixels unless PIL.Image.MAX_IMAGE_PIXELS is changed, holds as well).
    """
    if simplejpeg is not None and data[:2] == b"\xff\xd8":
        pixels = _decode_jpeg(data, path, max_megapixels)
        if pixels is not None:
            return pixels
    if not data:
        raise CorruptImage(path, "is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about metadata and about sizes that are checked here
        try:
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        except Image.UnidentifiedImageError:
            raise CorruptImage(path, f"is no image of a known format (starts with {data[:12]!r})") from None
        except _DAMAGE as error:
            raise CorruptImage(path, reason(error)) from None
        with image:
            return image_array(image, path, max_megapixels)


def plain_jpeg_size(data: bytes, path: str, max_megapixels: float = 64.0) -> tuple[int, int] | None:
    """Height and width of a JPEG that any decoder knows, by its header: grey or YCbCr of 8 bits, and whole.

    None for all else: other formats and colours, several pictures in one file, and what does not end as a JPEG does.

    Raises:
        CorruptImage: it has more than max_megapixels.
    """
    if not (data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=("JPEG",))
    except _DAMAGE:
        return None
    # an Adobe marker tells colours other than YCbCr; without one, decoders look at the components' names
    colours = image.mode == "RGB" and image.info.get("adobe_transform", 1) == 1
    colours = colours and bytes(component[0] for component in image.layer) != b"RGB"
    if image.format != "JPEG" or not (colours or image.mode == "L"):
        return None
    _check_size(*image.size, path, max_megapixels)
    return image.height, image.width


def image_array(image: Image.Image, path: str, max_megapixels: float = 64.0) -> np.ndarray:
    """Convert an opened Pillow image to uint8 RGB [H, W, 3], as `decode_image` does.

    Raises:
        CorruptImage: its pixels cannot be read, or are more than max_megapixels.
    """
    try:
        _check_size(*image.size, path, max_megapixels)
        return _to_rgb(image, path)
    except CorruptImage:
        raise
    except _DAMAGE as error:
        raise CorruptImage(path, reason(error)) from None


def _decode_jpeg(data: bytes, path: str, max_megapixels: float) -> np.ndarray | None:
    # None: left to Pillow, which also reads CMYK and is more lenient than a strict decoder
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height, path, max_megapixels)
        return None if colorspace in ("CMYK", "YCCK") else simplejpeg.decode_jpeg(data, "RGB")
    except CorruptImage:
        raise
    except ValueError:
        return None


def _to_rgb(image: Image.Image, path: str) -> np.ndarray:
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise CorruptImage(path, f"has 32-bit grey pixels (mode {image.mode}); save it with 8 bits per channel")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _check_size(width: int, height: int, path: str, max_megapixels: float) -> None:
    if width * height > max_megapixels * 1e6:
        raise CorruptImage(
            path,
            f"has {width}x{height} pixels, more than max_megapixels={max_megapixels:g}; "
            "shrink it or raise data.max_megapixels",
        )


def format_and_mode(data: bytes) -> tuple[str, str]:
    """Of an encoded image that `decode_image` reads: what Pillow calls them; a JPEG with others behind it is a JPEG."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                return image.format.replace("MPO", "JPEG"), image.mode
        except _DAMAGE:  # Pillow refuses what simplejpeg read: an image above its own limit
            return "JPEG", "RGB"


def reason(error: Exception) -> str:
    """What an exception says, in one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
