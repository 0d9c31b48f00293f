"""Makes the secrets of an installation that are not there, from random bits; what an administrator made stays as it is.

llmariner-secrets     pepper and service secret                     random
llmariner-admin-key   the administrator's first API key             random, only together with llmariner-secrets
llmariner-postgres    where PostgreSQL is, user, password           brought; random where PostgreSQL is ours
llmariner-pgbouncer   configuration of PgBouncer                    follows from llmariner-postgres
llmariner-database    URL that functions use, through PgBouncer     follows from llmariner-postgres
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from llmariner.installation.secret_objects import SecretObjects
from llmariner.installation.steps import Waiting
from llmariner.settings import SecretSettings
from llmariner.tenancy.secrets import new_secret

__all__ = ["make"]

_PGBOUNCER = "pgbouncer"
_NEEDED = ("host", "user", "password", "database")
_BRING = (
    "There is no Secret llmariner-postgres. Bring it: kubectl -n llmariner create secret generic llmariner-postgres "
    "--from-literal=host=… --from-literal=port=5432 --from-literal=database=… --from-literal=user=… "
    "--from-literal=password=…"
)


def make(secrets: SecretObjects, *, postgres_host: str = "") -> list[str]:
    """Make what is missing; returns what was done, no value in it. Two at once end with the same secrets.

    `postgres_host` names a PostgreSQL of our own, whose password is made here. Waiting when one must be brought.
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
        found = secrets.get(name)
        if found is None and secrets.create(name, values):
            done.append(f"{name} made.")
        elif found is not None and found.ours and found.values != values:
            secrets.replace(name, values)
            done.append(f"{name} follows llmariner-postgres; restart its readers.")
    return done or ["All secrets are there."]


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
ignore_startup_parameters = extra_float_digits,options
"""
    return {"pgbouncer.ini": configuration, "userlist.txt": f'"{user}" "{password}"\n'}
