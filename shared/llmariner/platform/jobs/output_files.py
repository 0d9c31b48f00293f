"""What a job's command left in a folder: which files are results. Only the standard library, from Python 3.8 on.

It runs in the platform on one machine, and in the job's pod on a cluster. The command chose every name and kind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

__all__ = ["list_files"]

_MAX_DEPTH = 8
_MAX_ENTRIES = 10_000
_NAMED = 5


def list_files(folder: str, max_bytes: int, max_files: int, max_name: int) -> tuple[list[tuple[str, int]], str]:
    """Names below the folder and sizes of its regular files, by name, within limits; and what is left out and why."""
    found: list[tuple[str, int]] = []
    refused: list[str] = []
    size = 0
    for entries, (path, is_file) in enumerate(_walk(folder), 1):
        if entries > _MAX_ENTRIES or len(found) == max_files:
            refused.append(f"all after the first {len(found)} files")
            break
        name = os.path.relpath(path, folder)
        file_bytes = os.lstat(path).st_size
        problem = "" if is_file else ", which is no regular file"
        if is_file and not (len(name) <= max_name and name.isprintable()):
            problem = ", whose name can't be kept"
        elif is_file and size + file_bytes > max_bytes:  # a file may have holes, which took no room so far
            problem = f", with which the files have more than {max_bytes >> 20} MiB"
        if problem:
            refused.append(ascii(name[:100]) + problem)
        else:
            found.append((name, file_bytes))
            size += file_bytes
    return found, _left_out(refused)


def _walk(folder: str, depth: int = 0) -> Iterator[tuple[str, bool]]:
    """What is below a folder, in the order of names, and whether it is a regular file; not for folders."""
    try:
        entries = sorted(os.scandir(folder), key=lambda each: each.name)
    except OSError:
        return
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            yield entry.path, entry.is_file(follow_symlinks=False)
        elif depth < _MAX_DEPTH:
            yield from _walk(entry.path, depth + 1)
        else:
            yield entry.path, False


def _left_out(refused: list[str]) -> str:
    if not refused:
        return ""
    more = f" and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
    return f"Not kept: {'; '.join(refused[:_NAMED])}{more}."
