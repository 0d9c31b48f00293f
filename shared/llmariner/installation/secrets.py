"""Creates the missing Secrets of an installation from random values; it never changes those of an administrator.

llmariner-secrets     pepper and service secret                     random
llmariner-admin-key   the administrator's first API key             random, only together with llmariner-secrets
llmariner-postgres    where PostgreSQL is, user, password           provided; random where PostgreSQL is included
llmariner-pgbouncer   configuration of PgBouncer                    derived from llmariner-postgres
llmariner-database    URL that functions use, through PgBouncer     derived from llmariner-postgres
llmariner-dex         configuration of Dex, where it is installed   derived from llmariner-dex-connectors, which is provided
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from llmariner.installation import dex
from llmariner.installation.retry import RetryLater
from llmariner.installation.secret_objects import SecretObjects
from llmariner.settings import SecretSettings
from llmariner.tenancy.keys.secrets import new_secret

__all__ = ["ensure_secrets"]

_PGBOUNCER = "pgbouncer"
_REQUIRED_KEYS = ("host", "user", "password", "database")
_CREATE_SECRET_HINT = (
    "There is no Secret llmariner-postgres. Bring it: kubectl -n llmariner create secret generic llmariner-postgres "
    "--from-literal=host=… --from-literal=port=5432 --from-literal=database=… --from-literal=user=… "
    "--from-literal=password=…"
)


def ensure_secrets(secrets: SecretObjects, *, postgres_host: str = "", dex_issuer: str | None = None) -> list[str]:
    """Create what is missing; returns log lines without values. Concurrent runs end with the same Secrets.

    `postgres_host`: the host of a PostgreSQL of the installation, whose password is generated; empty: the administrator
    provides the database. `dex_issuer`: the issuer URL of Dex, None without Dex. RetryLater when the administrator must
    create a Secret, after everything independent of it was created.
    """
    messages = []
    if secrets.get("llmariner-secrets") is None:
        # The key comes first: after a failure between the two, the next run enters this branch again.
        if secrets.create("llmariner-admin-key", {"key": new_secret()}):
            messages.append("llmariner-admin-key made; note the key and delete the Secret.")
        names = ("LLMARINER_PEPPER", "LLMARINER_SERVICE_SECRET")
        if secrets.create("llmariner-secrets", {name: SecretSettings.generate() for name in names}):
            messages.append("llmariner-secrets made. Keep a copy: without the pepper no API key works any more.")
    postgres = _postgres(secrets, postgres_host)
    for name, values in (("llmariner-pgbouncer", _pgbouncer(postgres)), ("llmariner-database", _database(postgres))):
        messages += _sync_derived_secret(secrets, name, values, source="llmariner-postgres")
    if dex_issuer is not None:
        connectors = secrets.get(dex.CONNECTORS_SECRET)
        values = dex.render_configuration(dex_issuer, connectors.values if connectors else None)
        messages += _sync_derived_secret(secrets, "llmariner-dex", values, source=dex.CONNECTORS_SECRET)
    return messages or ["All secrets are there."]


def _sync_derived_secret(secrets: SecretObjects, name: str, values: Mapping[str, str], *, source: str) -> list[str]:
    """Create or update a Secret that is derived from the Secret `source`."""
    found = secrets.get(name)
    if found is None and secrets.create(name, values):
        return [f"{name} made."]
    if found is not None and found.is_managed and found.values != values:
        secrets.replace(name, values)
        return [f"{name} follows {source}; restart its readers."]
    return []


def _postgres(secrets: SecretObjects, host: str) -> Mapping[str, str]:
    if secrets.get("llmariner-postgres") is None and host:
        generated = {"host": host, "port": "5432", "database": "llmariner", "user": "llmariner"}
        secrets.create("llmariner-postgres", {**generated, "password": SecretSettings.generate()})
    found = secrets.get("llmariner-postgres")
    if found is None:
        raise RetryLater(_CREATE_SECRET_HINT)
    if missing := [key for key in _REQUIRED_KEYS if not found.values.get(key)]:
        raise RetryLater(f"The Secret llmariner-postgres lacks {', '.join(missing)}.")
    return found.values


def _database(postgres: Mapping[str, str]) -> dict[str, str]:
    user, password, database = (quote(postgres[key], safe="") for key in ("user", "password", "database"))
    return {"LLMARINER_DATABASE_URL": f"postgresql+psycopg://{user}:{password}@{_PGBOUNCER}:5432/{database}"}


def _pgbouncer(postgres: Mapping[str, str]) -> dict[str, str]:
    """The configuration and user list of PgBouncer; its parser expects quotes in values to be doubled."""
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
