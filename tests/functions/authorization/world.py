"""Two organizations with callers of every kind, and objects of every type in three projects.

Every object's id contains the tag of its tenant ("walk-own" for example), so responses show whose objects they contain.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import update

from llmariner.authorization.matrix import Ownership, Subject
from llmariner.boot import load
from llmariner.context import Context
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.objects.folder import FolderObjects
from llmariner.tenancy.keys import secrets
from llmariner.tenancy.organizations.bootstrap import create_bootstrap_key, ensure_first_owner
from llmariner.tenancy.roles.scopes import ADMIN_KEY_SCOPES, OWNER_SCOPES
from llmariner.tenancy.tables import (
    api_keys,
    custom_roles,
    group_roles,
    groups,
    invites,
    organization_users,
    organizations,
    project_users,
    projects,
    user_groups,
    users,
)

from ..installation import Installation, every_bucket
from ..planned_capacity import PlannedCapacity
from ..processes import CHECKOUT
from ..queued_jobs import QueuedJobs
from ..queued_notebooks import QueuedServers
from .issuer import Issuer

__all__ = ["CALLERS", "REDUCED_SCOPES", "Tenant", "World", "invite_token"]

REDUCED_SCOPES = frozenset({"api.model.read", "api.events.read", "api.organizations.projects.read"})
"""The scopes of the restricted keys."""
_MODELS = 1000

CALLERS: dict[str, Subject | None] = {
    "nobody": None,
    "a leaver": None,
    "owner": Subject("owner"),
    "admin key": Subject("owner", in_project=False, key_scopes=ADMIN_KEY_SCOPES),
    "reader": Subject("reader", in_project=False),
    "tenant system": Subject("tenant_system", in_project=False),
    "project owner": Subject("reader", "owner"),
    "member": Subject("reader", "member"),
    "viewer": Subject("reader", "viewer"),
    "owner's small key": Subject("owner", key_scopes=REDUCED_SCOPES),
    "member's small key": Subject("reader", "member", key_scopes=REDUCED_SCOPES),
    "owner in person": Subject("owner", signed_in=True),
    "project owner in person": Subject("reader", "owner", signed_in=True),
    "member in person": Subject("reader", "member", signed_in=True),
    "reader in person": Subject("reader", in_project=False, signed_in=True),
    "outsider in person": Subject(None, in_project=False, signed_in=True),
}


@dataclass(frozen=True)
class Tenant:
    """A project, its organization, and a user of both."""

    whose: Ownership
    organization_id: str
    project_id: str
    user_id: str

    @property
    def tag(self) -> str:
        """The part that the ids of its objects contain."""
        return self.project_id.removeprefix("proj_")


def invite_token(invite_id: str) -> str:
    """The token of an invitation that `World.invite` created."""
    return "inv-" + hashlib.sha256(invite_id.encode()).hexdigest()[:48]


class World:
    """The tenants and callers in a database of its own, and the functions over it; all models are awake.

    `runner`: the headers of an owner of the installation.
    """

    def __init__(self, installation: Installation, issuer: Issuer, database: Path) -> None:
        self._issuer = issuer
        [engine, *_] = json.loads(installation.environment["LLMARINER_SERVING_STATIC"]).values()
        names = (f"walk/walk-{tenant}-{number}" for tenant in ("own", "sibling", "other") for number in range(_MODELS))
        serving = {
            "LLMARINER_DATABASE_URL": f"sqlite:///{database}",
            "LLMARINER_OIDC_ISSUER": issuer.url,
            "LLMARINER_SERVING_STATIC": json.dumps(dict.fromkeys(names, engine)),
        }
        self.context = Context({**installation.environment, **serving})
        self.external = FolderObjects(database.parent / "external" / "walk")
        self.context.jobs = QueuedJobs()
        self.context.notebooks.servers = QueuedServers()
        self.context.capacity = PlannedCapacity()
        self.context.external_objects = every_bucket(database.parent / "external")
        self.database = self.context.database
        upgrade(self.database)
        _, runner = create_bootstrap_key(self.context.keys, ensure_first_owner(self.database), "runner")
        self.runner = {"authorization": f"Bearer {runner}"}
        self._applications: dict[str, Any] = {}
        self._numbers = itertools.count()
        self._models = {tenant: itertools.count() for tenant in ("own", "sibling", "other")}
        self.tenants = {
            Ownership.OWN: Tenant(Ownership.OWN, "org_walk-here", "proj_walk-own", "user_walk-own"),
            Ownership.SIBLING_PROJECT: Tenant(
                Ownership.SIBLING_PROJECT, "org_walk-here", "proj_walk-sibling", "user_walk-sibling"
            ),
            Ownership.OTHER_ORGANIZATION: Tenant(
                Ownership.OTHER_ORGANIZATION, "org_walk-other", "proj_walk-other", "user_walk-other"
            ),
        }
        # Lists are ordered by age, and the test creates more objects than a page has: the seeded ones come first.
        self.now = 1
        self._create_tenants()
        here = self.tenants[Ownership.OWN]
        self.tenants[Ownership.SAME_PROJECT] = replace(
            here, whose=Ownership.SAME_PROJECT, user_id=self.person(here, "reader", "member")
        )
        self.users: dict[str, str] = {}
        self.headers = {name: self._bearer(name, subject) for name, subject in CALLERS.items()}
        self.auditor = self._auditor()

    @property
    def distinct(self) -> list[Tenant]:
        """The tenants, each project once."""
        return [tenant for tenant in self.tenants.values() if tenant.whose is not Ownership.SAME_PROJECT]

    def tenant(self, whose: Ownership, caller: str) -> Tenant:
        """A tenant from the view of a caller, who is a user of their own tenant."""
        tenant = self.tenants[whose]
        return replace(tenant, user_id=self.users.get(caller, tenant.user_id)) if whose is Ownership.OWN else tenant

    def application(self, function: str) -> Any:
        """The application of one function in this process."""
        if function not in self._applications:
            application = self._applications[function] = load(CHECKOUT / "functions" / function)
            application.use_context(self.context)
        return self._applications[function]

    def number(self) -> int:
        """A unique number."""
        return next(self._numbers)

    def model_name(self, tenant: Tenant) -> str:
        """An unused name of a model that an engine serves."""
        number = next(self._models[tenant.tag.removeprefix("walk-")])
        assert number < _MODELS
        return f"walk/{tenant.tag}-{number}"

    def add(self, table: Any, **values: Any) -> None:
        """Insert one row."""
        with self.database.write() as session:
            session.add(table, **values)

    def person(self, tenant: Tenant, organization_role: str | None, project_role: str | None) -> str:
        """The id of a new user, with those roles in the organization and project that are not None."""
        user_id = f"user_{tenant.tag}-{self.number()}"
        self.add(users, id=user_id, email=f"{user_id}@example.org", created_at=self.now)
        join = {"user_id": user_id, "organization_id": tenant.organization_id, "created_at": self.now}
        if organization_role:
            self.add(organization_users, **join, role=organization_role)
        if project_role:
            self.add(project_users, **join, project_id=tenant.project_id, role=project_role)
        return user_id

    def key(
        self, tenant: Tenant, user_id: str, *, scopes: frozenset[str] = OWNER_SCOPES, admin: bool = False
    ) -> tuple[str, str]:
        """The id and secret of a new key."""
        key_id, secret = f"key_{tenant.tag}-{self.number()}", secrets.new_secret()
        self.add(
            api_keys,
            id=key_id,
            name=key_id,
            user_id=user_id,
            project_id=None if admin else tenant.project_id,
            organization_id=tenant.organization_id,
            prefix=secrets.mask(secret),
            scopes=" ".join(sorted(scopes)),
            created_at=self.now,
            excluded_from_rate_limiting=True,
            digest=self.context.keys.digest(secret),
            revision=0,
            kind="admin" if admin else "project",
        )
        return key_id, secret

    def project(self, tenant: Tenant) -> str:
        """The id of a new project of that organization."""
        project_id = f"proj_{tenant.tag}-{self.number()}"
        row = {"id": project_id, "title": project_id, "organization_id": tenant.organization_id}
        self.add(projects, **row, is_default=False, created_at=self.now)
        return project_id

    def account(self, tenant: Tenant) -> str:
        """The id of a new service account of that project."""
        account_id = f"user_{tenant.tag}-{self.number()}"
        email = f"system:serviceaccount:{tenant.project_id}:{account_id}"
        self.add(users, id=account_id, email=email, name=account_id, kind="service_account", created_at=self.now)
        join = {"user_id": account_id, "organization_id": tenant.organization_id, "created_at": self.now}
        self.add(organization_users, **join, role="reader")
        self.add(project_users, **join, project_id=tenant.project_id, role="member")
        return account_id

    def role(self, tenant: Tenant, *, of_project: bool) -> str:
        """The id of a new role of that organization or project."""
        role_id = f"role_{tenant.tag}-{self.number()}"
        row = {"id": role_id, "name": role_id, "organization_id": tenant.organization_id, "description": ""}
        project_id = tenant.project_id if of_project else None
        self.add(custom_roles, **row, project_id=project_id, scopes="api.files.read", created_at=self.now)
        return role_id

    def invite(self, tenant: Tenant) -> str:
        """The id of a new invitation to that organization."""
        invite_id = f"invite_{tenant.tag}-{self.number()}"
        row = {"id": invite_id, "organization_id": tenant.organization_id, "email": f"{invite_id}@example.org"}
        row |= {
            "role": "reader",
            "projects": "[]",
            "digest": secrets.digest(self.context.secrets.pepper, invite_token(invite_id)),
            "invited_by": self._create_owner(tenant),
        }
        self.add(invites, **row, created_at=self.now, expires_at=4_000_000_000)
        return invite_id

    def _create_owner(self, tenant: Tenant) -> str:
        """The owner of the tenant's organization."""
        return next(each.user_id for each in self.distinct if each.organization_id == tenant.organization_id)

    def group_role(self, tenant: Tenant) -> str:
        """The id of a new mapping from a group of the issuer to a role of that organization."""
        mapping_id = f"group_{tenant.tag}-{self.number()}"
        row = {
            "id": mapping_id,
            "organization_id": tenant.organization_id,
            "issuer": self._issuer.url,
            "group_name": mapping_id,
        }
        self.add(group_roles, **row, role="reader", created_at=self.now)
        return mapping_id

    def group(self, tenant: Tenant, *, project_role: str | None = None) -> str:
        """The id of a new group of the issuer with the role `reader`, and with `project_role` in the project."""
        name = self.group_role(tenant)
        group_id = f"id_of_{name}"
        row = {"organization_id": tenant.organization_id, "issuer": self._issuer.url}
        self.add(groups, **row, id=group_id, name=name, created_at=self.now)
        if project_role is not None:
            there = {"project_id": tenant.project_id, "role": project_role, "group_name": name}
            self.add(group_roles, **row, id=f"there_{name}", created_at=self.now, **there)
        return group_id

    def member_of_group(self, tenant: Tenant, group_id: str) -> str:
        """The id of a reader of the tenant's organization whose token named the group."""
        user_id = self.person(tenant, "reader", None)
        identity = {"issuer": self._issuer.url, "subject": user_id, "groups_at": 1}
        with self.database.write() as session:
            session.run(update(users).where(users.c.id == user_id).values(**identity))
        self.add(user_groups, user_id=user_id, name=group_id.removeprefix("id_of_"), issuer=self._issuer.url)
        return user_id

    def _create_tenants(self) -> None:
        for organization_id in ("org_walk-here", "org_walk-other"):
            self.add(organizations, id=organization_id, title=organization_id, is_default=False, created_at=1)
        for tenant in self.distinct:
            row = {"id": tenant.project_id, "title": tenant.project_id, "organization_id": tenant.organization_id}
            self.add(projects, **row, is_default=False, created_at=1)
            self.add(users, id=tenant.user_id, email=f"{tenant.user_id}@example.org", created_at=1)
            join = {"user_id": tenant.user_id, "organization_id": tenant.organization_id, "created_at": 1}
            self.add(organization_users, **join, role="owner")
            self.add(project_users, **join, project_id=tenant.project_id, role="owner")

    def _bearer(self, name: str, subject: Subject | None) -> dict[str, str]:
        here = self.tenants[Ownership.OWN]
        if name == "nobody":
            return {}
        if subject is not None and subject.signed_in:
            return self._signed_in(name, subject)
        if subject is None:
            self.users[name] = self.person(here, None, None)
            _, secret = self.key(here, self.users[name])
        else:
            user_id = self.users[name] = self.person(here, subject.organization_role, subject.project_role)
            scopes = OWNER_SCOPES if subject.key_scopes is None else subject.key_scopes
            _, secret = self.key(here, user_id, scopes=scopes, admin=not subject.in_project)
        return {"authorization": f"Bearer {secret}"}

    def _signed_in(self, name: str, subject: Subject) -> dict[str, str]:
        """The headers of a signed-in user that select their organization and project."""
        here = self.tenants[Ownership.OWN]
        user_id = self.users[name] = self.person(here, subject.organization_role, subject.project_role)
        with self.database.write() as session:
            linked = {"issuer": self._issuer.url, "subject": user_id}
            session.run(update(users).where(users.c.id == user_id).values(**linked))
        selected = {"openai-organization": here.organization_id} if subject.organization_role else {}
        selected |= {"openai-project": here.project_id} if subject.works_in_project else {}
        return {"authorization": f"Bearer {self._issuer.token(user_id)}", **selected}

    def _auditor(self) -> dict[str, str]:
        """The headers of a key with a custom role for the audit log, whose user also owns a project."""
        here = self.tenants[Ownership.OWN]
        row = {"id": "role_walk", "organization_id": here.organization_id, "name": "auditor", "description": ""}
        self.add(custom_roles, **row, scopes="api.audit.read", created_at=1)
        _, secret = self.key(here, self.person(here, "role_walk", "owner"))
        return {"authorization": f"Bearer {secret}"}
