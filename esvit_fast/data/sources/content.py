"""Which files are images: by their names, and where a name does not tell, by their first bytes."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence

from .account import LeftOut, left_out

try:
    from PIL import AvifImagePlugin
except ImportError:
    AvifImagePlugin = None

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
"""Formats of images that are read, by Pillow's names."""
if AvifImagePlugin is not None and AvifImagePlugin.SUPPORTED:
    FORMATS = (*FORMATS, "AVIF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
"""Those that messages name."""
HEAD = 32
"""Bytes by which a format is known."""
MANY = 1024
"""Files of one unknown extension above which a sample of them is looked into, and the rest unless all are images."""
SAMPLE = 256

_MORE = (".jfif", ".jpe", ".jif", ".jfi", ".pjpeg", ".pjp", ".dib", ".apng", ".ppm", ".pgm", ".pbm", ".pnm")
_IMAGES = {*EXTENSIONS, *_MORE}
_TEXTS_AND_TOOLS = (
    "arrow avi bat caption cfg cls csv db doc docx feather flac h5 hdf5 htm html idx ini ipynb json jsonl "
    "lmdb lnk log m mat md md5 mdb mkv mov mp3 mp4 mpeg mpg ndjson npy npz ogg pdf pickle pkl pt pth py "
    "rst safetensors sh sha256 sqlite svg tfrecord toml tsv txt url wav webm xls xlsx xml yaml yml"
)
_OTHERS = {f".{name}" for name in _TEXTS_AND_TOOLS.split()}
_ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar", ".parquet"}
_JUNK = {"thumbs.db", "desktop.ini", ".ds_store", ".git", ".gitattributes", ".gitignore", ".gitkeep"}
_JUNK |= {".esvit_fast_index", "shards.json"}  # our own
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"hevx": "HEIC"}
_BRANDS |= {b"mif1": "HEIF", b"msf1": "HEIF", b"heim": "HEIC", b"heis": "HEIC"}
_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "Photoshop",
}


def is_hidden(path: str) -> bool:
    """Whether a /-separated relative path is hidden, or lies in what is hidden."""
    return path.startswith((".", "__MACOSX/")) or "/." in path or "/__MACOSX/" in path


def is_junk(path: str) -> bool:
    """Whether a path is of what systems and tools leave beside files: nobody misses it."""
    parts = path.split("/")
    return "__MACOSX" in parts or any(part.lower() in _JUNK or part.startswith("._") for part in parts)


def is_image_path(path: str) -> bool:
    """Whether a /-separated relative path names a visible image file."""
    return not is_hidden(path) and is_image_name(path)


def is_image_name(name: str) -> bool:
    """Whether a file's name, hidden or not, has the extension of an image."""
    return extension(name) in _IMAGES


def extension(path: str) -> str:
    """What follows the last dot of a file's name, with the dot and in lower case; "" if there is none."""
    base = path.rpartition("/")[2]
    return base[base.rindex(".") :].lower() if "." in base else ""


def format_of(head: bytes) -> str | None:
    """The format of an image by its first bytes; None if they are of none that is known."""
    for start, kind in _STARTS.items():
        if head.startswith(start):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12]) or next((k for b, k in _BRANDS.items() if b in head[16:]), None)
    if head[:2] == b"BM" and len(head) > 17 and head[15:18] == bytes(3):  # the size of a header of less than 256 bytes
        return "BMP"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in (b" ", b"\t", b"\r", b"\n"):
        return "PPM"
    return None


def sort_out(paths: Sequence[str], head: Callable[[int], bytes]) -> tuple[list[int], list[LeftOut]]:
    """Which of the paths are images, rising, and what the others are.

    Only files whose extension tells nothing are looked into: the first bytes of each, but of many with the same
    extension only of a sample, drawn at random, if those are all images. None is left out unseen.

    Args:
        head: gives the first bytes of a file by its number; may raise OSError.
    """
    images: list[int] = []
    hidden: list[str] = []
    archives: list[str] = []
    others: list[str] = []
    unknown: dict[str, list[int]] = defaultdict(list)
    for row, path in enumerate(paths):
        kind = extension(path)
        if is_hidden(path):
            if not is_junk(path):
                hidden.append(path)
        elif kind in _IMAGES:
            images.append(row)
        elif is_junk(path):
            continue
        elif kind in _ARCHIVES:
            archives.append(path)
        elif kind in _OTHERS:
            others.append(path)
        else:
            unknown[kind].append(row)
    entries = [*left_out("hidden", hidden), *left_out("no images by their names", others)]
    entries += left_out("archives beside or inside of the images, which are not opened", archives)
    for rows in unknown.values():
        found, more = _looked_into(paths, rows, head)
        images += found
        entries += more
    return sorted(images), entries


def _looked_into(
    paths: Sequence[str], rows: list[int], head: Callable[[int], bytes]
) -> tuple[list[int], list[LeftOut]]:
    def told(row: int) -> str:
        try:
            kind = format_of(head(row))
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        if kind is None:
            return "no images by their content"
        return "" if kind in FORMATS else f"{kind} images, which cannot be read here: convert them"

    if len(rows) > MANY:
        sample = random.Random(0).sample(rows, SAMPLE)  # always the same, but no fixed stride, which names may have too
        if not any(map(told, sample)):
            return rows, []
    reasons: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        reasons[told(row)].append(row)
    images = reasons.pop("", [])
    return images, [entry for why, of in reasons.items() for entry in left_out(why, [paths[row] for row in of])]
