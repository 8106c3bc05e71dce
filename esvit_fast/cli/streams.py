"""Output on any terminal and into any file: what its encoding lacks is written in ASCII."""

from __future__ import annotations

import codecs
import sys

_PLAIN = {
    "…": "...",
    "→": "->",
    "\N{MULTIPLICATION SIGN}": "x",
    **dict.fromkeys("“”", '"'),
    **dict.fromkeys("\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}", "'"),
    **dict.fromkeys("\N{EN DASH}\N{MINUS SIGN}—·•─━═╌╍╸╺", "-"),
    **dict.fromkeys("│┃║", "|"),
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼┏┓┗┛╔╗╚╝", "+"),
}
NAME = "esvit_fast.plain"


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that cannot be encoded; bytes of a file's name that are no UTF-8 become \\xe9."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_stand_in, error.object[error.start : error.end])), error.end


def _stand_in(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python spells such a byte
        return f"\\x{code - 0xDC00:02x}"
    return _PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode("ascii")


def write_anything() -> None:
    """Let standard output and error take every character, whatever their encoding."""
    codecs.register_error(NAME, _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=NAME)
