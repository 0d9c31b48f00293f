"""Two organizations with users and keys of all roles, and objects of every kind in three projects.

The id of every object contains the tag of its project, such as "walk-own": a response shows whose objects are in it.
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

from ..installation import Installation
from ..processes import CHECKOUT
from .issuer import Issuer

__all__ = ["CALLERS", "CUT", "Place", "World", "invite_token"]

CUT = frozenset({"api.model.read", "api.events.read", "api.organizations.projects.read"})
"""The scopes of a key that carries fewer than its owner holds."""
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
    "owner's small key": Subject("owner", key_scopes=CUT),
    "member's small key": Subject("reader", "member", key_scopes=CUT),
    "owner in person": Subject("owner", signed_in=True),
    "project owner in person": Subject("reader", "owner", signed_in=True),
    "member in person": Subject("reader", "member", signed_in=True),
    "reader in person": Subject("reader", in_project=False, signed_in=True),
    "stranger in person": Subject(None, in_project=False, signed_in=True),
}


@dataclass(frozen=True)
class Place:
    """A project, its organization, and a user of it."""

    whose: Ownership
    organization_id: str
    project_id: str
    user_id: str

    @property
    def tag(self) -> str:
        """The part that the ids of its objects contain."""
        return self.project_id.removeprefix("proj_")


def invite_token(invite_id: str) -> str:
    """The token of an invitation that `World.invite` made."""
    return "inv-" + hashlib.sha256(invite_id.encode()).hexdigest()[:48]


class World:
    """All of it in a database of its own, with functions over it whose models are all awake.

    `runner`: the key of who runs the installation.
    """

    def __init__(self, installation: Installation, issuer: Issuer, database: Path) -> None:
        self._issuer = issuer
        [engine, *_] = json.loads(installation.environment["LLMARINER_SERVING_STATIC"]).values()
        names = (f"walk/walk-{place}-{number}" for place in ("own", "sibling", "other") for number in range(_MODELS))
        serving = {
            "LLMARINER_DATABASE_URL": f"sqlite:///{database}",
            "LLMARINER_OIDC_ISSUER": issuer.url,
            "LLMARINER_SERVING_STATIC": json.dumps(dict.fromkeys(names, engine)),
        }
        self.context = Context({**installation.environment, **serving})
        self.database = self.context.database
        upgrade(self.database)
        _, runner = create_bootstrap_key(self.context.keys, ensure_first_owner(self.database), "runner")
        self.runner = {"authorization": f"Bearer {runner}"}
        self._applications: dict[str, Any] = {}
        self._numbers = itertools.count()
        self._models = {place: itertools.count() for place in ("own", "sibling", "other")}
        self.places = {
            Ownership.OWN: Place(Ownership.OWN, "org_walk-here", "proj_walk-own", "user_walk-own"),
            Ownership.SIBLING_PROJECT: Place(
                Ownership.SIBLING_PROJECT, "org_walk-here", "proj_walk-sibling", "user_walk-sibling"
            ),
            Ownership.OTHER_ORGANIZATION: Place(
                Ownership.OTHER_ORGANIZATION, "org_walk-other", "proj_walk-other", "user_walk-other"
            ),
        }
        # What is made first is listed first: lists are by age, and the walk makes more than a page holds.
        self.now = 1
        self._make_places()
        here = self.places[Ownership.OWN]
        self.places[Ownership.SAME_PROJECT] = replace(
            here, whose=Ownership.SAME_PROJECT, user_id=self.person(here, "reader", "member")
        )
        self.users: dict[str, str] = {}
        self.headers = {name: self._bearer(name, subject) for name, subject in CALLERS.items()}
        self.auditor = self._auditor()

    @property
    def distinct(self) -> list[Place]:
        """The places, each project once."""
        return [place for place in self.places.values() if place.whose is not Ownership.SAME_PROJECT]

    def place(self, whose: Ownership, caller: str) -> Place:
        """A place as that caller sees it: what is its own is of its own user."""
        place = self.places[whose]
        return replace(place, user_id=self.users.get(caller, place.user_id)) if whose is Ownership.OWN else place

    def application(self, function: str) -> Any:
        """A function on its own, in this process."""
        if function not in self._applications:
            application = self._applications[function] = load(CHECKOUT / "functions" / function)
            application.use_context(self.context)
        return self._applications[function]

    def number(self) -> int:
        """A new one each time."""
        return next(self._numbers)

    def model_name(self, place: Place) -> str:
        """A name that is not taken, of a model that an engine serves."""
        number = next(self._models[place.tag.removeprefix("walk-")])
        assert number < _MODELS
        return f"walk/{place.tag}-{number}"

    def add(self, table: Any, **values: Any) -> None:
        """One row."""
        with self.database.write() as session:
            session.add(table, **values)

    def person(self, place: Place, organization_role: str | None, project_role: str | None) -> str:
        """The id of somebody new in that organisation and project, in the roles that are not None."""
        user_id = f"user_{place.tag}-{self.number()}"
        self.add(users, id=user_id, email=f"{user_id}@example.org", created_at=self.now)
        join = {"user_id": user_id, "organization_id": place.organization_id, "created_at": self.now}
        if organization_role:
            self.add(organization_users, **join, role=organization_role)
        if project_role:
            self.add(project_users, **join, project_id=place.project_id, role=project_role)
        return user_id

    def key(
        self, place: Place, user_id: str, *, scopes: frozenset[str] = OWNER_SCOPES, admin: bool = False
    ) -> tuple[str, str]:
        """Id and secret of a new key."""
        key_id, secret = f"key_{place.tag}-{self.number()}", secrets.new_secret()
        self.add(
            api_keys,
            id=key_id,
            name=key_id,
            user_id=user_id,
            project_id=None if admin else place.project_id,
            organization_id=place.organization_id,
            prefix=secrets.mask(secret),
            scopes=" ".join(sorted(scopes)),
            created_at=self.now,
            excluded_from_rate_limiting=True,
            digest=self.context.keys.digest(secret),
            revision=0,
            kind="admin" if admin else "project",
        )
        return key_id, secret

    def project(self, place: Place) -> str:
        """The id of a new project of that organisation."""
        project_id = f"proj_{place.tag}-{self.number()}"
        row = {"id": project_id, "title": project_id, "organization_id": place.organization_id}
        self.add(projects, **row, is_default=False, created_at=self.now)
        return project_id

    def account(self, place: Place) -> str:
        """The id of a new service account of that project."""
        account_id = f"user_{place.tag}-{self.number()}"
        email = f"system:serviceaccount:{place.project_id}:{account_id}"
        self.add(users, id=account_id, email=email, name=account_id, kind="service_account", created_at=self.now)
        join = {"user_id": account_id, "organization_id": place.organization_id, "created_at": self.now}
        self.add(organization_users, **join, role="reader")
        self.add(project_users, **join, project_id=place.project_id, role="member")
        return account_id

    def role(self, place: Place, *, of_project: bool) -> str:
        """The id of a new role of that organisation or project."""
        role_id = f"role_{place.tag}-{self.number()}"
        row = {"id": role_id, "name": role_id, "organization_id": place.organization_id, "description": ""}
        project_id = place.project_id if of_project else None
        self.add(custom_roles, **row, project_id=project_id, scopes="api.files.read", created_at=self.now)
        return role_id

    def invite(self, place: Place) -> str:
        """The id of a new invitation to that organisation."""
        invite_id = f"invite_{place.tag}-{self.number()}"
        row = {"id": invite_id, "organization_id": place.organization_id, "email": f"{invite_id}@example.org"}
        row |= {
            "role": "reader",
            "projects": "[]",
            "digest": secrets.digest(self.context.secrets.pepper, invite_token(invite_id)),
            "invited_by": self._founder(place),
        }
        self.add(invites, **row, created_at=self.now, expires_at=4_000_000_000)
        return invite_id

    def _founder(self, place: Place) -> str:
        """Who owns its organisation."""
        return next(each.user_id for each in self.distinct if each.organization_id == place.organization_id)

    def group_role(self, place: Place) -> str:
        """The id of a new mapping from a group of the issuer to a role of that organisation."""
        mapping_id = f"group_{place.tag}-{self.number()}"
        row = {
            "id": mapping_id,
            "organization_id": place.organization_id,
            "issuer": self._issuer.url,
            "group_name": mapping_id,
        }
        self.add(group_roles, **row, role="reader", created_at=self.now)
        return mapping_id

    def group(self, place: Place, *, project_role: str | None = None) -> str:
        """The id of a new group of the issuer that the place's organisation knows, as a reader or in the project, too."""
        name = self.group_role(place)
        group_id = f"id_of_{name}"
        row = {"organization_id": place.organization_id, "issuer": self._issuer.url}
        self.add(groups, **row, id=group_id, name=name, created_at=self.now)
        if project_role is not None:
            there = {"project_id": place.project_id, "role": project_role, "group_name": name}
            self.add(group_roles, **row, id=f"there_{name}", created_at=self.now, **there)
        return group_id

    def member_of_group(self, place: Place, group_id: str) -> str:
        """The id of a reader of the place's organisation who came with a token that names the group."""
        user_id = self.person(place, "reader", None)
        told = {"issuer": self._issuer.url, "subject": user_id, "groups_at": 1}
        with self.database.write() as session:
            session.run(update(users).where(users.c.id == user_id).values(**told))
        self.add(user_groups, user_id=user_id, name=group_id.removeprefix("id_of_"), issuer=self._issuer.url)
        return user_id

    def _make_places(self) -> None:
        for organization_id in ("org_walk-here", "org_walk-other"):
            self.add(organizations, id=organization_id, title=organization_id, is_default=False, created_at=1)
        for place in self.distinct:
            row = {"id": place.project_id, "title": place.project_id, "organization_id": place.organization_id}
            self.add(projects, **row, is_default=False, created_at=1)
            self.add(users, id=place.user_id, email=f"{place.user_id}@example.org", created_at=1)
            join = {"user_id": place.user_id, "organization_id": place.organization_id, "created_at": 1}
            self.add(organization_users, **join, role="owner")
            self.add(project_users, **join, project_id=place.project_id, role="owner")

    def _bearer(self, name: str, subject: Subject | None) -> dict[str, str]:
        here = self.places[Ownership.OWN]
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
        """The token of somebody, who selects what they are in; nobody can select what they are not in."""
        here = self.places[Ownership.OWN]
        user_id = self.users[name] = self.person(here, subject.organization_role, subject.project_role)
        with self.database.write() as session:
            linked = {"issuer": self._issuer.url, "subject": user_id}
            session.run(update(users).where(users.c.id == user_id).values(**linked))
        selected = {"openai-organization": here.organization_id} if subject.organization_role else {}
        selected |= {"openai-project": here.project_id} if subject.works_in_project else {}
        return {"authorization": f"Bearer {self._issuer.token(user_id)}", **selected}

    def _auditor(self) -> dict[str, str]:
        """A key in a role that the organisation made for reading the audit log, whose user owns a project, too."""
        here = self.places[Ownership.OWN]
        row = {"id": "role_walk", "organization_id": here.organization_id, "name": "auditor", "description": ""}
        self.add(custom_roles, **row, scopes="api.audit.read", created_at=1)
        _, secret = self.key(here, self.person(here, "role_walk", "owner"))
        return {"authorization": f"Bearer {secret}"}
