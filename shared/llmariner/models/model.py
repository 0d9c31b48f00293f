"""A model as a value, and the rules about its fields (names and defaults are LLMariner's)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from llmariner.errors import InvalidRequest
from llmariner.platform.serving import served_name

__all__ = [
    "ActivationStatus",
    "LoadingStatus",
    "Model",
    "ModelConfig",
    "NewModel",
    "SourceRepository",
    "Task",
    "qualified",
]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}")
_SUFFIX_LENGTH = 18
_EXTRA_ARGS = 64
_LONGEST_LOCATION = 1024


def qualified(name: str, project_id: str) -> str:
    """The id in the registry of a project's own model whose name another model has, too. No name holds an `@`."""
    return f"{name}@{project_id}"


class LoadingStatus(StrEnum):
    """Where the weights are on their way here."""

    REQUESTED = "REQUESTED"
    LOADING = "LOADING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class ActivationStatus(StrEnum):
    """ACTIVE: kept awake. INACTIVE: asleep, woken by a request where on-demand allocation is enabled."""

    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"


class SourceRepository(StrEnum):
    """Where weights come from. KUBERNETES: from an InferenceService that somebody made with kubectl."""

    OBJECT_STORE = "OBJECT_STORE"
    HUGGING_FACE = "HUGGING_FACE"
    OLLAMA = "OLLAMA"
    FINE_TUNING = "FINE_TUNING"
    LOCAL = "LOCAL"
    KUBERNETES = "KUBERNETES"


class Task(StrEnum):
    """What the engine is started for."""

    GENERATE = "generate"
    EMBED = "embed"


@dataclass(frozen=True)
class ModelConfig:
    """How a model is to run."""

    gpu: int = 1
    replicas: int = 1
    extra_args: tuple[str, ...] = ()
    on_demand: bool = True
    max_replicas: int = 0
    """Up to how many an autoscaler may go from `replicas`; less than that: there is none."""

    @classmethod
    def read(cls, value: Any) -> ModelConfig:
        """From the API's shape, defaults where absent. InvalidRequest names the field."""
        return cls().patched(value or {}, paths=None)

    def patched(self, value: Any, *, paths: frozenset[str] | None) -> ModelConfig:
        """With the fields of `value` that `paths` (an update mask without `config.`) covers; None covers all."""
        runtime = _object(_object(value, "config").get("runtime_config", {}), "config.runtime_config")
        policy = _object(value.get("cluster_allocation_policy", {}), "config.cluster_allocation_policy")
        resources = _object(runtime.get("resources", {}), "config.runtime_config.resources")
        changes: dict[str, Any] = {}
        for name, path, where, key in _FIELDS:
            covered = paths is None or any(path == p or path.startswith(p + ".") for p in paths)
            holder = {"resources": resources, "runtime": runtime, "policy": policy}[where]
            if covered and key in holder:
                changes[name] = _CHECKS[name](holder[key], f"config.{path}")
            elif covered and paths is not None:
                changes[name] = getattr(type(self)(), name)
        changed = replace(self, **changes)
        if 0 < changed.max_replicas < changed.replicas:
            raise InvalidRequest(
                f"'config.runtime_config.max_replicas' must be 0, or at least {changed.replicas}, the replicas.",
                param="config.runtime_config.max_replicas",
            )
        return changed

    def shown(self) -> dict[str, Any]:
        """In the API's shape."""
        return {
            "runtime_config": {
                "resources": {"gpu": self.gpu},
                "replicas": self.replicas,
                "max_replicas": self.max_replicas,
                "extra_args": list(self.extra_args),
            },
            "cluster_allocation_policy": {"enable_on_demand_allocation": self.on_demand},
        }


_FIELDS = (
    ("gpu", "runtime_config.resources.gpu", "resources", "gpu"),
    ("replicas", "runtime_config.replicas", "runtime", "replicas"),
    ("max_replicas", "runtime_config.max_replicas", "runtime", "max_replicas"),
    ("extra_args", "runtime_config.extra_args", "runtime", "extra_args"),
    (
        "on_demand",
        "cluster_allocation_policy.enable_on_demand_allocation",
        "policy",
        "enable_on_demand_allocation",
    ),
)
CONFIG_PATHS = frozenset(
    prefix for _, path, _, _ in _FIELDS for prefix in (path, path.rsplit(".", 1)[0], path.split(".")[0])
)


def _object(value: Any, param: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"'{param}' must be an object.", param=param)
    return value


def _count(least: int, most: int) -> Any:
    def check(value: Any, param: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidRequest(f"'{param}' must be a whole number from {least} to {most}.", param=param)
        return value

    return check


def _arguments(value: Any, param: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _EXTRA_ARGS or not all(isinstance(v, str) for v in value):
        raise InvalidRequest(f"'{param}' must be a list of at most {_EXTRA_ARGS} strings.", param=param)
    if any("\0" in v or len(v) > 1024 for v in value):
        raise InvalidRequest(f"'{param}' holds a string over 1024 characters or with a NUL.", param=param)
    return tuple(value)


def _flag(value: Any, param: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(f"'{param}' must be true or false.", param=param)
    return value


_CHECKS: dict[str, Any] = {
    "gpu": _count(0, 64),
    "replicas": _count(1, 100),
    "max_replicas": _count(0, 100),
    "extra_args": _arguments,
    "on_demand": _flag,
}


@dataclass(frozen=True)
class NewModel:
    """What a caller says of a model to be registered."""

    id: str
    source_repository: SourceRepository
    model_file_location: str
    base_model_id: str | None = None
    project_id: str | None = None
    config: ModelConfig = field(default_factory=ModelConfig)
    task: Task | None = None

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id) or "//" in self.id or ".." in self.id:
            raise InvalidRequest(
                f"'{self.id[:80]}' is no model id: letters, digits and . _ : / -, at most 200 characters.",
                param="id",
            )
        location = self.model_file_location
        if len(location) > _LONGEST_LOCATION or not location.isprintable():
            raise InvalidRequest(
                f"'model_file_location' must be at most {_LONGEST_LOCATION} printable characters.",
                param="model_file_location",
            )

    @staticmethod
    def fine_tuned_id(base: str, suffix: str) -> str:
        """The id of a fine-tuned model: `ft:<base>:<suffix>`."""
        if not 1 <= len(suffix) <= _SUFFIX_LENGTH:
            raise InvalidRequest(f"'suffix' must be 1 to {_SUFFIX_LENGTH} characters long.", param="suffix")
        return f"ft:{base}:{suffix}"


@dataclass(frozen=True)
class Model:
    """A registered model. `folder`: its weights here; empty until they arrived. `size_bytes`: of the weights.

    `id`: in the registry, which is its name unless that is another project's, too.
    """

    id: str
    created_at: int
    project_id: str | None
    owned_by: str
    source_repository: SourceRepository
    model_file_location: str
    format: str
    task: Task
    base_model_id: str | None
    loading_status: LoadingStatus
    loading_progress: float
    loading_message: str
    loading_failure_reason: str
    activation_status: ActivationStatus
    folder: str
    size_bytes: int
    config: ModelConfig
    revision: int
    approved: bool
    """An administrator, or the platform itself, chose its location and engine arguments: no list binds them."""

    @property
    def name(self) -> str:
        """What callers call it."""
        return served_name(self.id)

    @property
    def base_name(self) -> str | None:
        """What callers call the model that it is an adapter of."""
        return None if self.base_model_id is None else served_name(self.base_model_id)

    @property
    def loaded(self) -> bool:
        """The weights are here."""
        return self.loading_status is LoadingStatus.SUCCEEDED
