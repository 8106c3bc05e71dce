"""Output where the encoding lacks characters: no traceback, and every name readable."""

import io
import os
import sys

import pytest
from PIL import Image
from rich.console import Console
from rich.table import Table

from esvit_fast.cli.main import COMMANDS, main
from esvit_fast.cli.streams import write_anything


@pytest.fixture
def streams(monkeypatch):
    """A function that gives both streams an encoding, and then what was written."""

    def begin(encoding):
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict"))

        def written():
            sys.stdout.flush(), sys.stderr.flush()
            return [stream.buffer.getvalue().decode(encoding) for stream in (sys.stdout, sys.stderr)]

        return written

    return begin


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_on_any_terminal(streams, encoding, command):
    written = streams(encoding)
    try:
        code = main([command, "--help"] if command else ["--help"])
    except SystemExit as stop:
        code = stop.code
    out, _ = written()
    assert not code and out.lower().startswith("usage: esvit-fast")
    if not command:
        assert ("usage: esvit-fast COMMAND …" if encoding in ("cp1252", "utf-8") else "COMMAND ...") in out


def test_tables_and_bars_become_ascii(streams):
    written = streams("ascii")
    write_anything()
    table = Table("\N{MINUS SIGN}1 \N{MULTIPLICATION SIGN} 2", "a → b")
    table.add_row("Ж", "…")
    Console(width=40).print(table)
    out = written()[0]
    assert "-1 x 2" in out and "a -> b" in out and "\\u0416" in out and "..." in out


def test_names_that_are_no_utf8_are_shown(streams, tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for number in range(4):
        Image.new("RGB", (20, 20), (50 * number, 9, 70)).save(os.fsdecode(folder + b"/%d.png" % number))
    with open(folder + b"/br\xfbl\xe9.png", "wb") as file:
        file.write(b"nothing")
    written = streams("utf-8")
    assert main(["data", "check", str(tmp_path), "--workers", "0", "--max-corrupt-share", "0.5"]) == 0
    out = written()[0].replace("\n", "").replace(" ", "")
    assert "caf\\xe9/br\\xfbl\\xe9.png" in out
    written = streams("utf-8")
    assert main(["data", "check", os.fsdecode(folder) + "/none"]) == 2
    assert "caf\\udce9/none' does not exist" in written()[1]  # as Python spells it between quotes
