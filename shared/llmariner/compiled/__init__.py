"""The modules of the token path as machine code: the same sources, translated by mypyc.

In an image the compiled files are beside the sources. On one machine they are in a folder of their own, named by a digest
of the sources, so that changed sources never meet old machine code. `LLMARINER_COMPILED` names that folder to a process;
the package reads it before any of the modules is imported. Without it the sources run.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType

__all__ = ["MODULES", "SETTING", "activate", "is_active"]

SETTING = "LLMARINER_COMPILED"
_GATEWAY = "llmariner.gateway"
MODULES = (
    f"{_GATEWAY}.admission.model_checks",
    f"{_GATEWAY}.admission.queue",
    f"{_GATEWAY}.authentication.key_cache",
    f"{_GATEWAY}.metering.meter",
    f"{_GATEWAY}.metering.token_counts",
    f"{_GATEWAY}.requests.body_budget",
    f"{_GATEWAY}.requests.fields",
    f"{_GATEWAY}.requests.handler",
    f"{_GATEWAY}.requests.json_structure",
    f"{_GATEWAY}.requests.max_wait",
    f"{_GATEWAY}.requests.parser",
    f"{_GATEWAY}.requests.request_ids",
    f"{_GATEWAY}.requests.route_app",
    f"{_GATEWAY}.responses.messages",
    f"{_GATEWAY}.responses.server_sent_events",
    f"{_GATEWAY}.responses.stream_relay",
    "llmariner.http.middleware.stack",
    "llmariner.http_client.client",
    "llmariner.http_client.connection",
    "llmariner.http_client.response",
    "llmariner.server.connection",
    "llmariner.server.request_cycle",
    "llmariner.server.request_head",
    "llmariner.server.responses",
)
"""What runs for each request or token. Modules that run rarely stay as they are: machine code takes memory."""


class _Finder(MetaPathFinder):
    """Finds the compiled modules, and the library that holds the code of all of them."""

    def __init__(self, folder: Path) -> None:
        suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
        self._files = {
            file.relative_to(folder).as_posix().removesuffix(suffix).replace("/", "."): file
            for file in folder.rglob(f"*{suffix}")
        }

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        file = self._files.get(name)
        return None if file is None else importlib.util.spec_from_file_location(name, file)


def activate(folder: str) -> None:
    """Import the modules from `folder` from now on. Does nothing when it does not exist."""
    if os.path.isdir(folder):
        sys.meta_path.insert(0, _Finder(Path(folder)))


def is_active() -> bool:
    """Whether this process runs the compiled modules."""
    from llmariner.server import connection

    return not str(connection.__file__).endswith(".py")
