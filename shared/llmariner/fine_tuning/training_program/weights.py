"""Fetches the files of the base model to a folder, by the token of the job: what a first container of its pod runs.

Files that are there already with the right content are kept. Pieces are fetched several at a time, each again until it
comes, and a file gets its name once its digest is that which the platform says.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from itertools import accumulate
from pathlib import Path
from typing import Any

from llmariner.fine_tuning.training_program.platform import Platform, Refused, Stopped

__all__ = ["fetch_weights", "main"]

_AT_ONCE = 4
_PART = ".part"
_ATTEMPTS = 2
"""Of a file whose digest is not what the platform says."""


def fetch_weights(platform: Platform, folder: Path) -> None:
    """Fetch what is missing. Raises Refused and Stopped with the platform's reason, OSError."""
    for file in platform.weights():
        if not _is_there(folder / file["path"], file):
            _fetch(platform, file, folder / file["path"])


def _fetch(platform: Platform, file: dict[str, Any], target: Path) -> None:
    part, pieces = target.with_name(target.name + _PART), file["pieces"]
    starts = [end - size for end, size in zip(accumulate(pieces), pieces, strict=True)]
    for _ in range(_ATTEMPTS):
        with part.open("wb") as content, ThreadPoolExecutor(_AT_ONCE) as pool:

            def fetch(start: int, size: int, number: int = content.fileno()) -> None:
                if os.pwrite(number, platform.weights_piece(file, start, size), start) != size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            for _ in pool.map(fetch, starts, pieces):
                pass
        if _is_there(part, file):
            os.replace(part, target)
            return
    part.unlink()
    raise Refused(f"The file {file['path']} of the base model has another content than the platform says.")


def _is_there(path: Path, file: dict[str, Any]) -> bool:
    """Whether a file is complete: by its digest, or by its size where there is none."""
    if not path.is_file() or path.stat().st_size != file["size"]:
        return False
    name = next((name for name in ("sha256", "md5") if file[name]), None)
    if name is None:
        return True
    with path.open("rb") as content:
        return hashlib.file_digest(content, name).hexdigest() == str(file[name])


def main(arguments: Sequence[str]) -> int:
    """Exit status 0: all is there. 1: the last line says what is wrong."""
    platform = Platform(os.environ["LLMARINER_TRAINING_URL"], os.environ["LLMARINER_TRAINING_TOKEN"])
    try:
        fetch_weights(platform, Path(arguments[0]))
    except (Refused, Stopped, OSError, HTTPException) as error:
        print(str(error) or type(error).__name__, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
