"""Where the engines of one machine listen: Unix sockets in a folder that its owner alone may enter.

A port on the loopback address answers any local user, and vLLM's own key leaves metrics, tokenizing and the loading of
adapters open.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from itertools import count
from pathlib import Path

__all__ = ["EngineSockets"]

# The kernel takes 107 bytes for the path of a socket; a folder of our own and the socket's name come after it.
_LONGEST_FOLDER = 80


class EngineSockets:
    """Names for sockets, each given once, in a new folder below `folder`; elsewhere if that path is too long."""

    def __init__(self, folder: Path) -> None:
        within: Path | None = None
        if len(os.fsencode(folder)) <= _LONGEST_FOLDER:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            within = folder
        # Made with mode 0700.
        self._folder = Path(tempfile.mkdtemp(prefix="llmariner-", dir=within))
        self._numbers = count(1)

    def new(self) -> Path:
        """A path that no engine of this owner has listened on."""
        return self._folder / f"{next(self._numbers)}.sock"

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
