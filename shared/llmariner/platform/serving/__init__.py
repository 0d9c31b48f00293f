"""The serving port: models awake and asleep. One writer per transition; whoever asks only sees and wishes.

Adapters: `processes` (engines as child processes of one machine), `static` (engines that somebody else runs at fixed
URLs), `kserve` (InferenceServices of a cluster), `remote` (another process's port, over HTTP).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol

__all__ = ["IMPORTED_SCHEME", "EngineModel", "Phase", "Serving", "Status", "served_name"]

IMPORTED_SCHEME = "kserve://"
"""Begins the `folder` of a model that somebody else made an InferenceService for; its name follows."""


def served_name(model_id: str) -> str:
    """What callers and engines call a model, from its id in the registry, which a project may qualify."""
    return model_id.partition("@")[0]


class Phase(StrEnum):
    """Where a model is between asleep and ready; what a waiting caller is told."""

    ASLEEP = "asleep"
    QUEUED = "queued"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True)
class EngineModel:
    """What a serving adapter must know of a model. An adapter (`base`) is served by its base's engine.

    `folder`: a path, or on a cluster a storage URI. For clusters: `gpus`; `replicas`, when it is awake, and how many an
    autoscaler may make of them (`max_replicas`); `project`, None: everybody's. `blocked`: why no engine may be started for
    it; `trusted`: an administrator chose its arguments, `--trust-remote-code` among them where it is there; `created`, in
    seconds since 1970: tells it from another model that had its id before.
    """

    id: str
    folder: str
    task: str
    size_bytes: int
    extra_args: tuple[str, ...] = ()
    base: str | None = None
    keep_awake: bool = False
    typical_wake_seconds: float | None = None
    gpus: int = 0
    replicas: int = 1
    max_replicas: int = 0
    project: str | None = None
    blocked: str = ""
    trusted: bool = False
    created: int = 0
    adapters_of: str | None = None
    """A project whose adapters alone this engine serves, apart from the base model that others share."""

    @property
    def name(self) -> str:
        """What callers call it, and so its engine."""
        return served_name(self.id)


@dataclass(frozen=True)
class Status:
    """A model's state. `progress` 0 to 1; `endpoint` and `capacity` (requests at once) only when ready.

    `replicas`: each engine's own endpoint, where there are several. `message` is for everybody who sees the model; `detail`,
    what an engine printed, for those who run the platform: it may name folders, and hold what other tenants asked.
    """

    phase: Phase = Phase.ASLEEP
    progress: float = 0.0
    estimate_seconds: float | None = None
    message: str = ""
    endpoint: str | None = None
    capacity: int = 0
    requests_running: int = 0
    requests_waiting: int = 0
    generation_tokens: int = 0
    tokens_per_second: float = 0.0
    memory_bytes: int = 0
    replicas: tuple[str, ...] = ()
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Status:
        """Back from `shown`; what a later version says more is left out."""
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        return cls(**{**known, "phase": Phase(value["phase"]), "replicas": tuple(value.get("replicas", ()))})


class Serving(Protocol):
    """Wake models, put them to sleep, tell how they are. Unknown models raise ModelNotFound."""

    async def status(self, model_id: str) -> Status:
        """How the model is now; cheap, asked many times a second while somebody waits."""

    async def statuses(self) -> dict[str, Status]:
        """Every model that is not asleep, adapters that an engine serves included."""

    async def wake(self, model_id: str) -> None:
        """Wish it awake; returns at once. Idempotent; the load goes on whether or not anybody waits."""

    async def sleep(self, model_id: str) -> None:
        """End its engine. Idempotent."""

    async def remove(self, model_id: str, folder: str) -> None:
        """End the engine of a model that was deleted, and forget it. Idempotent.

        Whether it was is asked of the registry: a model that is registered under that id keeps its engine.
        """

    async def import_existing(self, service: str) -> None:
        """Look at an InferenceService that somebody made or deleted: make its model known, or forget it. Idempotent."""

    async def reconcile(self) -> None:
        """Do what must happen without anybody asking, where no process of ours stays to do it; called every minute."""

    def subscribe(self, observer: Callable[[str, Status], None]) -> None:
        """Call `observer` at each change of a phase, in the loop's thread."""

    async def close(self) -> None:
        """End what this adapter started."""
