"""Audit entries as OpenAI's audit log objects, and the event types of OpenAI's log.

The log is immutable and stores payloads in the field names of the code that wrote them; responses use OpenAI's names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from llmariner.audit.queries import Entry

__all__ = ["OPENAI_TYPES", "audit_log_object"]

Payload = dict[str, Any]

OPENAI_TYPES = (
    "api_key.created",
    "api_key.deleted",
    "api_key.updated",
    "group.created",
    "group.deleted",
    "group.updated",
    "invite.accepted",
    "invite.deleted",
    "invite.sent",
    "login.failed",
    "login.succeeded",
    "organization.updated",
    "project.archived",
    "project.created",
    "project.deleted",
    "project.updated",
    "rate_limit.deleted",
    "rate_limit.updated",
    "role.assignment.created",
    "role.assignment.deleted",
    "role.created",
    "role.deleted",
    "role.updated",
    "service_account.created",
    "service_account.deleted",
    "service_account.updated",
    "user.added",
    "user.deleted",
    "user.updated",
)
"""Types of OpenAI's enumeration that this platform writes. A strict client can't read an entry of any other type."""

_RATE_LIMITS = {
    "requests_per_minute": "max_requests_per_1_minute",
    "tokens_per_minute": "max_tokens_per_1_minute",
    "requests_per_day": "max_requests_per_1_day",
}


def audit_log_object(entry: Entry) -> dict[str, Any]:
    """The audit log object of an entry: its payload is the field named by its type; unknown values are omitted."""
    project = {"project": {"id": entry.project_id, "name": entry.project_title or ""}} if entry.project_id else {}
    payload = _SHAPES.get(entry.type, _unchanged)(entry.payload, entry)
    return {
        "id": entry.id,
        "object": "organization.audit_log",
        "type": entry.type,
        "effective_at": int(entry.at),
        **project,
        "actor": _without_nulls(entry.actor),
        entry.type: payload,
        "hash": entry.hash,
    }


def _unchanged(payload: Payload, _entry: Entry) -> Payload:
    return payload


def _key_updated(payload: Payload, entry: Entry) -> Payload:
    changes = dict(payload.get("changes_requested") or {})
    if isinstance(changes.get("scopes"), str):
        changes["scopes"] = changes["scopes"].split()
    for name in ("allowed_models", "allowed_sources"):
        if isinstance(changes.get(name), str):
            changes[name] = json.loads(changes[name])
    if isinstance(changes.get("expires_at"), int):
        changes["expires_in_seconds"] = max(0, changes["expires_at"] - int(entry.at))
    return {**payload, "changes_requested": changes}


def _role_updated(payload: Payload, _entry: Entry) -> Payload:
    changes = dict(payload.get("changes_requested") or {})
    if "name" in changes:
        changes["role_name"] = changes.pop("name")
    if isinstance(changes.get("scopes"), str):
        changes["permissions"] = changes.pop("scopes").split()
    return {**payload, "changes_requested": changes}


def _rate_limit_updated(payload: Payload, _entry: Entry) -> Payload:
    changes = {openai_name: payload[name] for name, openai_name in _RATE_LIMITS.items() if name in payload}
    return {**payload, "changes_requested": changes}


def _account_updated(payload: Payload, _entry: Entry) -> Payload:
    return {**payload, "changes_requested": _without_nulls(payload.get("changes_requested") or {})}


_SHAPES: Mapping[str, Callable[[Payload, Entry], Payload]] = {
    "api_key.updated": _key_updated,
    "rate_limit.updated": _rate_limit_updated,
    "role.updated": _role_updated,
    "service_account.updated": _account_updated,
}


def _without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_nulls(each) if isinstance(each, Mapping) else each
        for name, each in value.items()
        if each is not None
    }
