"""The audit log: one hash chain per organization, appended in the transaction of the mutation it records.

Each entry holds the hash of the previous one; `audit_heads` holds the hash of the last and the number of entries. A changed,
removed, added or reordered entry breaks the chain. Someone who can write every row can also rebuild the whole chain: to
detect that, store a head that `verify` returned elsewhere and pass it as `known_head` later.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Row, select, update

from llmariner.audit.request_context import client_address
from llmariner.audit.tables import audit_heads, audit_log
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, ReadSession, WriteSession

__all__ = ["GENESIS", "Actor", "VerificationResult", "append_entry", "recent_entries", "verify"]

GENESIS = "0" * 64
"""The previous hash of the first entry."""

_BATCH_SIZE = 1000


class Actor(Protocol):
    """The fields of a caller that an entry records."""

    @property
    def user_id(self) -> str | None:
        """The id of a person or a service account; None: unauthenticated."""

    @property
    def email(self) -> str | None:
        """The e-mail; `system:serviceaccount:…` for a service account."""

    @property
    def key_id(self) -> str | None:
        """The id of the API key; None: a signed-in person."""


@dataclass(frozen=True)
class VerificationResult:
    """The result of `verify`. `broken_at`: the id of the first entry that does not fit; None: no entry is wrong.

    `entries` is the number of entries that fit, `head` the hash of the last of them.
    """

    entries: int
    head: str
    broken_at: str | None
    reason: str

    @property
    def intact(self) -> bool:
        """Whether every entry is present and unchanged."""
        return not self.reason


def append_entry(
    session: WriteSession,
    actor: Actor | None,
    type_: str,
    payload: dict[str, Any],
    *,
    organization_id: str,
    project_id: str | None = None,
    source: str | None = None,
) -> str:
    """Append an entry of an OpenAI audit type (`project.created`); returns its id. `actor` None: the platform.

    `payload` holds the `id` of the resource and is stored under the type's name; it must not contain secrets. `source` is
    the client's address, empty if unknown; None: that of the current request. Must be the last call of a transaction: it
    locks the organization's chain until the transaction ends, and different lock orders would deadlock.
    """
    previous = _locked_head(session, organization_id)
    entry = {
        "id": new_id("audit_log"),
        "organization_id": organization_id,
        "project_id": project_id,
        "type": type_,
        "at": time.time(),
        "actor": _json(_actor_json(actor, client_address.get() if source is None else source or None)),
        "payload": _json(payload),
    }
    link = _hash(previous, entry)
    session.add(audit_log, **entry, previous_hash=previous, hash=link)
    session.run(update(audit_heads).where(audit_heads.c.organization_id == organization_id).values(hash=link))
    return str(entry["id"])


def recent_entries(session: WriteSession, organization_id: str, type_: str, *, seconds: float) -> Sequence[Row[Any]]:
    """Entries of a type from the last `seconds`, among the organization's newest 1000 entries, newest first.

    Locks the chain as `append_entry` does, so no entry is added until the transaction ends.
    """
    session.first(select(audit_heads.c.hash).where(audit_heads.c.organization_id == organization_id).with_for_update())
    newest = select(audit_log).where(audit_log.c.organization_id == organization_id)
    last = newest.order_by(audit_log.c.sequence.desc()).limit(_BATCH_SIZE).subquery()
    matching = select(last).where(last.c.type == type_, last.c.at > time.time() - seconds)
    return session.rows(matching.order_by(last.c.sequence.desc()))


def verify(database: Database, organization_id: str, *, known_head: str | None = None) -> VerificationResult:
    """Verify an organization's chain from its first entry to its last.

    `known_head` is a head returned earlier; if the chain does not contain it, the chain was rewritten.
    """
    with database.read() as session:
        walk = _ChainWalk(session, organization_id, known_head)
        while walk.to_end():
            head = session.first(select(audit_heads).where(audit_heads.c.organization_id == organization_id))
            length, last = (head.length, head.hash) if head else (0, GENESIS)
            if (walk.entries, walk.head) == (length, last):
                break
            # Entries may be appended meanwhile. An entry is visible as soon as its head is.
            if walk.entries >= length or not walk.next_batch():
                return walk.result(walk.fault or f"the chain should have {length} entries and end in {last[:12]}…")
    if not walk.fault and walk.sought_head not in (None, GENESIS):
        return walk.result(f"the head {str(walk.sought_head)[:12]}… is not in the chain: it was rewritten since")
    return walk.result(walk.fault)


class _ChainWalk:
    """Verifies a chain entry by entry until one does not fit."""

    def __init__(self, session: ReadSession, organization_id: str, wanted: str | None) -> None:
        self._session = session
        self._chain = select(audit_log).where(audit_log.c.organization_id == organization_id)
        self._sequence = 0
        self.sought_head = wanted
        self.entries = 0
        self.head = GENESIS
        self.fault = ""
        self.broken_at: str | None = None

    def to_end(self) -> bool:
        """Verify all remaining entries; False if one does not fit."""
        while self.next_batch():
            pass
        return not self.fault

    def next_batch(self) -> bool:
        """Verify the next entries; False if there are none or one does not fit."""
        remaining = self._chain.where(audit_log.c.sequence > self._sequence).order_by(audit_log.c.sequence)
        rows = self._session.rows(remaining.limit(_BATCH_SIZE))
        for row in rows:
            self.fault = _fault(row, self.head)
            if self.fault:
                self.broken_at = row.id
                return False
            self.entries, self.head, self._sequence = self.entries + 1, row.hash, row.sequence
            if self.head == self.sought_head:
                self.sought_head = None
        return bool(rows)

    def result(self, reason: str) -> VerificationResult:
        """The result so far."""
        return VerificationResult(self.entries, self.head, self.broken_at, reason)


def _fault(row: Row[Any], previous: str) -> str:
    """The reason why an entry does not follow the one with hash `previous`; empty if it does."""
    if row.previous_hash != previous:
        return "it does not follow the entry before it: one was removed, added or moved"
    if row.hash != _hash(previous, row._mapping):
        return "its content is not what was written"
    return ""


def _locked_head(session: WriteSession, organization_id: str) -> str:
    """The hash of the chain's last entry; locks the chain until the transaction ends."""
    lock = update(audit_heads).where(audit_heads.c.organization_id == organization_id)
    increment = lock.values(length=audit_heads.c.length + 1).returning(audit_heads.c.hash)
    found = session.value(increment)
    if found is None:
        session.insert_if_absent(audit_heads, [{"organization_id": organization_id, "hash": GENESIS, "length": 0}])
        found = session.value(increment)
    return str(found)


def _hash(previous: str, entry: Any) -> str:
    """SHA-256 over the previous hash and every column but `sequence`, in hex."""
    hashed = [entry[name] for name in ("id", "organization_id", "project_id", "type", "at", "actor", "payload")]
    return hashlib.sha256(_json([previous, *hashed]).encode()).hexdigest()


def _actor_json(actor: Actor | None, source: str | None) -> dict[str, Any]:
    """The actor in OpenAI's form: a session of a person, or a key of a person or service account."""
    if actor is None:
        return {"type": "session", "session": {"ip_address": source, "user": {"id": "platform", "email": None}}}
    user = {"id": actor.user_id, "email": actor.email}
    if actor.key_id is None:
        return {"type": "session", "session": {"ip_address": source, "user": user}}
    if (actor.email or "").startswith("system:serviceaccount:"):
        owner = {"type": "service_account", "service_account": {"id": actor.user_id}}
    else:
        owner = {"type": "user", "user": user}
    return {"type": "api_key", "api_key": {"id": actor.key_id, "ip_address": source, **owner}}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
