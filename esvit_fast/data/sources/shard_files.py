"""Sets of .tar or .parquet files: of one kind, and divided into splits by their folders or names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..layout.divide import LayoutError
from ..layout.rule import words_of
from .account import Account
from .encoded import SourceError
from .opened import Opened


def open_files(
    spec: str, files: Sequence[Path], max_megapixels: float, root: Path | None = None, account: Account | None = None
) -> Opened:
    """Open .tar or .parquet files as one set, in the order in which they are given.

    Args:
        root: the folder that they were found in, if a folder was named and not the files.
        account: what has been left out of it.

    Raises:
        SourceError: they are of other or of several kinds, one of them cannot be read, or nobody can say how they are
            divided.
    """
    from .parquet import open_parquet
    from .shards import check_card, open_shards

    kinds = {file.suffix.lower() for file in files}
    if kinds not in ({".tar"}, {".parquet"}):
        raise SourceError(
            f"data.source={spec!r} names {' and '.join(sorted(kinds))} files; name uncompressed .tar or .parquet ones"
        )
    for file in files:
        if file.exists() and not file.is_file():
            what = "which is a folder, pipe or device"
            raise SourceError(f"data.source={spec!r} names {str(file)!r}, {what}; leave it out")
    common = root or Path(os.path.commonpath([file.parent.absolute() for file in files]))
    try:
        names = [os.path.relpath(file.absolute(), common.absolute()) for file in files]
        words, beside = words_of(names, lone=root is not None)
    except LayoutError as error:
        raise SourceError(f"data.source={spec!r}: {error}") from None
    if root is not None:
        for folder in sorted({file.parent for file in files}):
            check_card(spec, folder, [file for file in files if file.parent == folder])
    used = [(file, word) for file, word in zip(files, words, strict=True) if word is not None]
    opened = open_shards if kinds == {".tar"} else open_parquet
    account = (account or Account()).joined(beside)
    return opened(spec, [file for file, _ in used], [word for _, word in used], max_megapixels, account)
