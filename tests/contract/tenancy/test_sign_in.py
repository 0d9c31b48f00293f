"""Sign-in: a person is provisioned once, gets invitations and group roles, and cannot take over another account."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from sqlalchemy import delete, func, select, update

from llmariner.audit import log
from llmariner.errors import AuthenticationFailed, NotFound, PermissionDenied
from llmariner.platform.database import Database
from llmariner.settings import Secret
from llmariner.tenancy.authenticator import Authenticator
from llmariner.tenancy.keys.store import KeyOwner, Keys
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.scopes import ORGANIZATION_ROLES, PROJECT_ROLES
from llmariner.tenancy.sign_in import token_sign_in as sign_in
from llmariner.tenancy.sign_in.token_sign_in import TokenSignIn
from llmariner.tenancy.tables import (
    invites,
    organization_users,
    organizations,
    project_users,
    projects,
    users,
)

from ..team import Team
from .sign_in_fixtures import (
    ISSUER,
    Tokens,
    add_user,
    assert_no_membership,
    audit_entries,
    invite,
    join,
    map_group,
    user_row,
)

pytestmark = pytest.mark.usefixtures("uncached_sign_ins")

AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]


def test_an_uninvited_person_gets_an_account_without_memberships(
    database: Database, people: TokenSignIn, tokens: Tokens
) -> None:
    assert_no_membership(people, tokens.issue())
    found = user_row(database, "alice@example.org")
    assert (found.issuer, found.subject, found.name, found.kind) == (ISSUER, "0001", "Alice", "person")


@pytest.mark.parametrize(
    ("default_role", "organization_role", "project_role"), [("reader", "reader", None), ("member", "reader", "member")]
)
def test_a_new_account_gets_the_configured_roles(
    default_role: str,
    organization_role: str,
    project_role: str | None,
    database: Database,
    tokens: Tokens,
    authenticator: Authenticator,
    owner: KeyOwner,
) -> None:
    people = TokenSignIn(database, tokens, authenticator, default_role=default_role)
    caller = people.authenticate(tokens.issue())
    assert (caller.organization_role, caller.project_role) == (organization_role, project_role)
    assert caller.organization_id == owner.organization_id
    assert caller.key_id is None


def test_a_removed_member_stays_removed(
    database: Database, tokens: Tokens, authenticator: Authenticator, owner: KeyOwner
) -> None:
    people = TokenSignIn(database, tokens, authenticator, default_role="member")
    user_id = people.authenticate(tokens.issue()).user_id
    with database.write() as session:
        for table in (project_users, organization_users):
            session.run(delete(table).where(table.c.user_id == user_id))
    assert_no_membership(people, tokens.issue())


@pytest.mark.parametrize("default_role", ["reader", "member"])
def test_a_removal_overrides_default_roles(
    default_role: str, database: Database, tokens: Tokens, authenticator: Authenticator, team: Team
) -> None:
    """Of a person without an account, and of one whose account is unlinked afterwards."""
    people = TokenSignIn(database, tokens, authenticator, default_role=default_role)
    alice = team.person("alice@example.org")
    team.members.remove(team.admin, alice.user_id)
    assert_no_membership(people, tokens.issue())
    people.unlink(team.admin, alice.user_id)
    assert_no_membership(people, tokens.issue_now(subject="0002"))
    team.members.add(team.admin, "alice@example.org", "reader")
    assert people.authenticate(tokens.issue_now(subject="0002")).organization_role == "reader"


def test_a_person_removed_from_the_default_project_does_not_get_it_as_a_new_member(
    database: Database, tokens: Tokens, authenticator: Authenticator, team: Team
) -> None:
    people = TokenSignIn(database, tokens, authenticator, default_role="member")
    alice = team.person("alice@example.org", **{team.owner.project_id: "member"})
    team.members.remove_from_project(team.admin, team.owner.project_id, alice.user_id)
    with database.write() as session:
        session.run(delete(organization_users).where(organization_users.c.user_id == alice.user_id))
    found = people.authenticate(tokens.issue())
    assert (found.organization_id, found.project_id) == (team.owner.organization_id, None)


def test_an_invitation_grants_exactly_its_roles(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    invite(database, owner, "alice@example.org", role="owner")
    caller = people.authenticate(tokens.issue())
    assert (caller.organization_role, caller.project_role) == ("owner", "member")
    with database.read() as session:
        assert session.value(select(invites.c.accepted_at)) == pytest.approx(time.time(), abs=60)
    assert [json.loads(row.payload)["id"] for row in audit_entries(database, "invite.accepted")] == [
        "invite_alice@example.org"
    ]
    people.authenticate(tokens.issue(signed_in_at=2000))
    assert len(audit_entries(database, "invite.accepted")) == 1
    assert log.verify(database, owner.organization_id).intact


@pytest.mark.parametrize("ended", [{"expires_at": 5}, {"revoked_at": 5}, {"accepted_at": 5}, {"email": "bob@x.org"}])
def test_an_expired_or_foreign_invitation_grants_nothing(
    ended: dict[str, Any], database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    invite(database, owner, **{"email": "alice@example.org", **ended})
    assert_no_membership(people, tokens.issue())


def test_an_invitation_requires_a_verified_email(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    assert_no_membership(people, tokens.issue())
    invite(database, owner, "alice@example.org")
    assert_no_membership(people, tokens.issue(email_verified=False))
    assert people.authenticate(tokens.issue()).project_role == "member"


def test_an_invitation_does_not_change_an_existing_membership(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    join(database, owner, add_user(database, "alice@example.org", claimable_until=2**40), "owner")
    invite(database, owner, "alice@example.org", role="reader")
    assert people.authenticate(tokens.issue()).organization_role == "owner"
    with database.read() as session:
        assert session.value(select(invites.c.accepted_at)) is None
        assert session.value(select(invites.c.revoked_at)) is not None


def test_a_token_with_another_email_does_not_accept_an_invitation(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    add_user(database, "b@example.org")
    join(database, owner, add_user(database, "alice@example.org"))
    with database.write() as session:
        session.run(delete(organization_users).where(organization_users.c.user_id == "user_alice@example.org"))
    assert_no_membership(people, tokens.issue())
    invite(database, owner, "alice@example.org", role="owner")
    assert_no_membership(people, tokens.issue(email="b@example.org"))
    assert_no_membership(people, tokens.issue(email=None))
    invite(database, owner, "b@example.org", role="owner")
    assert_no_membership(people, tokens.issue(email="b@example.org"))
    assert people.authenticate(tokens.issue()).is_owner


def test_an_archived_project_admits_nobody(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    invite(database, owner, "alice@example.org")
    with database.write() as session:
        session.run(update(projects).values(archived_at=5))
    caller = people.authenticate(tokens.issue())
    assert (caller.organization_role, caller.project_id) == ("reader", None)


def test_a_person_added_by_email_is_found_case_insensitively(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    user_id = add_user(database, "alice@example.org")
    join(database, owner, user_id)
    assert people.authenticate(tokens.issue()).user_id == user_id
    assert user_row(database, "alice@example.org").subject == "0001"


@pytest.mark.parametrize(
    "other", [{"issuer": "https://other.example"}, {"subject": "0002"}, {"issuer": "x", "subject": "0001"}]
)
def test_an_account_is_not_taken_over_by_email(
    other: dict[str, Any], database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    invite(database, owner, "alice@example.org", role="owner")
    alice = people.authenticate(tokens.issue())
    with pytest.raises(PermissionDenied, match="unlink") as refused:
        people.authenticate(tokens.issue(**other))
    assert refused.value.code == "account_linked"
    found = user_row(database, "alice@example.org")
    assert (found.id, found.issuer, found.subject) == (alice.user_id, ISSUER, "0001")


def test_an_owner_may_permit_a_move_to_another_issuer(
    database: Database, people: TokenSignIn, tokens: Tokens, authenticator: Authenticator, owner: KeyOwner
) -> None:
    join(database, owner, add_user(database, "alice@example.org"))
    alice = people.authenticate(tokens.issue())
    administrator = authenticator.caller_for_user(owner.user_id)
    with pytest.raises(PermissionDenied, match="Only an owner"):
        people.unlink(alice, alice.user_id)
    with pytest.raises(NotFound):
        people.unlink(administrator, "user_nobody")
    keys = Keys(database, Secret("p" * 32))
    before, _ = keys.changed_since(0)
    people.unlink(administrator, alice.user_id)
    assert keys.changed_since(before)[1] == [alice.user_id]  # gateways forget the tokens that they know
    assert people.authenticate(tokens.issue_now(issuer="https://other.example")).user_id == alice.user_id
    with pytest.raises(PermissionDenied):
        people.authenticate(tokens.issue())
    assert len(audit_entries(database, "user.updated")) == 1


def test_another_organizations_owner_cannot_change_a_sign_in(
    database: Database,
    people: TokenSignIn,
    tokens: Tokens,
    authenticator: Authenticator,
    owner: KeyOwner,
    other_owner: KeyOwner,
) -> None:
    join(database, other_owner, other_owner.user_id, "owner")
    with pytest.raises(PermissionDenied, match="default organization"):
        people.unlink(authenticator.caller_for_user(other_owner.user_id), owner.user_id)


def test_an_unverified_email_finds_no_account(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    join(database, owner, add_user(database, "alice@example.org", claimable_until=2**40), "owner")
    with pytest.raises(PermissionDenied, match="verified") as refused:
        people.authenticate(tokens.issue(email_verified=False))
    assert refused.value.code == "email_not_verified"
    assert user_row(database, "alice@example.org").issuer is None


def test_a_service_account_cannot_sign_in(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    name = "system:serviceaccount:ci"
    join(database, owner, add_user(database, name, kind="service_account"))
    for claims in ({"email": name}, {"email": None, "subject": name}):
        with pytest.raises(PermissionDenied):
            people.authenticate(tokens.issue(**claims))


def test_without_an_email_a_person_is_identified_by_subject(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    join(database, owner, add_user(database, "ci-runner"))
    nameless: dict[str, Any] = {"email": None, "email_verified": False, "name": None}
    assert people.authenticate(tokens.issue(subject="CI-runner", **nameless)).email == "ci-runner"
    with pytest.raises(PermissionDenied, match="scope 'email'"):
        people.authenticate(tokens.issue(subject="admin@localhost", **nameless))


def test_a_new_email_is_stored_unless_it_is_taken(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    invite(database, owner, "alice@example.org")
    alice = people.authenticate(tokens.issue())
    assert people.authenticate(tokens.issue(email="alice@married.org")).email == "alice@married.org"
    assert people.authenticate(tokens.issue(email="admin@localhost")).user_id == alice.user_id
    assert people.authenticate(tokens.issue(email="x@y.org", email_verified=False)).email == "alice@married.org"


def test_headers_select_by_id_or_title(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner, other_owner: KeyOwner
) -> None:
    with database.write() as session:
        session.add(
            projects, id="proj_b", organization_id=owner.organization_id, title="B", is_default=False, created_at=1
        )
    user_id = add_user(database, "alice@example.org")
    join(database, owner, user_id)
    with database.write() as session:
        for project, role in ((owner.project_id, "viewer"), ("proj_b", "member")):
            key = {"project_id": project, "user_id": user_id, "organization_id": owner.organization_id}
            session.add(project_users, **key, role=role, created_at=1)
    token = tokens.issue()

    def chosen(organization: str | None = None, project: str | None = None) -> Caller:
        return people.authenticate(token, organization, project)

    assert chosen().project_id == owner.project_id
    assert chosen().scopes == PROJECT_ROLES["viewer"] | ORGANIZATION_ROLES["reader"]
    assert chosen(project="B").project_id == chosen(project="proj_b").project_id == "proj_b"
    with database.read() as reading:
        title = reading.value(select(organizations.c.title).where(organizations.c.is_default))
    assert chosen(organization=title, project="B").project_role == "member"
    for theirs in ({"organization": "Others"}, {"organization": "org_2"}, {"project": "Theirs"}, {"project": "proj_2"}):
        with pytest.raises(PermissionDenied):
            chosen(**theirs)


def test_a_sign_in_is_recorded_once_for_repeated_tokens(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    invite(database, owner, "alice@example.org")
    for _ in range(3):
        people.authenticate(tokens.issue(), source="192.0.2.1")
    people.authenticate(tokens.issue(signed_in_at=2000))
    entries = audit_entries(database, "login.succeeded")
    assert len(entries) == 2
    actor = json.loads(entries[0].actor)
    assert actor["session"]["ip_address"] == "192.0.2.1"
    assert actor["session"]["user"]["email"] == "alice@example.org"
    assert user_row(database, "alice@example.org").last_login_at == 2000


def test_a_rejected_sign_in_is_recorded(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner, other_owner: KeyOwner
) -> None:
    def failed() -> list[tuple[str, str | None, str | None]]:
        rows = audit_entries(database, "login.failed")
        actors = [json.loads(row.actor)["session"] for row in rows]
        codes = [json.loads(row.payload)["error_code"] for row in rows]
        whose = [row.organization_id for row in rows]
        return [(whose[at], actor["user"]["email"], codes[at]) for at, actor in enumerate(actors)]

    with pytest.raises(AuthenticationFailed):
        people.authenticate("forged", source="192.0.2.1")
    assert failed() == [(owner.organization_id, None, "invalid_api_key")]
    assert_no_membership(people, tokens.issue())
    with pytest.raises(PermissionDenied):
        people.authenticate(tokens.issue(subject="0002"), source="192.0.2.2")
    with pytest.raises(PermissionDenied):
        people.authenticate(
            tokens.issue(subject="0003", email="bob@x.org"), other_owner.organization_id, source="192.0.2.2"
        )
    assert failed()[1:] == [
        (owner.organization_id, "alice@example.org", "insufficient_permissions"),
        (owner.organization_id, "alice@example.org", "account_linked"),
        (other_owner.organization_id, "bob@x.org", "insufficient_permissions"),
    ]


def test_selecting_a_foreign_project_is_no_rejected_sign_in(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    invite(database, owner, "alice@example.org")
    with pytest.raises(PermissionDenied, match="project 'Theirs'"):
        people.authenticate(tokens.issue(), None, "Theirs")
    assert not audit_entries(database, "login.failed")


def test_concurrent_first_requests_create_one_user(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner, run_concurrently: AtOnce
) -> None:
    map_group(database, owner, "staff", "member", project=True)
    invite(database, owner, "alice@example.org")
    given = [tokens.issue(groups=frozenset({"staff"})) for _ in range(6)]
    found = run_concurrently([lambda token=token: people.authenticate(token) for token in given])  # type: ignore[misc]
    assert {caller.user_id for caller in found} == {user_row(database, "alice@example.org").id}
    assert len(audit_entries(database, "login.succeeded")) == 1
    with database.read() as session:
        assert session.value(select(func.count()).select_from(users)) == 2


def test_a_cached_token_writes_nothing(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    invite(database, owner, "alice@example.org")
    token = tokens.issue()
    people.authenticate(token)

    def fail() -> None:
        raise AssertionError("wrote")

    monkeypatch.setattr(database, "write", fail)
    people.authenticate(token)
    monkeypatch.setattr(sign_in, "_CACHE_SECONDS", 60.0)
    people.authenticate(token)
