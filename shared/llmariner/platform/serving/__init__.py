"""The serving port: reads and changes the state of models' engines. Callers request a transition; one writer performs it.

Adapters: `local_processes` (engines as child processes of one machine), `static` (engines that others run at fixed URLs),
`kserve` (InferenceServices of a cluster), `remote` (the control plane's port, over HTTP).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol

__all__ = [
    "DEFAULT_TOOL_PARSER",
    "IMPORTED_SCHEME",
    "OWN_FILE_SCHEME",
    "EngineModel",
    "Phase",
    "Serving",
    "Status",
    "served_name",
]

IMPORTED_SCHEME = "kserve://"
"""Prefix of `EngineModel.folder` for a model whose InferenceService the platform did not create; its name follows."""

OWN_FILE_SCHEME = "llmariner-file://"
"""Prefix of `EngineModel.folder` for an adapter on a cluster that is a file of the platform, made by a job."""

DEFAULT_TOOL_PARSER = "hermes"
"""vLLM's parser of tool calls for a model whose files name none."""


def served_name(model_id: str) -> str:
    """The model name in requests and engines: its registry id without the `@project` part."""
    return model_id.partition("@")[0]


class Phase(StrEnum):
    """The state of a model, from asleep to ready, as waiting callers see it."""

    ASLEEP = "asleep"
    QUEUED = "queued"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True)
class EngineModel:
    """What a serving adapter needs of a model. The engine of the `base` model serves a LoRA adapter.

    `folder`: a path, or on a cluster a storage URI. Clusters only: `gpus`; `replicas` while awake, and the most that an
    autoscaler may make of them (`max_replicas`); `project`, None for a model of all projects, and its `organization`.
    `blocked`: why no engine may start, empty if one may. `trusted`: an administrator chose its arguments, so
    `--trust-remote-code` is effective. `created`: Unix time in seconds; distinguishes models that had the same id one after
    another.
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
    organization: str | None = None
    blocked: str = ""
    trusted: bool = False
    created: int = 0
    adapters_of: str | None = None
    """The project whose adapters this engine serves, separately from the engine of the shared base model."""
    tool_parser: str = ""
    """vLLM's parser of tool calls; empty: `DEFAULT_TOOL_PARSER`."""
    reasoning_parser: str = ""
    """vLLM's parser of reasoning; empty: none."""
    storage_uri: str = ""
    """From where engines of worker clusters fetch the weights; empty: they can't."""
    allowed_clusters: tuple[str, ...] = ()
    """The clusters on which it may run; empty: all that its project has."""
    weights_token: str = ""
    """With which the engine's pod fetches an adapter that is a file of the platform."""

    @property
    def name(self) -> str:
        """The name that callers and its engine use."""
        return served_name(self.id)


@dataclass(frozen=True)
class Status:
    """A model's state. `progress` is 0 to 1; `endpoint` and `capacity` (concurrent requests) are set only when ready.

    `replicas`: the endpoint of each engine replica, if there are several. `message` is shown to every user of the model.
    `detail` is an engine's output, for operators only: it may contain paths and other tenants' requests.
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
    clusters: tuple[tuple[str, str, str], ...] = ()
    """Id and name of each cluster on which it is placed, and its phase there; empty where there are no others."""

    def to_json(self) -> dict[str, Any]:
        """The JSON object of this status; its keys are the field names."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Status:
        """Parse what `to_json` returned; fields of later releases are ignored."""
        fields = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        fields["phase"] = Phase(value["phase"])
        fields["replicas"] = tuple(value.get("replicas", ()))
        fields["clusters"] = tuple((id_, name, phase) for id_, name, phase, *_ in value.get("clusters", ()))
        return cls(**fields)


class Serving(Protocol):
    """Wakes models, puts them to sleep, reports their status. Unknown models raise ModelNotFound."""

    async def status(self, model_id: str) -> Status:
        """The current status; cheap, since waiting requests poll it many times a second."""

    async def statuses(self) -> dict[str, Status]:
        """Every model that is not asleep, including the LoRA adapters of running engines."""

    async def wake(self, model_id: str) -> None:
        """Request that the model wakes; returns at once. Idempotent; loading continues when no request waits."""

    async def sleep(self, model_id: str) -> None:
        """Stop its engine. Idempotent."""

    async def remove(self, model_id: str, folder: str) -> None:
        """Stop the engine of a deleted model and drop its state. Idempotent.

        A model that the registry has under that id now keeps its engine.
        """

    async def import_existing(self, service: str) -> None:
        """Register the model of an InferenceService that others created, or unregister it after deletion. Idempotent."""

    async def reconcile(self) -> None:
        """Perform periodic work, such as putting idle models to sleep; called every minute. Idempotent."""

    def subscribe(self, observer: Callable[[str, Status], None]) -> None:
        """Call `observer` with the model id and status at each change of phase, in the event loop's thread."""

    async def close(self) -> None:
        """Release resources; stop the processes that this adapter started."""
