"""Connections to a Unix socket in a folder whose files somebody hostile makes."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

__all__ = ["connect_below"]

_LIMIT = 64 * 1024


async def connect_below(folder: Path, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the socket `name` of a folder, and to nothing that a link of that name leads to. Raises OSError.

    The file that was checked is the one that is connected to, whatever takes its place; and the length of the folder's path
    does not matter, which the address of a socket limits to 108 bytes.
    """
    file = os.open(folder / name, os.O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISSOCK(os.fstat(file).st_mode):
            raise OSError(f"{name} is no socket")
        return await asyncio.open_unix_connection(f"/proc/self/fd/{file}", limit=_LIMIT)
    finally:
        os.close(file)
