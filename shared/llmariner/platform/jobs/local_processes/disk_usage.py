"""How much of a disk a job's folder takes, measured while the job may change it in hostile ways."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

__all__ = ["NotMeasurable", "delete_tree", "deleted_bytes", "free_bytes", "used_bytes"]

_MAX_ENTRIES = 200_000
_MAX_DEPTH = 64


class NotMeasurable(Exception):
    """The folder cannot be measured; the message says what the job did."""


def used_bytes(folder: Path) -> int:
    """Bytes on the disk of all files of a folder; symbolic links are not followed. Raises NotMeasurable."""
    try:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise NotMeasurable(f"its folder is not readable: {error.strerror}") from error
    counted = _Count()
    _visit(root, 0, counted)
    return counted.size


def deleted_bytes(processes: Iterable[int], device: int) -> int:
    """Bytes on a device of deleted files that these processes have open. Raises NotMeasurable."""
    found: dict[int, int] = {}
    entries = 0
    for process in processes:
        try:
            names = os.listdir(f"/proc/{process}/fd")
        except OSError:  # it has ended
            continue
        entries += len(names)
        if entries > _MAX_ENTRIES:
            raise NotMeasurable(f"it had more than {_MAX_ENTRIES:,} files open")
        for name in names:
            try:
                file = os.stat(f"/proc/{process}/fd/{name}")
            except OSError:  # closed meanwhile
                continue
            if file.st_dev == device and file.st_nlink == 0 and stat.S_ISREG(file.st_mode):
                found[file.st_ino] = file.st_blocks * 512
    return sum(found.values())


class _Count:
    def __init__(self) -> None:
        self.size = 0
        self.entries = 0


def _visit(descriptor: int, depth: int, counted: _Count) -> None:
    try:
        if depth > _MAX_DEPTH:
            raise NotMeasurable(f"it made folders more than {_MAX_DEPTH} deep")
        with os.scandir(descriptor) as entries:
            for entry in entries:
                counted.entries += 1
                if counted.entries > _MAX_ENTRIES:
                    raise NotMeasurable(f"it made more than {_MAX_ENTRIES:,} files")
                try:
                    counted.size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if not entry.is_dir(follow_symlinks=False):
                        continue
                    child = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
                except (FileNotFoundError, NotADirectoryError):  # removed or replaced meanwhile
                    continue
                except OSError as error:
                    raise NotMeasurable(f"a folder that it made can't be read: {error.strerror}") from error
                _visit(child, depth + 1, counted)
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """Bytes that are free on the folder's disk for processes without special rights."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def delete_tree(folder: Path) -> None:
    """Delete a folder of any depth that no process changes any more. What cannot be deleted remains."""
    if folder.exists():
        # Folders without permissions belong to us or, as root, are no obstacle. `rm` handles any depth.
        subprocess.run(["chmod", "-R", "u+rwx", str(folder)], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=False, capture_output=True)
