"""Bodies of `/v1/models` as LLMariner's clients send them: the resource in `model`, field masks, enums."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from llmariner.errors import InvalidRequest
from llmariner.http.schemas.bodies import Body
from llmariner.http.schemas.field_masks import merge_masks, parse_mask, unwrap_resource
from llmariner.models.alias import MAX_REASON
from llmariner.models.model import SourceRepository
from llmariner.models.representation import config_paths
from llmariner.models.source_credentials import NewSourceCredential
from llmariner.settings import Secret

__all__ = [
    "ConfigBody",
    "CreateAlias",
    "MoveAlias",
    "PutModelCredential",
    "RollBackAlias",
    "UpdateModel",
    "new_model_config",
    "parse_source_repository",
]

_Revision = Annotated[int | None, Field(ge=1, le=2**31 - 1)]


class ResourcesBody(Body):
    """`config.runtime_config.resources`. `ModelConfig` validates the values of a configuration."""

    gpu: Any = None


class RuntimeBody(Body):
    """`config.runtime_config`."""

    resources: ResourcesBody | None = None
    replicas: Any = None
    max_replicas: Any = None
    extra_args: Any = None


class PolicyBody(Body):
    """`config.cluster_allocation_policy`."""

    enable_on_demand_allocation: Any = None
    allowed_cluster_ids: Any = None


class ConfigBody(Body):
    """`config`."""

    runtime_config: RuntimeBody | None = None
    cluster_allocation_policy: PolicyBody | None = None


def _parse_int64(value: Any) -> Any:
    """An int for a decimal string, as protobuf's JSON writes 64-bit integers; any other value unchanged."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20 else value


class PutModelCredential(Body):
    """POST /v1/model_credentials."""

    name: str
    source_repository: str
    secret: str
    username: str | None = None

    def to_new(self) -> NewSourceCredential:
        """The credential to set."""
        source = parse_source_repository(self.source_repository)
        return NewSourceCredential(self.name, source, Secret(self.secret), self.username)


class ModelFields(Body):
    """The mutable fields of a model. `created` is a precondition: the creation time of the model that is meant by the id."""

    config: ConfigBody = Field(default_factory=ConfigBody)
    created: Annotated[int, BeforeValidator(_parse_int64)] | None = None


class ModelResource(ModelFields):
    """A complete model as LLMariner's clients send it, with a mask that names the changed fields."""

    output_only = frozenset(
        {
            "id",
            "object",
            "owned_by",
            "loading_status",
            "loading_progress",
            "loading_status_message",
            "loaded_bytes",
            "total_bytes",
            "loading_seconds_left",
            "traits",
            "loading_failure_reason",
            "source_repository",
            "formats",
            "task",
            "size_bytes",
            "is_base_model",
            "base_model_id",
            "parent",
            "activation_status",
            "project",
            "serving",
        }
    )


class UpdateModel(ModelFields):
    """PATCH /v1/models/{id}, bare or wrapped in `model`, with `update_mask` here or in the query."""

    model: ModelResource | None = None
    update_mask: str = ""

    def config_change(self, query_mask: str) -> tuple[dict[str, Any], frozenset[str] | None]:
        """The configuration and its paths that change, for `ModelConfig.patched`.

        A wrapped body is protobuf's JSON: a path of the mask that it lacks is zero, empty or false. In a bare body such a
        path takes its default. Raises InvalidRequest for a mask with any other path.
        """
        fields = unwrap_resource(self, self.model, "model")
        covered = config_paths(",".join(parse_mask(merge_masks(query_mask, self.update_mask), "model")))
        config = _sent_fields(fields.config)
        return config if self.model is None else _with_zero_values(config, covered), covered

    @property
    def expected_created(self) -> int | None:
        """The creation time that the model must have, since ids are reused; None: any."""
        return (self.created if self.model is None else self.model.created) or None


def new_model_config(config: ConfigBody | None) -> dict[str, Any]:
    """The configuration of a new model. LLMariner's clients omit zero and false from objects that they send."""
    fields = _sent_fields(config)
    for leaf in (("runtime_config", "resources", "gpu"), ("cluster_allocation_policy", "enable_on_demand_allocation")):
        holder: Any = fields
        for name in leaf[:-1]:
            holder = holder.get(name) if isinstance(holder, dict) else None
        if isinstance(holder, dict):
            holder.setdefault(leaf[-1], _ZERO_VALUES[leaf])
    return fields


def parse_source_repository(value: str) -> SourceRepository:
    """A source repository in any case, with or without the enum's prefix. Raises InvalidRequest for any other value."""
    try:
        return SourceRepository(value.upper().replace("-", "_").removeprefix("SOURCE_REPOSITORY_"))
    except ValueError:
        known = ", ".join(source.value for source in SourceRepository)
        raise InvalidRequest(f"'source_repository' must be one of {known}.", param="source_repository") from None


def _sent_fields(config: ConfigBody | None) -> dict[str, Any]:
    return {} if config is None else config.model_dump(exclude_unset=True)


_ZERO_VALUES: Mapping[tuple[str, ...], Any] = {
    ("runtime_config", "resources", "gpu"): 0,
    ("runtime_config", "replicas"): 0,
    ("runtime_config", "extra_args"): [],
    ("cluster_allocation_policy", "enable_on_demand_allocation"): False,
}


def _with_zero_values(config: Mapping[str, Any], covered: frozenset[str] | None) -> dict[str, Any]:
    """Set each absent leaf that `covered` includes to zero. `covered` None: the leaves of all objects that are present."""
    filled = deepcopy(dict(config))
    for leaf, zero in _ZERO_VALUES.items():
        path = ".".join(leaf)
        if covered is not None and not any(path == each or path.startswith(f"{each}.") for each in covered):
            continue
        holder: Any = filled
        for name in leaf[:-1]:
            holder = holder.get(name) if covered is None else holder.setdefault(name, {})
            if not isinstance(holder, dict):
                break
        else:
            holder.setdefault(leaf[-1], deepcopy(zero))
    return filled


class _AliasChange(Body):
    """Why an alias changes, for its history."""

    reason: str = Field(default="", max_length=MAX_REASON)


class CreateAlias(_AliasChange):
    """POST /v1/model_aliases."""

    alias: str
    model: str = Field(max_length=256)


class MoveAlias(_AliasChange):
    """PATCH /v1/model_aliases/{alias}. `expected_revision`: the last one that the caller saw."""

    model: str = Field(max_length=256)
    expected_revision: _Revision = None


class RollBackAlias(_AliasChange):
    """POST /v1/model_aliases/{alias}/rollback. `revision`: to which; absent: to the model before this one."""

    revision: _Revision = None
    expected_revision: _Revision = None
