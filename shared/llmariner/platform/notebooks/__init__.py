"""The notebooks port: runs JupyterLab in a folder that is kept, one server per notebook, and says what it does.

Adapters: `local_processes` (child processes of one machine), `kubernetes` (pods of a cluster). A server is identified by its
notebook's id; `run` counts the starts of a notebook, so that what is said about an earlier one is not taken for the present
one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

__all__ = [
    "BASE_PATH",
    "ENDED_BY_ITSELF",
    "NotebookServer",
    "NotebookServers",
    "ServerPhase",
    "ServerStatus",
    "base_url_of",
]

BASE_PATH = "/v1/services/notebooks"
"""Where people reach notebooks."""
ENDED_BY_ITSELF = "JupyterLab was idle, or was shut down from its menu. Its files are kept: start it again."
"""Why a server stopped that nobody stopped from outside."""


class ServerPhase(StrEnum):
    """What a server does."""

    QUEUED = "queued"
    """It waits for room."""
    INITIALIZING = "initializing"
    RUNNING = "running"
    STOPPED = "stopped"
    """It was stopped, was idle, or was shut down from its own menu."""
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether the server has ended."""
        return self in (ServerPhase.STOPPED, ServerPhase.FAILED)


@dataclass(frozen=True)
class NotebookServer:
    """A server to start. `token`: what a request to it has to hold. `environment`: variables of its programs.

    Amounts are thousandths of a core, bytes and whole GPUs. `image`: its type, one of those that the port has.
    """

    notebook_id: str
    run: int
    project_id: str
    token: str
    millicores: int
    memory_bytes: int
    storage_bytes: int
    environment: Mapping[str, str] = field(default_factory=dict)
    organization_id: str = ""
    image: str = ""
    gpu_count: int = 0


@dataclass(frozen=True)
class ServerStatus:
    """What a server does since when (Unix seconds). `code`, `reason`: why it waits, has stopped or failed, for users."""

    run: int
    phase: ServerPhase
    since: float
    code: str = ""
    reason: str = ""


class NotebookServers(Protocol):
    """Runs servers. All methods but `connect` block briefly and are safe in any thread; each is idempotent."""

    @property
    def problem(self) -> str:
        """Why no notebook can run here, for users; empty where they can."""

    @property
    def images(self) -> Mapping[str, str]:
        """The types of images that there are, the default first, each with its reference; "" for one without."""

    @property
    def has_gpus(self) -> bool:
        """Whether a server may have GPUs."""

    def check_size(self, millicores: int, memory_bytes: int) -> str:
        """Why a server of this size can never run here, for users; empty where it can."""

    def start(self, server: NotebookServer) -> None:
        """Start a server soon, in the folder that its notebook had before. No effect while one of the notebook runs."""

    def stop(self, notebook_id: str) -> None:
        """End a server soon; its folder is kept. No effect on one that has ended."""

    def remove(self, notebook_id: str) -> bool:
        """End a server and delete its folder; returns whether both is done, else it is soon."""

    def status(self, notebook_id: str) -> ServerStatus | None:
        """What the last start of a notebook's server came to; None for one that never started here."""

    async def connect(self, notebook_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to a server that runs. Raises OSError."""

    def subscribe(self, observer: Callable[[str], None]) -> None:
        """Call `observer` with the id of each notebook whose server changed its phase, in a thread of the adapter."""


def base_url_of(notebook_id: str) -> str:
    """The path below which a server answers; it ends with a slash."""
    return f"{BASE_PATH}/{notebook_id}/"
