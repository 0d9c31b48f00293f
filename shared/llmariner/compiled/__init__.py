"""The modules of the token path as machine code: the same sources, translated by mypyc.

In an image the compiled files are beside the sources. On one machine they are in a folder of their own, named by a digest
of the sources, so that changed sources never meet old machine code. `LLMARINER_COMPILED` names that folder to a process;
the package reads it before any of the modules is imported. `off` stands for the sources, also in an image.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

__all__ = ["MANIFEST", "MODULES", "OFF", "SETTING", "activate", "is_active", "modules_digest", "source_of", "unusable"]

SETTING = "LLMARINER_COMPILED"
OFF = "off"
MANIFEST = "files.txt"
"""A file of a compiled folder: the digest of the modules and the number of files, then the size and path of each file."""

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_GATEWAY = "llmariner.gateway"
MODULES = (
    f"{_GATEWAY}.admission.model_checks",
    f"{_GATEWAY}.admission.queue",
    f"{_GATEWAY}.authentication.key_cache",
    f"{_GATEWAY}.control_plane.port",
    f"{_GATEWAY}.limits.applicable_limits",
    f"{_GATEWAY}.limits.leased_quota",
    f"{_GATEWAY}.limits.limiter",
    f"{_GATEWAY}.metering.meter",
    f"{_GATEWAY}.metering.settlement",
    f"{_GATEWAY}.metering.token_counts",
    f"{_GATEWAY}.requests.body_budget",
    f"{_GATEWAY}.requests.fields",
    f"{_GATEWAY}.requests.handler",
    f"{_GATEWAY}.requests.json_structure",
    f"{_GATEWAY}.requests.max_wait",
    f"{_GATEWAY}.requests.parser",
    f"{_GATEWAY}.requests.request_ids",
    f"{_GATEWAY}.requests.route_app",
    f"{_GATEWAY}.responses.client_response",
    f"{_GATEWAY}.responses.messages",
    f"{_GATEWAY}.responses.server_sent_events",
    f"{_GATEWAY}.responses.stream_relay",
    f"{_GATEWAY}.state",
    "llmariner.http.middleware.stack",
    "llmariner.http_client.client",
    "llmariner.http_client.connection",
    "llmariner.http_client.response",
    "llmariner.server.connection",
    "llmariner.server.limits",
    "llmariner.server.request_cycle",
    "llmariner.server.request_head",
    "llmariner.server.request_task",
    "llmariner.server.responses",
)
"""What runs for each request or token. Modules that run rarely stay as they are: machine code takes memory."""


class _Finder:
    """Finds modules in the files named for them. `importlib.abc` has a base class, but its import takes 1 MiB."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        file = self._files.get(name)
        return None if file is None else importlib.util.spec_from_file_location(name, file)


def activate(folder: str) -> None:
    """Import the modules from `folder` from now on, or their sources if it is `off`.

    Does nothing when the folder does not exist, or must not be used; the reason is printed.
    """
    if folder == OFF:
        sys.meta_path.insert(0, _Finder({name: source_of(name) for name in MODULES}))
    elif os.path.isdir(folder):
        if reason := unusable(Path(folder)):
            print(f"The token path is not run as machine code: {reason}.", file=sys.stderr)
            return
        suffix, root = importlib.machinery.EXTENSION_SUFFIXES[0], Path(folder)
        files = [file for file in _sizes(root) if file.name.endswith(suffix)]
        # Also the library that has the code of all modules.
        names = (file.relative_to(root).as_posix().removesuffix(suffix).replace("/", ".") for file in files)
        sys.meta_path.insert(0, _Finder(dict(zip(names, files, strict=True))))


def unusable(folder: Path) -> str:
    """Why machine code must not be loaded from `folder`; empty if it may.

    Its files are complete, belong to these modules, and no other user but root can write or replace them.
    """
    try:
        digest, _, number = (folder / MANIFEST).read_text().partition("\n")[0].partition(" ")
        if digest != modules_digest():
            return f"{folder} was made from other sources"
        sizes = _sizes(folder)
        # A crash may leave the beginning of the manifest.
        if number != str(len(sizes)) or any(file.stat().st_size != size for file, size in sizes.items()):
            return f"{folder} is incomplete"
        folders = {parent for file in sizes for parent in file.parents if parent.is_relative_to(folder)}
        # Nobody but its owner renames a file in a folder with the sticky bit.
        holder = folder.parent.stat()
        exposed = bool(holder.st_mode & stat.S_IWOTH) and not holder.st_mode & stat.S_ISVTX
        if exposed or not _is_own(holder):
            return f"other users can replace {folder}"
        for path in (folder / MANIFEST, *sizes, *folders):
            status = path.stat()
            if not _is_own(status) or status.st_mode & _OTHERS_WRITE:
                return f"other users can write to {path}"
    except (OSError, ValueError):
        return f"{folder} is incomplete"
    return ""


def _is_own(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid())


def _sizes(folder: Path) -> dict[Path, int]:
    """The files of a compiled folder and their sizes, as its manifest lists them. Raises OSError and ValueError."""
    lines = (line.split(" ", 1) for line in (folder / MANIFEST).read_text().splitlines()[1:])
    return {folder / path: int(size) for size, path in lines}


def source_of(module: str) -> Path:
    """The source of one of the modules."""
    return Path(__file__).parents[2] / f"{module.replace('.', '/')}.py"


def modules_digest() -> str:
    """A digest of the sources of all modules and of the interpreter's version."""
    import hashlib

    digest = hashlib.sha256(sys.version.encode())
    for module in MODULES:
        digest.update(module.encode() + source_of(module).read_bytes())
    return digest.hexdigest()


def is_active() -> bool:
    """Whether this process runs the compiled modules."""
    from llmariner.server import connection

    return not str(connection.__file__).endswith(".py")
