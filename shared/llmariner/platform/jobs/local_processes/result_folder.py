"""Files that a job's command leaves in its folder `output`: taken out of its reach when it has ended, and listed.

The command chose every name and kind of what is there. No process of it is left, so nothing changes any more.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from llmariner.platform.jobs import MAX_RESULT_FILES, MAX_RESULT_NAME, ResultFile, Results
from llmariner.platform.jobs.output_files import list_files

__all__ = ["keep_results", "list_results", "read_result"]

_READ_BYTES = 1024 * 1024


def keep_results(source: Path, target: Path) -> None:
    """Move the folder `source` to `target`, which must be on the same file system. No effect where there is none."""
    try:
        if stat.S_ISDIR(source.lstat().st_mode) and not target.exists():
            # The command may have taken our own rights from its folders. This follows no links.
            subprocess.run(["chmod", "-R", "u+rwX", str(source)], check=False, capture_output=True)
            source.rename(target)
    except FileNotFoundError:
        pass


def list_results(folder: Path, *, max_bytes: int) -> Results:
    """The regular files below a folder, by name, as far as they have so many bytes, and what of it is no result."""
    found, left_out = list_files(str(folder), max_bytes, MAX_RESULT_FILES, MAX_RESULT_NAME)
    return Results(tuple(ResultFile(name, size) for name, size in found), left_out)


def read_result(folder: Path, name: str) -> Iterator[bytes]:
    """The bytes of a file that `list_results` returned."""
    with os.fdopen(os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        while part := file.read(_READ_BYTES):
            yield part
