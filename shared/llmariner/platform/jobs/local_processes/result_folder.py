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

__all__ = ["keep_results", "list_results", "read_result"]

_MAX_DEPTH = 8
_MAX_ENTRIES = 10_000
_READ_BYTES = 1024 * 1024
_NAMED = 5


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
    found: list[ResultFile] = []
    refused: list[str] = []
    size = 0
    for entries, (path, is_file) in enumerate(_walk(folder), 1):
        if entries > _MAX_ENTRIES or len(found) == MAX_RESULT_FILES:
            refused.append(f"all after the first {len(found)} files")
            break
        name = path.relative_to(folder).as_posix()
        file = ResultFile(name, path.lstat().st_size)
        problem = "" if is_file else ", which is no regular file"
        if is_file and not (len(name) <= MAX_RESULT_NAME and name.isprintable()):
            problem = ", whose name can't be kept"
        elif is_file and size + file.size_bytes > max_bytes:  # a file may have holes, which took no room so far
            problem = f", with which the files have more than {max_bytes >> 20} MiB"
        if problem:
            refused.append(ascii(name[:100]) + problem)
        else:
            found.append(file)
            size += file.size_bytes
    return Results(tuple(found), _left_out(refused))


def read_result(folder: Path, name: str) -> Iterator[bytes]:
    """The bytes of a file that `list_results` returned."""
    with os.fdopen(os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        while part := file.read(_READ_BYTES):
            yield part


def _walk(folder: Path, depth: int = 0) -> Iterator[tuple[Path, bool]]:
    """What is below a folder, in the order of names, and whether it is a regular file; not for folders."""
    try:
        entries = sorted(os.scandir(folder), key=lambda each: each.name)
    except OSError:
        return
    for entry in entries:
        path = Path(entry.path)
        if not entry.is_dir(follow_symlinks=False):
            yield path, entry.is_file(follow_symlinks=False)
        elif depth < _MAX_DEPTH:
            yield from _walk(path, depth + 1)
        else:
            yield path, False


def _left_out(refused: list[str]) -> str:
    if not refused:
        return ""
    more = f" and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
    return f"Not kept: {'; '.join(refused[:_NAMED])}{more}."
