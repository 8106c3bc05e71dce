"""How the tests of this folder call commands."""

from __future__ import annotations

from PIL import Image

from esvit_fast.cli.main import main


def call(capsys, *arguments):
    """Exit code, standard output and error of a command."""
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


def fails(capsys, *arguments):
    """The message of a command that must fail with one line and exit code 2."""
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert out == "" and err.count("\n") == 1 and err.startswith("esvit-fast: error: ")
    return err


def images(folder, classes=("",), each=6, size=16):
    for c in classes:
        (folder / c).mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (size, size), (40 * i, 90, 20)).save(folder / c / f"{i}.png")
    return folder
