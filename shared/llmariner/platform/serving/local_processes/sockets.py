"""Unix sockets of the engines of one machine, in folders that only their owner may enter.

Any local user could connect to a loopback port, and vLLM's API key does not protect metrics, tokenizing and adapter
loading.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from itertools import count
from pathlib import Path

__all__ = ["EngineSockets", "remove_stale_folders"]

_PREFIX = "llmariner-"

# The kernel limits a socket path to 107 bytes. `folder` is followed by a folder of this process, one of the engine and, the
# longest name in it, the UUID of one of vLLM's own sockets.
_MAX_FOLDER_BYTES = 107 - len("/llmariner-12345678/1000000/") - 36


def remove_stale_folders(folder: Path) -> None:
    """Remove the folders that an earlier process left below `folder`; other files stay."""
    for stale in folder.glob(f"{_PREFIX}*"):
        shutil.rmtree(stale, ignore_errors=True)


class EngineSockets:
    """Creates a folder for each engine, in a new folder below `folder`, or in TMPDIR if that path is too long."""

    def __init__(self, folder: Path) -> None:
        within: Path | None = None
        if len(os.fsencode(folder)) <= _MAX_FOLDER_BYTES:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            within = folder
        # mkdtemp creates it with mode 0700.
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=within))
        self._numbers = count(1)

    def new(self) -> Path:
        """An unused socket path in a new folder for one engine's files."""
        folder = self._folder / str(next(self._numbers))
        folder.mkdir(mode=0o700)
        return folder / "engine.sock"

    def remove(self, socket: Path) -> None:
        """Remove the folder of an engine that has exited, with all files in it."""
        shutil.rmtree(socket.parent, ignore_errors=True)

    def close(self) -> None:
        """Remove all folders."""
        shutil.rmtree(self._folder, ignore_errors=True)
