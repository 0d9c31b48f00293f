"""An organization with two projects, and a user with a key for each combination of roles."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from llmariner.tenancy.keys.store import NewKey
from llmariner.tenancy.members.memberships import Members
from llmariner.tenancy.organizations.projects import NewProject, Projects
from llmariner.tenancy.organizations.store import Organizations
from llmariner.tenancy.principal import Caller, KeyOwner
from llmariner.tenancy.roles.custom_roles import CustomRoles
from llmariner.tenancy.roles.scopes import OWNER_SCOPES

from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse
from .installation import Installation

__all__ = ["Company"]

_numbers = itertools.count()


class Company:
    """An organization with two projects and people of every role.

    `people`: boss owns the organization, lead owns the project `vision`, mia and vic are member and viewer there, sam is
    a member of `speech`, rob is a reader of the organization. `ask` takes their names; e-mails: `email(name)`.
    """

    def __init__(self, installation: Installation, ask: Ask) -> None:
        self._ask, self.context, self.number = ask, installation.context, next(_numbers)
        database = self.context.database
        admin = self.context.authenticator.caller_for_user(installation.owner.user_id)
        self.id = Organizations(database).create(admin, f"Company {self.number}").id
        self.founder = self.context.authenticator.caller_for_user(admin.user_id, self.id)
        self.projects, self.members, self.roles = Projects(database), Members(database), CustomRoles(database)
        self.vision, self.speech = self.project("Vision"), self.project("Speech")
        self.people: dict[str, Caller] = {}
        self.secrets: dict[str, str] = {}
        self.add_user("boss", "owner", self.vision)
        self.add_user("lead", "reader", self.vision, "owner")
        self.add_user("mia", "reader", self.vision, "member")
        self.add_user("vic", "reader", self.vision, "viewer")
        self.add_user("sam", "reader", self.speech, "member")
        self.add_user("rob", "reader")
        self.secrets["admin"] = installation.keys.admin
        self.secrets["outsider"] = installation.keys.outsider

    def project(self, title: str) -> str:
        """The id of a new project."""
        return self.projects.create(self.founder, NewProject(title)).id

    def email(self, name: str) -> str:
        """The e-mail of a user: `NAME-NUMBER@example.org`."""
        return f"{name}-{self.number}@example.org"

    def add_user(self, name: str, role: str, project_id: str | None = None, project_role: str | None = None) -> Caller:
        """Add a user with a key of that project, or with an admin key."""
        user_id = self.members.add(self.founder, self.email(name), role).user_id
        if project_id is not None and project_role is not None:
            self.members.add_to_project(self.founder, project_id, user_id, project_role)
        person = self.context.authenticator.caller_for_user(user_id, self.id, project_id)
        new = NewKey(f"{name}'s", OWNER_SCOPES)
        if project_id is None:
            _, self.secrets[name] = self.context.keys.create_admin(replace(person), new)
        else:
            _, self.secrets[name] = self.context.keys.create(KeyOwner(user_id, project_id, self.id), new)
        self.people[name] = person
        return person

    def ask(self, route: str, body: Any = None, *, by: str = "boss", query: str = "") -> HttpResponse:
        """Call a route; `HERE`, `VISION`, `SPEECH` in it stand for ids. `by`: the name of the caller."""
        for word, value in (("HERE", self.id), ("VISION", self.vision), ("SPEECH", self.speech)):
            route = route.replace(word, value)
        method, path = route.split()
        headers = {"authorization": f"Bearer {self.secrets[by]}"} if by else {}
        words = path.split("/")
        function = "_".join(words[2:4]) if words[2] in ("organization", "inference") else words[2].partition(":")[0]
        return self._ask(function, HttpRequest(method, path, body, headers, query))

    def authenticates(self, secret: str) -> bool:
        """Whether a secret authenticates."""
        return self.context.authenticator.authenticate(secret) is not None
