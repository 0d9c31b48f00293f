"""Which engine arguments and weight locations a model may have without an administrator's approval.

They are checked when a model is created or changed, and again before its engine starts: the allow-lists may have changed
since, and releases before 0.4 did not check.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmariner.errors import InvalidRequest, PermissionDenied
from llmariner.models.engine_arguments import first_disallowed_argument
from llmariner.models.model import Model, NewModel, SourceRepository
from llmariner.platform.serving import IMPORTED_SCHEME, OWN_FILE_SCHEME
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.scopes import MODEL_ADMIN
from llmariner.weight_locations import location_error

__all__ = [
    "blocked_reason",
    "check_arguments",
    "check_location",
    "check_may_change_shared",
    "check_names_created",
    "is_model_admin",
    "weight_uri",
]

_ASK = f"Ask somebody with the scope '{MODEL_ADMIN}', which owners of the default organization hold."
_ARGUMENTS = "config.runtime_config.extra_args"


def is_model_admin(actor: Caller | None) -> bool:
    """Whether no allow-list applies to the actor; None is the platform itself."""
    return actor is None or MODEL_ADMIN in actor.scopes


def check_may_change_shared(actor: Caller | None, project_id: str | None, instead: str) -> None:
    """PermissionDenied for a model that all projects share (`project_id` None), unless the actor is an administrator."""
    if project_id is None and not is_model_admin(actor):
        raise PermissionDenied(
            f"Models that all projects share are changed with the scope '{MODEL_ADMIN}' only, which owners of the default "
            f"organization hold: {instead}.",
        )


def check_arguments(arguments: Sequence[str]) -> None:
    """PermissionDenied for engine arguments that are not in the allow-list; the error names the first."""
    if disallowed := first_disallowed_argument(arguments):
        index, why = disallowed
        raise PermissionDenied(f"{why}. {_ASK}", param=f"{_ARGUMENTS}[{index}]")


def check_location(new: NewModel, allowed: Sequence[str]) -> None:
    """PermissionDenied for a location that the project may not load weights from."""
    uri = weight_uri(new.source_repository, new.model_file_location)
    if why := location_error(uri, allowed, new.project_id):
        raise PermissionDenied(f"{why}. {_ASK}", param="model_file_location")


def check_names_created(model: Model, why_blocked: str) -> None:
    """InvalidRequest for an approval without `created`: another model may have got the same id meanwhile."""
    if why_blocked:
        raise InvalidRequest(
            f"This would approve model '{model.name}' as it stands. Look at it, and say which you mean: with the 'created' "
            "that GET /v1/models/{id} answers.",
            param="created",
        )


def blocked_reason(model: Model, allowed: Sequence[str]) -> str:
    """Why the engine of a registered model must not start, and what to do about it; empty where it may."""
    if model.approved or model.source_repository is SourceRepository.KUBERNETES:
        return ""
    disallowed = first_disallowed_argument(model.config.extra_args)
    uri = weight_uri(model.source_repository, model.model_file_location)
    # Both reasons are named, since an approval covers both.
    reasons = [disallowed[1] if disallowed else None, location_error(uri, allowed, model.project_id)]
    why = "; ".join(reason for reason in reasons if reason)
    if not why:
        return ""
    return (
        f"It is not started: {why}. Somebody with the scope '{MODEL_ADMIN}' approves it by "
        f"PATCH /v1/models/{model.name} with its '{_ARGUMENTS}' and 'created', or it is deleted and created again."
    )


def weight_uri(source: SourceRepository, location: str) -> str:
    """The URI of weights, as KServe's storage initializer takes it; a path on this machine becomes `file://`."""
    if source is SourceRepository.KUBERNETES:
        return f"{IMPORTED_SCHEME}{location}"
    if "://" in location:
        return location
    if source is SourceRepository.FINE_TUNING:
        return f"{OWN_FILE_SCHEME}{location}"
    if source is SourceRepository.HUGGING_FACE:
        return f"hf://{location}"
    if source is SourceRepository.OLLAMA:
        return f"ollama://{location}"
    return f"file://{location}"
