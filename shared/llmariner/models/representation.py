"""The model object of the API: OpenAI's four fields, LLMariner's fields and the serving state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmariner.errors import InvalidRequest
from llmariner.models.model import CONFIG_PATHS, Model
from llmariner.models.traits import configured_argument
from llmariner.platform.serving import Status, served_name
from llmariner.platform.serving.redaction import redact_paths

__all__ = ["config_paths", "model_object", "sets_extra_args"]


def model_object(
    model: Model,
    status: Status,
    *,
    alias: str | None = None,
    with_diagnostics: bool = False,
    wake_durations: list[float] | None = None,
    last_request_at: float | None = None,
) -> dict[str, Any]:
    """The model object; enumerations have the names that LLMariner's clients read.

    `alias`: the name by which it is listed, in place of its own, which is `alias_of` then.
    `with_diagnostics` adds the output of engines and downloads, with its file paths: for operators only.
    `wake_durations` are those of the latest wakes in seconds, in ascending order.
    """
    reason = model.loading_failure_reason
    return {
        "id": alias or model.name,
        "object": "model",
        **({"alias_of": model.name} if alias else {}),
        "created": model.created_at,
        "owned_by": model.owned_by,
        "loading_status": f"MODEL_LOADING_STATUS_{model.loading_status}",
        "loading_progress": model.loading_progress,
        "loading_status_message": model.loading_message,
        "loaded_bytes": model.loaded_bytes,
        "total_bytes": model.total_bytes,
        "loading_seconds_left": model.loading_seconds_left,
        "loading_failure_reason": reason if with_diagnostics else redact_paths(reason),
        "source_repository": f"SOURCE_REPOSITORY_{model.source_repository}",
        "formats": [f"MODEL_FORMAT_{model.format}"],
        "task": model.task,
        "size_bytes": model.size_bytes,
        "traits": _traits(model),
        "is_base_model": model.base_model_id is None,
        "base_model_id": served_name(model.base_model_id or ""),
        "parent": served_name(model.base_model_id or "") or None,
        "activation_status": f"ACTIVATION_STATUS_{model.activation_status}",
        "config": model.config.to_api(),
        "serving": {
            "phase": status.phase,
            "progress": status.progress,
            "estimate_seconds": status.estimate_seconds,
            "message": "\n".join(filter(None, (status.message, status.detail if with_diagnostics else ""))),
            "requests_running": status.requests_running,
            "requests_waiting": status.requests_waiting,
            "memory_bytes": status.memory_bytes,
            "clusters": [{"id": id_, "name": name, "phase": phase} for id_, name, phase in status.clusters],
            "wake_seconds": {
                "p50": _quantile(wake_durations, 0.5),
                "p95": _quantile(wake_durations, 0.95),
                "count": len(wake_durations or ()),
            },
            "last_request_at": last_request_at,
        },
    }


def config_paths(mask: str) -> frozenset[str] | None:
    """The paths of an update mask below `config`; None for all of `config`. InvalidRequest for another field."""
    paths = [path.strip() for path in mask.split(",") if path.strip()]
    if not paths:
        raise InvalidRequest(
            "'update_mask' is required: name the fields that change, e.g. 'config'.", param="update_mask"
        )
    for path in paths:
        if path != "config" and path.removeprefix("config.") not in CONFIG_PATHS:
            raise InvalidRequest(f"'{path}' can't be changed; only 'config' and what is below it.", param="update_mask")
    if "config" in paths:
        return None
    return frozenset(path.removeprefix("config.") for path in paths)


def sets_extra_args(config: Mapping[str, Any], paths: frozenset[str] | None) -> bool:
    """Whether an update with that mask sets the engine arguments."""
    covered = paths is None or not paths.isdisjoint(("runtime_config", "runtime_config.extra_args"))
    runtime = config.get("runtime_config")
    return covered and isinstance(runtime, Mapping) and "extra_args" in runtime


def _traits(model: Model) -> dict[str, Any]:
    """What the model's files say; engine arguments of its configuration count before them."""
    traits, arguments = model.traits, model.config.extra_args
    return {
        "runtime": "vllm",
        "architecture": traits.architecture or None,
        "context_length": traits.context_length or None,
        "quantization": traits.quantization or None,
        "revision": traits.revision or None,
        "converted_from": traits.converted_from or None,
        "chat_template": configured_argument(arguments, "--chat-template") or traits.chat_template or None,
        "tool_call_parser": configured_argument(arguments, "--tool-call-parser") or traits.tool_parser or None,
        "reasoning_parser": configured_argument(arguments, "--reasoning-parser") or traits.reasoning_parser or None,
        "origins": _origins(model),
    }


def _origins(model: Model) -> dict[str, str | None]:
    """Where each choice comes from: a file of the model, `default`, or `config.runtime_config.extra_args`."""
    traits, arguments = model.traits, model.config.extra_args
    return {
        "runtime": "default",
        **{
            name: "config.runtime_config.extra_args" if configured_argument(arguments, flag) else origin or None
            for name, flag, origin in (
                ("chat_template", "--chat-template", traits.chat_template),
                ("tool_call_parser", "--tool-call-parser", traits.tool_parser_origin),
                ("reasoning_parser", "--reasoning-parser", traits.reasoning_parser_origin),
            )
        },
    }


def _quantile(ordered: list[float] | None, share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)
