"""Bytes to pixels: uint8 RGB, or CorruptImage with the reason."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, TiffImagePlugin

from ..errors import UserError
from .deep import deep_values, mode_name, to_bytes
from .sources.content import FORMATS as _FORMATS

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

# what Pillow's parsers raise on damaged files
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, RuntimeError, struct.error,
    zlib.error, Image.DecompressionBombError,
)  # fmt: skip

_PNG, _METADATA = b"\x89PNG\r\n\x1a\n", (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf")


class CorruptImage(UserError):
    """An image that cannot be read or is refused; `path` names it and `why` gives the reason."""

    def __init__(self, path: str, why: str):
        super().__init__(path, why)
        self.path, self.why = path, why

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


def decode_image(data: bytes, path: str, max_megapixels: float = 64.0) -> np.ndarray:
    """Decode one encoded image to uint8 RGB [H, W, 3].

    The size is read from the header and checked before any pixel is decoded. Grey, palette, CMYK and 16-bit images
    become RGB, alpha is dropped, the EXIF orientation ignored, text and profiles too, and of an animation the first
    frame taken. An image of 16 bits a channel is read by the fewest of 8, 10, 12, 14 or 16 bits that hold its largest
    value, so that what a 12-bit sensor wrote is not black. JPEGs go through simplejpeg where it is installed, which
    gives the same pixels as Pillow.

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
    try:
        with _open(data, path) as image:
            return image_array(image, path, max_megapixels)
    except CorruptImage:
        bare = without_metadata(data)  # Pillow limits the size of text, which is not needed
        if len(bare) == len(data):
            raise
    with _open(bare, path) as image:
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
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


def _open(data: bytes, path: str) -> Image.Image:
    """The image, of which only the header has been read; CorruptImage if it is none that Pillow knows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about metadata and about sizes that are checked here
        try:
            return Image.open(io.BytesIO(data), formats=_FORMATS)
        except Image.UnidentifiedImageError:
            raise CorruptImage(path, _why_unknown(data)) from None
        except _DAMAGE as error:
            raise CorruptImage(path, reason(error)) from None


def without_metadata(data: bytes) -> bytes:
    """A PNG without its text, EXIF and colour profile; other bytes as they are."""
    if not data.startswith(_PNG):
        return data
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in _METADATA:
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def _why_unknown(data: bytes) -> str:
    """Why Pillow finds no image: what the parser of the format that the bytes begin as says."""
    for kind in _FORMATS:
        factory, accept = Image.OPEN[kind]
        if not accept(data[:16]):
            continue
        try:
            factory(io.BytesIO(data), "").close()
        except _DAMAGE as error:
            layout = _tiff_layout(data) if kind == "TIFF" else ""
            return layout or f"begins as {kind} but cannot be read: {reason(error)}"
    return f"is no image of a known format (starts with {data[:12]!r})"


def _tiff_layout(data: bytes) -> str:
    """What the pixels of a TIFF are, as its header has it; empty if that is damaged."""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if 43 in data[2:4] else 8])
        (file := io.BytesIO(data)).seek(tags.next)
        tags.load(file)
        bits, bands = max(tags[TiffImagePlugin.BITSPERSAMPLE]), tags[TiffImagePlugin.SAMPLESPERPIXEL]
        numbers = {2: "signed ", 3: "floating-point "}.get(tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0], "")
    except _DAMAGE:
        return ""
    return (
        f"is a TIFF of {bands} {numbers}{'band' if bands == 1 else 'bands'} of {bits} bits, not grey or RGB as Pillow "
        "knows them; save the one or three bands to train on with 8 or 16 bits"
    )


def _to_rgb(image: Image.Image, path: str) -> np.ndarray:
    if image.mode in ("I", "F"):
        raise CorruptImage(path, f"has 32-bit grey pixels (mode {image.mode}); save it with 8 bits per channel")
    _check_bands(image, path)
    if (values := deep_values(image)) is not None:
        return np.repeat(to_bytes(values), 3 // values.shape[2], axis=2)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _check_bands(image: Image.Image, path: str) -> None:
    """Refuse a TIFF that has one band of 16 bits after the other, of which Pillow takes bytes for pixels."""
    if isinstance(image, TiffImagePlugin.TiffImageFile) and len(image.getbands()) > 1:
        bits = max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
        if bits > 8 and image.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2:
            raise CorruptImage(
                path,
                f"is a TIFF of {len(image.getbands())} bands of {bits} bits, one after the other, which Pillow cannot "
                "read; save it pixel by pixel (INTERLEAVE=PIXEL) or with 8 bits",
            )


def _check_size(width: int, height: int, path: str, max_megapixels: float) -> None:
    if width * height > max_megapixels * 1e6:
        raise CorruptImage(
            path,
            f"has {width}x{height} pixels, more than max_megapixels={max_megapixels:g}; "
            "shrink it or raise data.max_megapixels",
        )


def format_and_mode(data: bytes) -> tuple[str, str]:
    """Of an encoded image that `decode_image` reads: its format, and Pillow's mode with the bits used of 16, if it has.

    A JPEG with others behind it is a JPEG.
    """
    for encoded in (data, without_metadata(data)):
        try:
            with _open(encoded, "") as image:
                kind, mode, values = image.format.replace("MPO", "JPEG"), image.mode, deep_values(image)
        except (CorruptImage, *_DAMAGE):
            continue
        return kind, mode if values is None else mode_name(mode, values)
    return "JPEG", "RGB"  # Pillow refuses what simplejpeg read: an image above its own limit


def reason(error: Exception) -> str:
    """What an exception says, in one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
