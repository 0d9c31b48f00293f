"""Attenuation: a key cannot create or change a key beyond its own scopes, models, networks and expiry.

Signed-in people, and the platform itself (`actor` None), are limited by their roles only.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from typing import Any

from llmariner.errors import PermissionDenied
from llmariner.platform.database import ReadSession
from llmariner.tenancy.keys.key import KEYS, ApiKey, key_from_row
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.delegation import has_full_owner_rights, held_scopes
from llmariner.tenancy.roles.effective_permissions import resolve_permissions
from llmariner.tenancy.roles.scopes import with_implied
from llmariner.tenancy.tables import api_keys

__all__ = ["attenuate", "check_can_change", "check_can_receive_secret", "scopes_after_rotation"]

_RESTRICTION_COLUMNS = ("allowed_models", "allowed_sources")


def attenuate(
    session: ReadSession, actor: Caller | None, values: dict[str, Any], *, user_id: str, new: bool
) -> dict[str, Any]:
    """The columns of a user's key to create (`new`) or change. A new key inherits the restrictions that are not given.

    PermissionDenied for a key with fewer restrictions than the actor's own.
    """
    maker = _acting_key(session, actor)
    if maker is None:
        return values
    attenuated = dict(values)
    for name in _RESTRICTION_COLUMNS:
        own: tuple[str, ...] | None = getattr(maker, name)
        if own is None or name not in attenuated:
            continue
        if attenuated[name] is None and new:
            attenuated[name] = json.dumps(list(own))
        elif attenuated[name] is None or not _is_subset(name, json.loads(attenuated[name]), own):
            raise _exceeds(name, f"it is bound to {', '.join(own)} itself")
    # The expiry is inherited by the user's own keys only: a service account may outlive the key that created it.
    if maker.expires_at is not None and user_id == maker.user_id and "expires_at" in attenuated:
        if attenuated["expires_at"] is None and new:
            attenuated["expires_at"] = maker.expires_at
        elif attenuated["expires_at"] is None or attenuated["expires_at"] > maker.expires_at:
            raise _exceeds("expires_at", "it ends itself before that")
    return attenuated


def check_can_receive_secret(session: ReadSession, actor: Caller | None, key: ApiKey) -> None:
    """PermissionDenied for an actor that would receive the secret of a key with more permissions than its own."""
    if actor is None or key.id == actor.key_id:
        return
    missing = _excess_scopes(session, actor, key)
    if missing and not has_full_owner_rights(actor):
        raise PermissionDenied(
            f"That key may do what you may not: {', '.join(sorted(missing))}. Let its owner rotate it."
        )
    columns: dict[str, Any] = {name: _json_or_none(getattr(key, name)) for name in _RESTRICTION_COLUMNS}
    attenuate(session, actor, {**columns, "expires_at": key.expires_at}, user_id=key.user_id, new=False)


def scopes_after_rotation(session: ReadSession, actor: Caller | None, key: ApiKey) -> frozenset[str]:
    """The scopes of a key whose secret the actor receives: at most those that the actor holds now.

    Otherwise scopes beyond the present role of the key's user would apply once that role is raised. Owners, and people with
    their own keys, keep all scopes.
    """
    if actor is None or has_full_owner_rights(actor) or key.id == actor.key_id or _is_own(actor, key):
        return key.scopes
    return key.scopes & held_scopes(session, actor, key.organization_id, key.project_id)


def check_can_change(session: ReadSession, actor: Caller | None, key: ApiKey, *, revoking: bool = False) -> None:
    """PermissionDenied for an actor that changes or revokes a key with more permissions than its own.

    People may change their own keys; one key of a user may revoke (`revoking`) the others, not change them.
    """
    if (
        actor is None
        or has_full_owner_rights(actor)
        or _is_own(actor, key)
        or (revoking and key.user_id == actor.user_id)
    ):
        return
    if missing := _excess_scopes(session, actor, key):
        raise PermissionDenied(
            f"That key may do what you may not: {', '.join(sorted(missing))}. Ask its owner, or one of the organization."
        )


def _is_own(actor: Caller, key: ApiKey) -> bool:
    """Whether the actor is the key's user, signed in."""
    return actor.key_id is None and key.user_id == actor.user_id


def _excess_scopes(session: ReadSession, actor: Caller, key: ApiKey) -> frozenset[str]:
    """The effective scopes of a key that the actor does not hold in the same organization and project."""
    permissions = resolve_permissions(session, key.user_id, key.organization_id, key.project_id)
    own = held_scopes(session, actor, key.organization_id, key.project_id)
    return (with_implied(key.scopes) & permissions.scopes) - own


def _acting_key(session: ReadSession, actor: Caller | None) -> ApiKey | None:
    if actor is None or actor.key_id is None:
        return None
    row = session.first(KEYS.where(api_keys.c.id == actor.key_id))
    return key_from_row(row) if row is not None else None


def _json_or_none(listed: Iterable[str] | None) -> str | None:
    return None if listed is None else json.dumps(list(listed))


def _is_subset(name: str, requested: list[str], own: tuple[str, ...]) -> bool:
    if name == "allowed_models":
        return set(requested) <= set(own)
    networks = [ipaddress.ip_network(each) for each in own]
    return all(
        any(_contains_network(network, ipaddress.ip_network(each)) for network in networks) for each in requested
    )


def _contains_network(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, other: ipaddress.IPv4Network | ipaddress.IPv6Network
) -> bool:
    if isinstance(network, ipaddress.IPv4Network) and isinstance(other, ipaddress.IPv4Network):
        return other.subnet_of(network)
    both_newer = isinstance(network, ipaddress.IPv6Network) and isinstance(other, ipaddress.IPv6Network)
    return both_newer and other.subnet_of(network)  # type: ignore[arg-type]


def _exceeds(name: str, why: str) -> PermissionDenied:
    return PermissionDenied(f"This API key can't make a key freer than itself by '{name}': {why}.", param=name)
