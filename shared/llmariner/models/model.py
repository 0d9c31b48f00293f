"""The model value and the rules of its fields; names and defaults are LLMariner's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from llmariner.errors import InvalidRequest
from llmariner.models.traits import ModelTraits
from llmariner.platform.serving import served_name

__all__ = [
    "ActivationStatus",
    "LoadingStatus",
    "Model",
    "ModelConfig",
    "NewModel",
    "SourceRepository",
    "Task",
    "qualified_id",
]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}")
_MAX_SUFFIX_LENGTH = 18
_MAX_EXTRA_ARGS = 64
_MAX_LOCATION_LENGTH = 1024
_MAX_CLUSTERS = 100
_CLUSTER_ID = re.compile(r"cluster-[0-9a-z]{1,56}")


def qualified_id(name: str, project_id: str) -> str:
    """The registry id of a project's model whose name another model has, too. A name contains no `@`."""
    return f"{name}@{project_id}"


class LoadingStatus(StrEnum):
    """How far the weights of a model are fetched."""

    REQUESTED = "REQUESTED"
    LOADING = "LOADING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class ActivationStatus(StrEnum):
    """ACTIVE: always awake. INACTIVE: scaled to zero; a request wakes it where on-demand allocation is enabled."""

    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"


class SourceRepository(StrEnum):
    """Where weights come from. KUBERNETES: an InferenceService that a user created with kubectl serves the model."""

    OBJECT_STORE = "OBJECT_STORE"
    HUGGING_FACE = "HUGGING_FACE"
    OLLAMA = "OLLAMA"
    FINE_TUNING = "FINE_TUNING"
    LOCAL = "LOCAL"
    KUBERNETES = "KUBERNETES"


class Task(StrEnum):
    """The task that the engine serves."""

    GENERATE = "generate"
    EMBED = "embed"


@dataclass(frozen=True)
class ModelConfig:
    """How a model runs."""

    gpu: int = 1
    replicas: int = 1
    extra_args: tuple[str, ...] = ()
    on_demand: bool = True
    max_replicas: int = 0
    """The autoscaler's maximum; there is no autoscaler where it is less than `replicas`."""
    allowed_clusters: tuple[str, ...] = ()
    """The ids of the clusters on which it may run; empty: on all that its project has."""

    @classmethod
    def from_api(cls, value: Any) -> ModelConfig:
        """Parse the API's JSON; absent fields get their defaults. InvalidRequest names the invalid field."""
        return cls().apply_patch(value or {}, paths=None)

    def apply_patch(self, value: Any, *, paths: frozenset[str] | None) -> ModelConfig:
        """Return a copy with the fields of `value` that `paths` covers: an update mask without `config.`; None covers all.

        A covered field that `value` lacks gets its default, unless `paths` is None. InvalidRequest names the invalid field.
        """
        runtime = _object(_object(value, "config").get("runtime_config", {}), "config.runtime_config")
        policy = _object(value.get("cluster_allocation_policy", {}), "config.cluster_allocation_policy")
        resources = _object(runtime.get("resources", {}), "config.runtime_config.resources")
        changes: dict[str, Any] = {}
        for name, path, where, key in _FIELDS:
            covered = paths is None or any(path == p or path.startswith(p + ".") for p in paths)
            holder = {"resources": resources, "runtime": runtime, "policy": policy}[where]
            if covered and key in holder:
                changes[name] = _VALIDATORS[name](holder[key], f"config.{path}")
            elif covered and paths is not None:
                changes[name] = getattr(type(self)(), name)
        changed = replace(self, **changes)
        if 0 < changed.max_replicas < changed.replicas:
            raise InvalidRequest(
                f"'config.runtime_config.max_replicas' must be 0, or at least {changed.replicas}, the replicas.",
                param="config.runtime_config.max_replicas",
            )
        return changed

    def to_api(self) -> dict[str, Any]:
        """The API's JSON."""
        return {
            "runtime_config": {
                "resources": {"gpu": self.gpu},
                "replicas": self.replicas,
                "max_replicas": self.max_replicas,
                "extra_args": list(self.extra_args),
            },
            "cluster_allocation_policy": {
                "enable_on_demand_allocation": self.on_demand,
                "allowed_cluster_ids": list(self.allowed_clusters),
            },
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
    ("allowed_clusters", "cluster_allocation_policy.allowed_cluster_ids", "policy", "allowed_cluster_ids"),
)
CONFIG_PATHS = frozenset(
    prefix for _, path, _, _ in _FIELDS for prefix in (path, path.rsplit(".", 1)[0], path.split(".")[0])
)


def _object(value: Any, param: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"'{param}' must be an object.", param=param)
    return value


def _integer(minimum: int, maximum: int) -> Any:
    def check(value: Any, param: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise InvalidRequest(f"'{param}' must be a whole number from {minimum} to {maximum}.", param=param)
        return value

    return check


def _arguments(value: Any, param: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _MAX_EXTRA_ARGS or not all(isinstance(v, str) for v in value):
        raise InvalidRequest(f"'{param}' must be a list of at most {_MAX_EXTRA_ARGS} strings.", param=param)
    if any("\0" in v or len(v) > 1024 for v in value):
        raise InvalidRequest(f"'{param}' holds a string over 1024 characters or with a NUL.", param=param)
    return tuple(value)


def _cluster_ids(value: Any, param: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _MAX_CLUSTERS or not all(isinstance(v, str) for v in value):
        raise InvalidRequest(f"'{param}' must be a list of at most {_MAX_CLUSTERS} ids of clusters.", param=param)
    wrong = next((each for each in value if not _CLUSTER_ID.fullmatch(each)), None)
    if wrong is not None:
        raise InvalidRequest(f"'{wrong[:64]}' in '{param}' is no id of a cluster: see GET /v1/clusters.", param=param)
    return tuple(dict.fromkeys(value))


def _flag(value: Any, param: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(f"'{param}' must be true or false.", param=param)
    return value


_VALIDATORS: dict[str, Any] = {
    "gpu": _integer(0, 64),
    "replicas": _integer(1, 100),
    "max_replicas": _integer(0, 100),
    "extra_args": _arguments,
    "on_demand": _flag,
    "allowed_clusters": _cluster_ids,
}


@dataclass(frozen=True)
class NewModel:
    """The fields of a model to be registered. InvalidRequest for an invalid id or location."""

    id: str
    source_repository: SourceRepository
    model_file_location: str
    base_model_id: str | None = None
    project_id: str | None = None
    config: ModelConfig = field(default_factory=ModelConfig)
    task: Task | None = None
    credential_id: str | None = None
    """Of `models.source_credentials`, by which its files are fetched; None: the installation's."""

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id) or "//" in self.id or ".." in self.id:
            raise InvalidRequest(
                f"'{self.id[:80]}' is no model id: letters, digits and . _ : / -, at most 200 characters.",
                param="id",
            )
        location = self.model_file_location
        if len(location) > _MAX_LOCATION_LENGTH or not location.isprintable():
            raise InvalidRequest(
                f"'model_file_location' must be at most {_MAX_LOCATION_LENGTH} printable characters.",
                param="model_file_location",
            )

    @staticmethod
    def fine_tuned_id(base: str, suffix: str) -> str:
        """The id of a fine-tuned model: `ft:<base>:<suffix>`."""
        if not 1 <= len(suffix) <= _MAX_SUFFIX_LENGTH:
            raise InvalidRequest(f"'suffix' must be 1 to {_MAX_SUFFIX_LENGTH} characters long.", param="suffix")
        return f"ft:{base}:{suffix}"


@dataclass(frozen=True)
class Model:
    """A registered model. `folder` is where its weights are, empty until they are fetched; `size_bytes` is their size.

    `id` is unique in the registry: the name, or the qualified name where another project's model has the same name.
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
    """An administrator or the platform itself chose its location and engine arguments: no allow-list applies to them."""
    loaded_bytes: int = 0
    total_bytes: int = 0
    loading_seconds_left: float | None = None
    """Until the weights are fetched, by the rate of the last half minute; None where nobody can say."""
    traits: ModelTraits = field(default_factory=ModelTraits)
    credential_id: str | None = None
    """As in `NewModel`."""

    @property
    def name(self) -> str:
        """The id that the API shows."""
        return served_name(self.id)

    @property
    def base_name(self) -> str | None:
        """The name of the base model of an adapter; None for a base model."""
        return None if self.base_model_id is None else served_name(self.base_model_id)

    @property
    def loaded(self) -> bool:
        """Whether the weights are fetched."""
        return self.loading_status is LoadingStatus.SUCCEEDED
