"""Makes the secrets of an installation that are not there, from random bits; what an administrator made stays as it is.

llmariner-secrets     pepper and service secret                     random
llmariner-admin-key   the administrator's first API key             random, only together with llmariner-secrets
llmariner-postgres    where PostgreSQL is, user, password           brought; random where PostgreSQL is ours
llmariner-pgbouncer   configuration of PgBouncer                    follows from llmariner-postgres
llmariner-database    URL that functions use, through PgBouncer     follows from llmariner-postgres
llmariner-dex         configuration of Dex, where it is installed   follows from llmariner-dex-connectors, which is brought
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from llmariner.installation import dex
from llmariner.installation.retry import Waiting
from llmariner.installation.secret_objects import SecretObjects
from llmariner.settings import SecretSettings
from llmariner.tenancy.keys.secrets import new_secret

__all__ = ["make"]

_PGBOUNCER = "pgbouncer"
_NEEDED = ("host", "user", "password", "database")
_BRING = (
    "There is no Secret llmariner-postgres. Bring it: kubectl -n llmariner create secret generic llmariner-postgres "
    "--from-literal=host=… --from-literal=port=5432 --from-literal=database=… --from-literal=user=… "
    "--from-literal=password=…"
)


def make(secrets: SecretObjects, *, postgres_host: str = "", dex_issuer: str | None = None) -> list[str]:
    """Make what is missing; returns what was done, no value in it. Two at once end with the same secrets.

    `postgres_host` names a PostgreSQL of our own, whose password is made here; `dex_issuer` is what Dex is to call
    itself, None where there is no Dex. Waiting when something must be brought; all that needs it not is made before.
    """
    done = []
    if secrets.get("llmariner-secrets") is None:
        # The key first: where this ends between the two, the next run finds no secrets and comes here again.
        if secrets.create("llmariner-admin-key", {"key": new_secret()}):
            done.append("llmariner-admin-key made; note the key and delete the Secret.")
        names = ("LLMARINER_PEPPER", "LLMARINER_SERVICE_SECRET")
        if secrets.create("llmariner-secrets", {name: SecretSettings.generate() for name in names}):
            done.append("llmariner-secrets made. Keep a copy: without the pepper no API key works any more.")
    postgres = _postgres(secrets, postgres_host)
    for name, values in (("llmariner-pgbouncer", _pgbouncer(postgres)), ("llmariner-database", _database(postgres))):
        done += _follow(secrets, name, values, of="llmariner-postgres")
    if dex_issuer is not None:
        brought = secrets.get(dex.BROUGHT)
        values = dex.configuration(dex_issuer, brought.values if brought else None)
        done += _follow(secrets, "llmariner-dex", values, of=dex.BROUGHT)
    return done or ["All secrets are there."]


def _follow(secrets: SecretObjects, name: str, values: Mapping[str, str], *, of: str) -> list[str]:
    """Make what follows from another Secret, or change it after that."""
    found = secrets.get(name)
    if found is None and secrets.create(name, values):
        return [f"{name} made."]
    if found is not None and found.ours and found.values != values:
        secrets.replace(name, values)
        return [f"{name} follows {of}; restart its readers."]
    return []


def _postgres(secrets: SecretObjects, host: str) -> Mapping[str, str]:
    if secrets.get("llmariner-postgres") is None and host:
        made = {"host": host, "port": "5432", "database": "llmariner", "user": "llmariner"}
        secrets.create("llmariner-postgres", {**made, "password": SecretSettings.generate()})
    found = secrets.get("llmariner-postgres")
    if found is None:
        raise Waiting(_BRING)
    if missing := [key for key in _NEEDED if not found.values.get(key)]:
        raise Waiting(f"The Secret llmariner-postgres lacks {', '.join(missing)}.")
    return found.values


def _database(postgres: Mapping[str, str]) -> dict[str, str]:
    user, password, database = (quote(postgres[key], safe="") for key in ("user", "password", "database"))
    return {"LLMARINER_DATABASE_URL": f"postgresql+psycopg://{user}:{password}@{_PGBOUNCER}:5432/{database}"}


def _pgbouncer(postgres: Mapping[str, str]) -> dict[str, str]:
    """Its configuration and its users; a quote in a value is doubled, as its parser wants it."""
    where = {"host": postgres["host"], "port": postgres.get("port", "5432")}
    target = " ".join(f"{key}='{value.replace(chr(39), chr(39) * 2)}'" for key, value in where.items())
    user, password = (postgres[key].replace('"', '""') for key in ("user", "password"))
    configuration = f"""[databases]
* = {target}

[pgbouncer]
listen_addr = *
listen_port = 6432
unix_socket_dir =
auth_type = scram-sha-256
auth_file = /etc/pgbouncer/userlist.txt
server_tls_sslmode = {postgres.get("sslmode", "prefer")}
pool_mode = transaction
# Functions come and go by the hundred; PostgreSQL sees no more than this of them.
max_client_conn = 2000
default_pool_size = 20
reserve_pool_size = 5
# Seconds that a client waits for one of them; 120 unless it is said.
query_wait_timeout = 10
ignore_startup_parameters = extra_float_digits,options
"""
    return {"pgbouncer.ini": configuration, "userlist.txt": f'"{user}" "{password}"\n'}
