"""Bodies of `/v1/models` as LLMariner's clients write them: the resource below `model`, field masks, enumerations."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from llmariner.errors import InvalidRequest
from llmariner.http.schemas.bodies import Body
from llmariner.http.schemas.field_masks import merge_masks, parse_mask, unwrap_resource
from llmariner.models.model import SourceRepository
from llmariner.models.representation import config_paths

__all__ = ["ConfigBody", "UpdateModel", "new_model_config", "parse_source_repository"]


class ResourcesBody(Body):
    """`config.runtime_config.resources`. The values of a configuration are checked by `ModelConfig`."""

    gpu: Any = None


class RuntimeBody(Body):
    """`config.runtime_config`."""

    resources: ResourcesBody | None = None
    replicas: Any = None
    max_replicas: Any = None
    extra_args: Any = None


class PolicyBody(Body):
    """`config.cluster_allocation_policy`. LLMariner's list of clusters: empty, since a model runs in this one."""

    enable_on_demand_allocation: Any = None
    allowed_cluster_ids: list[str] = Field(default_factory=list, max_length=0)


class ConfigBody(Body):
    """`config`."""

    runtime_config: RuntimeBody | None = None
    cluster_allocation_policy: PolicyBody | None = None


def _parse_int64(said: Any) -> Any:
    """Protobuf's JSON writes 64-bit numbers as texts."""
    return int(said) if isinstance(said, str) and said.isascii() and said.isdigit() and len(said) < 20 else said


class ModelFields(Body):
    """What of a model can be changed. `created` changes nothing: it says which of the models that may have had the id."""

    config: ConfigBody = Field(default_factory=ConfigBody)
    created: Annotated[int, BeforeValidator(_parse_int64)] | None = None


class ModelResource(ModelFields):
    """A model as LLMariner's clients send it: whole, with a mask that names what changes."""

    output_only = frozenset(
        {
            "id",
            "object",
            "owned_by",
            "loading_status",
            "loading_progress",
            "loading_status_message",
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
    """PATCH /v1/models/{id}, bare or wrapped in `model`; `update_mask` is required, here or in the query."""

    model: ModelResource | None = None
    update_mask: str = ""

    def change(self, mask_in_query: str) -> tuple[dict[str, Any], frozenset[str] | None]:
        """The configuration and the paths of it that change, for `ModelConfig.patched`.

        Wrapped, it is protobuf's JSON: what the mask covers and the body lacks is zero, empty or false. Bare, it is the
        default. InvalidRequest for a mask that names anything else.
        """
        fields = unwrap_resource(self, self.model, "model")
        covered = config_paths(",".join(parse_mask(merge_masks(mask_in_query, self.update_mask), "model")))
        config = _sent_fields(fields.config)
        return config if self.model is None else _with_zero_values(config, covered), covered

    @property
    def of_created(self) -> int | None:
        """Which of the models that may have had the id is meant; None: whichever has it."""
        return (self.created if self.model is None else self.model.created) or None


def new_model_config(config: ConfigBody | None) -> dict[str, Any]:
    """The configuration of a model to be made. LLMariner's clients leave out a zero or false of an object that they send."""
    said = _sent_fields(config)
    for leaf in (("runtime_config", "resources", "gpu"), ("cluster_allocation_policy", "enable_on_demand_allocation")):
        holder: Any = said
        for name in leaf[:-1]:
            holder = holder.get(name) if isinstance(holder, dict) else None
        if isinstance(holder, dict):
            holder.setdefault(leaf[-1], _ZERO_VALUES[leaf])
    return said


def parse_source_repository(said: str) -> SourceRepository:
    """Where weights come from, in any case, with or without the enumeration's name in front. InvalidRequest for none."""
    try:
        return SourceRepository(said.upper().replace("-", "_").removeprefix("SOURCE_REPOSITORY_"))
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
    """`covered` None, the whole of it: of the objects that are there."""
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
