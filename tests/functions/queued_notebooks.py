"""A notebooks port that runs nothing: servers stay queued until they are stopped or removed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmariner.platform.notebooks import NotebookServer, ServerPhase, ServerStatus

__all__ = ["QueuedServers"]


class QueuedServers:
    """See `platform.notebooks.NotebookServers`. `problem` may be set."""

    def __init__(self) -> None:
        self.problem = ""
        self.images = {"jupyter-lab-base": ""}
        self.has_gpus = False
        self.statuses: dict[str, ServerStatus] = {}

    def check_size(self, millicores: int, memory_bytes: int) -> str:
        return ""

    def start(self, server: NotebookServer) -> None:
        self.statuses[server.notebook_id] = ServerStatus(server.run, ServerPhase.QUEUED, 1.0, reason="Nothing runs.")

    def stop(self, notebook_id: str) -> None:
        if (found := self.statuses.get(notebook_id)) is not None:
            self.statuses[notebook_id] = ServerStatus(found.run, ServerPhase.STOPPED, 2.0)

    def remove(self, notebook_id: str) -> bool:
        self.statuses.pop(notebook_id, None)
        return True

    def status(self, notebook_id: str) -> ServerStatus | None:
        return self.statuses.get(notebook_id)

    async def connect(self, notebook_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise ConnectionRefusedError(f"the notebook {notebook_id} does not run")

    def subscribe(self, observer: Callable[[str], None]) -> None:
        pass
