"""Registration keys: the credential of a cluster's agent. Random, returned once, stored only as a keyed hash.

A key says which cluster its holder is, and nothing else: it opens no route of people.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, or_, select

from llmariner.clusters.cluster import Cluster, cluster_from_row
from llmariner.clusters.tables import clusters
from llmariner.errors import AuthenticationFailed
from llmariner.platform.database import Database
from llmariner.settings import Secret
from llmariner.tenancy.keys.secrets import REGISTRATION_KEY_PREFIX, digest

__all__ = ["RegisteredAgent", "RegistrationKeys", "has_digest", "invalid_registration_key"]

_MAX_BATCH = 500


@dataclass(frozen=True)
class RegisteredAgent:
    """The holder of a valid registration key. `digest`: what `RegistrationKeys.valid` checks again later."""

    cluster: Cluster
    digest: str


class RegistrationKeys:
    """Looks up clusters by their registration keys. Thread-safe; nothing is cached."""

    def __init__(self, database: Database, pepper: Secret) -> None:
        self._database = database
        self._pepper = pepper

    def authenticate(self, key: str) -> RegisteredAgent:
        """The cluster with that key. Raises AuthenticationFailed for a key that is unknown, replaced or revoked."""
        if key.startswith(REGISTRATION_KEY_PREFIX):
            hashed = digest(self._pepper, key)
            with self._database.read() as session:
                row = session.first(select(clusters).where(has_digest([hashed])))
            if row is not None:
                return RegisteredAgent(cluster_from_row(row), hashed)
        raise invalid_registration_key()

    def valid(self, digests: Collection[str]) -> frozenset[str]:
        """Those of the digests whose keys are still valid. A process that keeps a connection open asks every few seconds."""
        wanted, found = list(digests), set()
        with self._database.read() as session:
            for first in range(0, len(wanted), _MAX_BATCH):
                batch = wanted[first : first + _MAX_BATCH]
                query = select(clusters.c.digest, clusters.c.previous_digest, clusters.c.previous_expires_at)
                now = time.time()
                for row in session.rows(query.where(has_digest(batch))):
                    found.add(row.digest)
                    if row.previous_digest is not None and row.previous_expires_at > now:
                        found.add(row.previous_digest)
        return frozenset(found & set(wanted))


def invalid_registration_key() -> AuthenticationFailed:
    """The error for a key that opens nothing."""
    return AuthenticationFailed(
        "This registration key is unknown, or was replaced or revoked. An owner of the organization makes a new one "
        "with `llma admin clusters rotate-key NAME`.",
        code="invalid_registration_key",
    )


def has_digest(digests: Collection[str]) -> ColumnElement[bool]:
    """The condition on rows of `clusters` with a valid key of one of the digests."""
    previous = and_(clusters.c.previous_digest.in_(digests), clusters.c.previous_expires_at > time.time())
    return or_(clusters.c.digest.in_(digests), previous)
