"""The first organization, project, administrator, cluster and key of a new installation."""

from __future__ import annotations

import time

from sqlalchemy import select

from llmariner.clusters.cluster import LOCAL_CLUSTER_ID, LOCAL_CLUSTER_NAME
from llmariner.clusters.tables import clusters
from llmariner.identifiers import new_id
from llmariner.platform.database import Database
from llmariner.tenancy.keys.store import ApiKey, KeyOwner, Keys, NewKey
from llmariner.tenancy.roles.scopes import INSTALLATION_SCOPES, OWNER_SCOPES
from llmariner.tenancy.tables import organization_users, organizations, project_users, projects, users

__all__ = ["create_bootstrap_key", "ensure_first_owner"]

_ADMIN = "admin@localhost"


def ensure_first_owner(database: Database) -> KeyOwner:
    """The administrator with the default organization and project; creates what is missing. Idempotent.

    Creates the row of the control plane's own cluster or machine, too.
    """
    now = int(time.time())
    local = {"id": LOCAL_CLUSTER_ID, "name": LOCAL_CLUSTER_NAME, "created_at": now}
    with database.write() as session:
        session.insert_if_absent(clusters, [local])
        organization = session.value(select(organizations.c.id).where(organizations.c.is_default))
        if organization is None:
            organization = new_id("org")
            session.add(organizations, id=organization, title="Default Organization", is_default=True, created_at=now)
        project = session.value(select(projects.c.id).where(projects.c.is_default))
        if project is None:
            project = new_id("proj")
            session.add(
                projects,
                id=project,
                organization_id=organization,
                title="Default Project",
                is_default=True,
                created_at=now,
            )
        user = session.value(select(users.c.id).where(users.c.kind == "bootstrap"))
        if user is None:
            user = new_id("user")
            session.add(users, id=user, email=_ADMIN, created_at=now, kind="bootstrap")
            join = {"user_id": user, "organization_id": organization, "role": "owner", "created_at": now}
            session.add(organization_users, **join)
            session.add(project_users, project_id=project, **join)
    return KeyOwner(user_id=user, project_id=project, organization_id=organization)


def create_bootstrap_key(keys: Keys, owner: KeyOwner, name: str, secret: str = "") -> tuple[ApiKey, str]:
    """Create a key of the administrator with all scopes of a default organization's owner. `secret` as in `Keys.create`."""
    return keys.create(owner, NewKey(name=name, scopes=OWNER_SCOPES | INSTALLATION_SCOPES), secret)
