"""Where the engines of one machine listen: Unix sockets in folders that their owner alone may enter.

A port on the loopback address answers any local user, and vLLM's own key leaves metrics, tokenizing and the loading of
adapters open.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from itertools import count
from pathlib import Path

__all__ = ["EngineSockets", "remove_stale_folders"]

_PREFIX = "llmariner-"

# The kernel takes 107 bytes for the path of a socket. After `folder` come a folder of our own, an engine's and, the longest
# name there, the UUID of one of vLLM's own sockets.
_MAX_FOLDER_BYTES = 107 - len("/llmariner-12345678/1000000/") - 36


def remove_stale_folders(folder: Path) -> None:
    """Remove the folders that an earlier process left below `folder`; other files stay."""
    for stale in folder.glob(f"{_PREFIX}*"):
        shutil.rmtree(stale, ignore_errors=True)


class EngineSockets:
    """A new folder for each engine, in a new folder below `folder`; elsewhere if that path is too long."""

    def __init__(self, folder: Path) -> None:
        within: Path | None = None
        if len(os.fsencode(folder)) <= _MAX_FOLDER_BYTES:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            within = folder
        # Made with mode 0700.
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=within))
        self._numbers = count(1)

    def new(self) -> Path:
        """The path of a socket that no engine of this owner has listened on, in a folder for this engine's files."""
        folder = self._folder / str(next(self._numbers))
        folder.mkdir(mode=0o700)
        return folder / "engine.sock"

    def remove(self, socket: Path) -> None:
        """Remove the folder of an engine that has ended, with all files in it."""
        shutil.rmtree(socket.parent, ignore_errors=True)

    def close(self) -> None:
        """Remove all folders."""
        shutil.rmtree(self._folder, ignore_errors=True)
