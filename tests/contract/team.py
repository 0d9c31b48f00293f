"""Users, roles and stores for tests of organizations, and a sequence of all administrative mutations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmariner.platform.database import Database
from llmariner.settings import Secret
from llmariner.tenancy.authenticator import Authenticator
from llmariner.tenancy.groups.group_roles import GroupRoles
from llmariner.tenancy.invitations.store import Invites
from llmariner.tenancy.keys.store import Keys, NewKey
from llmariner.tenancy.members.memberships import Members
from llmariner.tenancy.members.service_accounts import ServiceAccounts
from llmariner.tenancy.organizations.projects import Assignment, NewProject, Projects
from llmariner.tenancy.organizations.store import Organizations
from llmariner.tenancy.principal import Caller, KeyOwner
from llmariner.tenancy.roles.custom_roles import CustomRoles

__all__ = ["PEPPER", "Team", "run_every_mutation"]

PEPPER = Secret("p" * 32)


class Team:
    """The stores of one database, and callers for them. `admin` owns the default organization, signed in."""

    def __init__(self, database: Database, owner: KeyOwner) -> None:
        self.database = database
        self.owner = owner
        self.organizations = Organizations(database)
        self.projects = Projects(database)
        self.members = Members(database)
        self.accounts = ServiceAccounts(database)
        self.roles = CustomRoles(database)
        self.invites = Invites(database, PEPPER)
        self.keys = Keys(database, PEPPER)
        self.authenticator = Authenticator(database, PEPPER)
        self.admin = self.caller(owner.user_id)

    def caller(self, user_id: str, organization: str | None = None, project: str | None = None) -> Caller:
        """A person with their current permissions."""
        return self.authenticator.caller_for_user(user_id, organization, project)

    def person(self, email: str, role: str = "reader", **projects: str) -> Caller:
        """A new member of the default organization; `projects` by id, with the role there."""
        made = self.members.add(self.admin, email, role)
        for project_id, project_role in projects.items():
            self.members.add_to_project(self.admin, project_id, made.user_id, project_role)
        return self.caller(made.user_id)

    def project(self, title: str = "Second", **values: Any) -> str:
        """The id of a new project of the default organization."""
        return self.projects.create(self.admin, NewProject(title, **values)).id

    def key(self, caller: Caller, name: str = "key", project_id: str | None = None) -> tuple[str, str]:
        """Id and secret of a new key with all permissions of its user."""
        place = KeyOwner(caller.user_id, project_id or caller.key_owner.project_id, caller.organization_id)
        key, secret = self.keys.create(place, NewKey(name, caller.scopes))
        return key.id, secret

    def authenticates(self, secret: str) -> bool:
        """Whether the secret authenticates a caller."""
        return self.authenticator.authenticate(secret) is not None


def run_every_mutation(database: Database, owner: KeyOwner) -> None:
    """Run every administrative mutation once."""
    team = Team(database, owner)
    made = team.organizations.create(team.admin, "Acme")
    there = team.caller(owner.user_id, made.id)
    team.organizations.rename(there, "Acme Inc")
    team.organizations.delete(there)
    project_id = team.project()
    team.projects.rename(team.admin, project_id, "Third")
    team.projects.assign(team.admin, project_id, [Assignment("team-a")])
    ann = team.person("ann@example.org", **{project_id: "member"})
    team.members.set_role_in_project(team.admin, project_id, ann.user_id, "viewer")
    team.members.set_role(team.admin, ann.user_id, "owner")
    account = team.accounts.create(team.admin, project_id, "ci")
    team.accounts.update(team.admin, project_id, account.id, role="viewer")
    team.accounts.delete(team.admin, project_id, account.id)
    role = team.roles.create(team.admin, "auditor", ["api.audit.read"])
    team.roles.update(team.admin, role.id, description="Reads the log.")
    team.roles.delete(team.admin, role.id)
    _, token = team.invites.create(team.admin, "bob@example.org")
    team.invites.accept(token)
    invite, _ = team.invites.create(team.admin, "eve@example.org")
    team.invites.revoke(team.admin, invite.id)
    team.members.remove_from_project(team.admin, project_id, ann.user_id)
    team.members.remove(team.admin, ann.user_id)
    GroupRoles(database).create(team.admin, issuer="https://i", group="staff", role="viewer", project_id=project_id)
    team.projects.archive(team.admin, project_id)
    team.projects.delete(replace(team.admin, project_id=None), project_id)
