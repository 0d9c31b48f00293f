"""What one start of a notebook holds: a key for the platform, and the token of its server.

The key belongs to the notebook's owner and counts by what the owner may do when it is used. It holds no scope that the
notebook's creator had not, ends no later than the key that the notebook was started with, and is revoked when it stops.
"""

from __future__ import annotations

import contextlib
import json
import secrets as random
import string
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row

from llmariner.errors import NotFound, Unavailable
from llmariner.platform.database import ReadSession, WriteSession
from llmariner.platform.encryption import Encryption, Undecipherable
from llmariner.settings import Secret
from llmariner.tenancy.keys.key import KEYS, key_from_row
from llmariner.tenancy.keys.store import KeyOwner, Keys, NewKey
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.tables import api_keys

__all__ = ["Credentials", "key_columns"]

_SCOPES = frozenset(
    {
        "api.inference.write",
        "api.model.read",
        "api.files.read",
        "api.files.write",
        "api.fine_tuning.jobs.read",
        "api.fine_tuning.jobs.write",
        "api.batch.jobs.read",
        "api.batch.jobs.write",
        "api.vector-stores.read",
        "api.vector-stores.write",
    }
)
"""What the key of a notebook may do: the work of a project, and nothing that administers it or makes keys."""
_TOKEN_CHARACTERS = 48


class Credentials:
    """Makes, opens and revokes them. `secrets`: those of the installation, the first encrypts.

    `sources`: the networks from which notebooks reach the platform, and from which their keys may be used; None: all.
    """

    def __init__(self, keys: Keys, secrets: Sequence[Secret], *, seconds: int, sources: Sequence[str] | None) -> None:
        self._keys = keys
        self._encryption = Encryption(secrets, "notebooks")
        self._seconds = seconds
        self._sources = None if sources is None else tuple(sources)

    def issue(self, session: WriteSession, caller: Caller, values: Mapping[str, Any], run: int) -> dict[str, Any]:
        """Make them for a start of a notebook with these columns, by `caller`; returns the columns that hold them.

        Mutations must be serialized already (`tenancy.mutations`).
        """
        owner = KeyOwner(values["user_id"], values["project_id"], values["organization_id"])
        models = values["key_models"]
        new = NewKey(
            f"notebook {values['id']} {run}",
            frozenset(values["key_scopes"].split()),
            expires_in=self._lifetime(session, caller),
            allowed_models=None if models is None else tuple(json.loads(models)),
            allowed_sources=self._sources,
        )
        key_id, secret = self._keys.create_in(session, owner, new)
        token = "".join(random.choice(string.ascii_letters + string.digits) for _ in range(_TOKEN_CHARACTERS))
        return {
            "run": run,
            "api_key_id": key_id,
            "sealed_key": self._encryption.encrypt(secret, f"{values['id']} key"),
            "sealed_token": self._encryption.encrypt(token, f"{values['id']} token"),
        }

    def token(self, row: Row[Any]) -> str:
        """The token of the server. Raises Unavailable where the installation's secret was replaced since its start."""
        return self._open(row, row.sealed_token, "token")

    def key(self, row: Row[Any]) -> str:
        """The secret of its key. Raises as `token`."""
        return self._open(row, row.sealed_key, "key")

    def revoke(self, row: Row[Any]) -> None:
        """Revoke its key. Idempotent."""
        if row.api_key_id is not None:
            with contextlib.suppress(NotFound):
                self._keys.revoke(KeyOwner(row.user_id, row.project_id, row.organization_id), row.api_key_id)

    def _lifetime(self, session: ReadSession, caller: Caller) -> int:
        """Seconds. No more than the caller's key has left: else a start by a key that is about to end renews its rights."""
        row = None if caller.key_id is None else session.first(KEYS.where(api_keys.c.id == caller.key_id))
        end = None if row is None else key_from_row(row).expires_at
        return self._seconds if end is None else max(1, min(self._seconds, end - int(time.time())))

    def _open(self, row: Row[Any], sealed: str | None, what: str) -> str:
        try:
            return self._encryption.decrypt(sealed or "", f"{row.id} {what}")
        except (Undecipherable, ValueError) as error:
            raise Unavailable(
                "The installation's secret was replaced since the notebook started: stop it, and start it again.",
                code="notebook_secret_lost",
                headers={"x-should-retry": "false"},
            ) from error


def key_columns(session: ReadSession, caller: Caller) -> dict[str, Any]:
    """What the key of a notebook that this caller creates may do: no more than the caller."""
    models = None
    if caller.key_id is not None:
        row = session.first(KEYS.where(api_keys.c.id == caller.key_id))
        models = None if row is None else key_from_row(row).allowed_models
    return {
        "key_scopes": " ".join(sorted(_SCOPES & caller.scopes)),
        "key_models": None if models is None else json.dumps(list(models)),
    }
