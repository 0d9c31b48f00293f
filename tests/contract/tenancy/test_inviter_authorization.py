"""An invitation grants only what its inviter may still grant, and nothing that the person has by other means."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from llmariner.audit import log
from llmariner.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from llmariner.tenancy.groups.group_roles import GroupRoles
from llmariner.tenancy.invitations.store import Invites, ProjectGrant
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.scopes import ORGANIZATION_ROLES, PROJECT_ROLES
from llmariner.tenancy.sign_in.token_sign_in import TokenSignIn
from llmariner.tenancy.tables import invites

from ..team import PEPPER, Team
from .sign_in_fixtures import ISSUER, Tokens, audit_entries


@pytest.fixture
def deputy(team: Team) -> Caller:
    """A member who invites people, and otherwise has a reader's permissions."""
    people = {f"api.organizations.users.{capability}" for capability in ("read", "write")}
    role = team.roles.create(team.admin, "deputy", people | ORGANIZATION_ROLES["reader"])
    return team.person("dee@example.org", role.id)


@pytest.fixture
def people(team: Team) -> tuple[TokenSignIn, Tokens]:
    tokens = Tokens()
    return TokenSignIn(team.database, tokens, team.authenticator), tokens


def states(team: Team) -> list[tuple[bool, bool]]:
    """Of all invitations: whether accepted, whether revoked."""
    with team.database.read() as session:
        rows = session.rows(select(invites.c.accepted_at, invites.c.revoked_at).order_by(invites.c.id))
    return [(row.accepted_at is not None, row.revoked_at is not None) for row in rows]


def test_an_open_invitation_ends_when_its_invitee_is_added(team: Team, deputy: Caller) -> None:
    _, token = team.invites.create(deputy, "c@example.org", "reader")
    team.person("c@example.org", "owner")
    with pytest.raises(NotFound):
        team.invites.accept(token)
    assert states(team) == [(False, True)]
    assert len(audit_entries(team.database, "invite.deleted")) == 1
    assert log.verify(team.database, team.owner.organization_id).intact


def test_an_invitation_of_another_organization_remains(team: Team, deputy: Caller) -> None:
    elsewhere = team.caller(team.admin.user_id, team.organizations.create(team.admin, "Acme").id)
    _, token = team.invites.create(deputy, "c@example.org", "reader")
    team.members.add(elsewhere, "c@example.org", "owner")
    accepted = team.invites.accept(token)
    assert accepted.scopes == ORGANIZATION_ROLES["reader"]


def test_a_first_key_has_the_permissions_of_the_invitation(team: Team) -> None:
    promised = [ProjectGrant(team.owner.project_id, "viewer")]
    _, token = team.invites.create(team.admin, "c@example.org", "reader", promised)
    accepted = team.invites.accept(token)
    assert accepted.project_id == team.owner.project_id
    assert accepted.scopes == ORGANIZATION_ROLES["reader"] | PROJECT_ROLES["viewer"]
    team.members.set_role(team.admin, accepted.user_id, "owner")
    assert accepted.scopes == ORGANIZATION_ROLES["reader"] | PROJECT_ROLES["viewer"]


def test_an_invitation_is_valid_while_its_inviter_may_send_it(
    team: Team, deputy: Caller, people: tuple[TokenSignIn, Tokens]
) -> None:
    signing_in, tokens = people
    owner = team.person("olga@example.org", "owner")
    _, from_deputy = team.invites.create(deputy, "alice@example.org", "reader")
    _, from_owner = team.invites.create(owner, "bob@example.org", "owner")
    team.members.remove(team.admin, deputy.user_id)
    team.members.set_role(team.admin, owner.user_id, "reader")
    for token in (from_deputy, from_owner):
        with pytest.raises(NotFound):
            team.invites.accept(token)
    with pytest.raises(PermissionDenied):
        signing_in.authenticate(tokens.issue())
    with pytest.raises(PermissionDenied):
        signing_in.authenticate(tokens.issue(subject="0002", email="bob@example.org"))
    team.members.set_role(team.admin, owner.user_id, "owner")
    assert signing_in.authenticate(tokens.issue(subject="0002", email="bob@example.org", issued_at=2000)).is_owner


def test_an_invitation_takes_precedence_over_a_group_role(team: Team, people: tuple[TokenSignIn, Tokens]) -> None:
    signing_in, tokens = people
    with pytest.raises(PermissionDenied):
        signing_in.authenticate(tokens.issue(groups=frozenset({"staff"})))
    team.invites.create(team.admin, "alice@example.org", "owner")
    GroupRoles(team.database).create(team.admin, issuer=ISSUER, group="staff", role="reader", project_id=None)
    assert signing_in.authenticate(tokens.issue(groups=frozenset({"staff"}))).is_owner


def test_callers_with_fewer_permissions_cannot_revoke_an_invitation(team: Team, deputy: Caller) -> None:
    invite, _ = team.invites.create(team.admin, "c@example.org", "owner")
    with pytest.raises(PermissionDenied):
        team.invites.revoke(deputy, invite.id)
    mine, _ = team.invites.create(deputy, "d@example.org")
    team.invites.revoke(deputy, mine.id)


@pytest.mark.parametrize(("role", "leads"), [("reader", False), ("owner", True)])
def test_without_an_issuer_an_invitation_must_include_a_project(team: Team, role: str, leads: bool) -> None:
    keys_only = Invites(team.database, PEPPER, keys_only=True)
    if leads:
        _, token = keys_only.create(team.admin, "c@example.org", role)
        assert keys_only.accept(token).project_id == team.owner.project_id
        return
    with pytest.raises(InvalidRequest) as refused:
        keys_only.create(team.admin, "c@example.org", role)
    assert refused.value.param == "projects"


def test_an_invitation_to_deleted_projects_is_not_consumed(team: Team) -> None:
    keys_only = Invites(team.database, PEPPER, keys_only=True)
    project_id = team.project()
    _, token = keys_only.create(team.admin, "c@example.org", "reader", [ProjectGrant(project_id)])
    team.projects.archive(team.admin, project_id)
    with pytest.raises(Conflict):
        keys_only.accept(token)
    assert states(team) == [(False, False)]


def test_an_invitation_is_not_consumed_if_its_key_cannot_be_created(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = team.invites.create(team.admin, "c@example.org", "reader", [ProjectGrant(team.owner.project_id)])
    with monkeypatch.context() as broken:

        def fail(*_: Any) -> None:
            raise Conflict("no key")

        broken.setattr(team.keys, "create_in", fail)
        with pytest.raises(Conflict):
            team.invites.accept(token, team.keys)
    assert states(team) == [(False, False)]
    accepted = team.invites.accept(token, team.keys)
    assert accepted.first_key is not None
    assert team.authenticates(accepted.first_key[1])
    found = team.authenticator.authenticate(accepted.first_key[1])
    assert found is not None
    assert found.scopes == accepted.scopes


@pytest.mark.parametrize("token", ["", "inv-", "inv-" + "x" * 47, "inv-" + "x" * 49, "inv-" + "ä" * 48, "x" * 100_000])
def test_a_malformed_token_needs_no_query(team: Team, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("asked the database")

    monkeypatch.setattr(team.database, "read", fail)
    with pytest.raises(NotFound):
        team.invites.accept(token)


def test_an_invitation_ends_with_its_inviters_permission_or_its_role(team: Team, deputy: Caller) -> None:
    """The inviter is still a member and still holds the granted permissions."""
    _, from_deputy = team.invites.create(deputy, "alice@example.org", "reader")
    team.members.set_role(team.admin, deputy.user_id, "reader")
    with pytest.raises(NotFound):
        team.invites.accept(from_deputy)
    people = ["api.organizations.users.write", "api.organizations.users.read"]
    steward = team.roles.create(team.admin, "steward", people + sorted(ORGANIZATION_ROLES["reader"]))
    lead = team.person("lead@example.org", steward.id, **{team.owner.project_id: "owner"})
    promised = [ProjectGrant(team.owner.project_id, "member")]
    _, from_lead = team.invites.create(lead, "bob@example.org", "reader", promised)
    team.members.set_role_in_project(team.admin, team.owner.project_id, lead.user_id, "viewer")
    with pytest.raises(NotFound):
        team.invites.accept(from_lead)
    team.members.set_role_in_project(team.admin, team.owner.project_id, lead.user_id, "owner")
    assert team.invites.accept(from_lead).project_id == team.owner.project_id


def test_nobody_invites_with_permissions_they_lack_in_a_project(team: Team, deputy: Caller) -> None:
    with pytest.raises(PermissionDenied):
        team.invites.create(deputy, "c@example.org", "reader", [ProjectGrant(team.owner.project_id, "viewer")])
    assert states(team) == []
