"""API keys over HTTP: bodies and operations that `/v1/api_keys` and the keys of a project share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from llmariner.context import Context
from llmariner.errors import InvalidRequest, PermissionDenied
from llmariner.http.schemas.bodies import Body
from llmariner.http.schemas.field_masks import merge_masks, parse_mask, unwrap_resource
from llmariner.http.schemas.llmariner import api_key, parse_organization_role
from llmariner.http.schemas.timestamps import Timestamp
from llmariner.tenancy.keys.store import ApiKey, NewKey
from llmariner.tenancy.keys.visibility import manageable_by
from llmariner.tenancy.members.service_accounts import ServiceAccounts
from llmariner.tenancy.principal import Caller, KeyOwner
from llmariner.tenancy.roles.delegation import has_full_owner_rights
from llmariner.tenancy.roles.scopes import ORGANIZATION_ROLES, PROJECT_ROLES, validate_scopes

__all__ = ["CreateKey", "RotateKey", "UpdateKey", "create", "deletion_response", "update"]

_MASK_PATHS = frozenset(
    {"name", "excluded_from_rate_limiting", "scopes", "expires_at", "allowed_models", "allowed_sources"}
)
_NameList = Annotated[list[str], Field(max_length=1000)]


class CreateKey(Body):
    """A new key. `expires_in_seconds` None: never expires; `allowed_models`, `allowed_sources` None: all.

    `role`: that of a service account in the organization; in the project it is an owner, as in LLMariner.
    """

    name: str
    project_id: str | None = None
    organization_id: str | None = None
    is_service_account: bool = False
    role: str | None = None
    scopes: list[str] | None = None
    expires_in_seconds: int | None = Field(default=None, ge=1, le=10 * 365 * 86400)
    allowed_models: _NameList | None = None
    allowed_sources: _NameList | None = None
    excluded_from_rate_limiting: bool = False


class KeyFields(Body):
    """The mutable fields of a key."""

    name: str | None = None
    excluded_from_rate_limiting: bool | None = None
    scopes: list[str] | None = None
    expires_at: Timestamp | None = None
    allowed_models: _NameList | None = None
    allowed_sources: _NameList | None = None


class KeyResource(KeyFields):
    """A complete key as LLMariner's clients send it, with a mask that names the changed fields."""

    output_only = frozenset(
        {
            "id",
            "object",
            "secret",
            "prefix",
            "created_at",
            "last_used_at",
            "user",
            "organization",
            "organization_role",
            "organization_role_id",
            "project",
            "project_role",
            "project_role_id",
        }
    )


class UpdateKey(KeyFields):
    """The new values of a key, bare or wrapped in `api_key`.

    `update_mask` names the fields that change; without a mask the fields that are present change.
    """

    api_key: KeyResource | None = None
    update_mask: str = ""


class RotateKey(Body):
    """Rotation of a secret; the old secret stays valid for `overlap_seconds`."""

    overlap_seconds: int = 0


def create(context: Context, caller: Caller, body: CreateKey) -> dict[str, Any]:
    """Create a key in the caller's project. Only this response has its secret."""
    if body.excluded_from_rate_limiting:
        _check_may_exclude_from_limits(caller)
    owner = caller.key_owner
    if caller.project_role is None:
        raise PermissionDenied("Only a member of the project makes keys of it: let one of its owners add you.")
    if body.is_service_account:
        return api_key(*_create_with_service_account(context, caller, body))
    if body.role is not None:
        raise InvalidRequest("'role' is for a service account's key: a person's key has their roles.", param="role")
    return api_key(*context.keys.create(owner, _new_key(body, caller.scopes), actor=caller))


def update(context: Context, caller: Caller, key_id: str, body: UpdateKey, query_mask: str = "") -> dict[str, Any]:
    """Update a key that the caller may manage: the fields of the mask, or those that are present in the body."""
    fields = unwrap_resource(body, body.api_key, "api_key")
    changed = _changed_fields(fields, merge_masks(query_mask, body.update_mask))
    if "excluded_from_rate_limiting" in changed:
        _check_may_exclude_from_limits(caller)
    values: dict[str, Any] = {}
    for name in changed & {"expires_at", "allowed_models", "allowed_sources"}:
        value = getattr(fields, name)
        values[name] = tuple(value) if isinstance(value, list) else value
    if "scopes" in changed:
        values["scopes"] = validate_scopes(fields.scopes, held=caller.scopes)
    if "excluded_from_rate_limiting" in changed:
        values["excluded"] = bool(fields.excluded_from_rate_limiting)
    if "name" in changed:
        values["name"] = fields.name or ""
    return api_key(context.keys.update(manageable_by(caller), key_id, actor=caller, **values))


def deletion_response(key_id: str) -> dict[str, Any]:
    """The response to a deletion."""
    return {"id": key_id, "object": "organization.api_key", "deleted": True}


def _changed_fields(fields: KeyFields, mask: str) -> frozenset[str]:
    changed = frozenset(parse_mask(mask, "api_key")) or _MASK_PATHS & fields.model_fields_set
    if unknown := changed - _MASK_PATHS:
        raise InvalidRequest(
            f"'update_mask' can't name {', '.join(sorted(unknown))}: use {', '.join(sorted(_MASK_PATHS))}.",
            param="update_mask",
        )
    # protobuf's JSON omits empty lists; an absent list read as null would lift the restriction.
    if absent := changed - {"excluded_from_rate_limiting"} - fields.model_fields_set:
        raise InvalidRequest(
            f"'update_mask' names '{min(absent)}', which the body lacks: send its value, or null for none.",
            param=min(absent),
        )
    if not changed:
        raise InvalidRequest(f"Nothing to change: send some of {', '.join(sorted(_MASK_PATHS))}.", param="name")
    return changed


def _check_may_exclude_from_limits(caller: Caller) -> None:
    if not has_full_owner_rights(caller):
        raise PermissionDenied(
            "Only an owner of the organization decides whether limits apply to a key: leave out "
            "'excluded_from_rate_limiting'."
        )


def _new_key(body: CreateKey, held: frozenset[str]) -> NewKey:
    return NewKey(
        name=body.name,
        scopes=validate_scopes(body.scopes, held=held),
        expires_in=body.expires_in_seconds,
        excluded_from_rate_limiting=body.excluded_from_rate_limiting,
        allowed_models=None if body.allowed_models is None else tuple(body.allowed_models),
        allowed_sources=None if body.allowed_sources is None else tuple(body.allowed_sources),
    )


def _create_with_service_account(context: Context, caller: Caller, body: CreateKey) -> tuple[ApiKey, str]:
    """Create a service account and its key in one transaction."""
    if not has_full_owner_rights(caller):
        raise PermissionDenied("Only an owner of the organization makes keys of service accounts.")
    if body.role is None:
        raise InvalidRequest("A service account needs a role in the organization: send 'role'.", param="role")
    role, project_id = parse_organization_role(body.role), caller.key_owner.project_id
    new = _new_key(body, PROJECT_ROLES["owner"] | ORGANIZATION_ROLES.get(role, frozenset()))
    accounts = ServiceAccounts(context.database)
    with context.database.write() as session:
        account_id = accounts.create_in(session, caller, project_id, body.name, "owner", role)
        owner = KeyOwner(account_id, project_id, caller.organization_id)
        key_id, secret = context.keys.create_in(session, owner, new, actor=caller)
    return context.keys.get(owner, key_id), secret
