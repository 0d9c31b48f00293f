"""Claims of accounts without a sign-in: an e-mail is not enough for an account that administers an organization."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from llmariner.errors import NotFound, PermissionDenied
from llmariner.platform.database import Database
from llmariner.platform.database.migrate import downgrade, upgrade
from llmariner.tenancy.invitations.store import Invites
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.tenancy.members.memberships import Members
from llmariner.tenancy.organizations.bootstrap import ensure_first_owner
from llmariner.tenancy.sign_in.token_sign_in import TokenSignIn
from llmariner.tenancy.tables import users
from llmariner.tenancy.validators import has_public_domain

from ..team import PEPPER, Team
from .sign_in_fixtures import ISSUER, Tokens, add_user, assert_no_membership, join, user_row


@pytest.fixture
def people(team: Team, tokens: Tokens) -> TokenSignIn:
    return TokenSignIn(team.database, tokens, team.authenticator)


def refused(people: TokenSignIn, token: str) -> str | None:
    with pytest.raises(PermissionDenied) as error:
        people.authenticate(token)
    return error.value.code


def test_the_first_administrator_is_never_linked_to_a_sign_in(
    team: Team, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    assert refused(people, tokens.issue(email="admin@localhost")) == "account_not_claimable"
    with pytest.raises(NotFound):
        people.unlink(team.admin, owner.user_id)
    assert refused(people, tokens.issue(email="admin@localhost")) == "account_not_claimable"
    found = user_row(team.database, "admin@localhost")
    assert (found.kind, found.issuer) == ("bootstrap", None)
    assert ensure_first_owner(team.database) == owner


def test_the_first_administrator_of_an_older_database_is_unlinked(new_database: Callable[[], Database]) -> None:
    database = new_database()
    upgrade(database, "0008")
    with database.write() as session:
        said = {"email": "admin@localhost", "issuer": ISSUER, "subject": "0001", "kind": "person"}
        session.run(users.insert().values(id="user_1", created_at=1, **said))
    upgrade(database)
    found = user_row(database, "admin@localhost")
    assert (found.kind, found.issuer, found.subject) == ("bootstrap", None, None)
    assert ensure_first_owner(database).user_id == "user_1"
    downgrade(database, "0008")
    with database.read() as session:
        assert session.value(select(users.c.kind)) == "person"


def test_the_first_administrator_is_a_regular_member(team: Team, owner: KeyOwner) -> None:
    ann = team.person("ann@example.org", "owner")
    assert [each.email for each in team.members.all(owner.organization_id)] == ["admin@localhost", "ann@example.org"]
    assert team.members.set_role(ann, owner.user_id, "reader").role == "reader"
    team.members.remove(ann, owner.user_id)
    elsewhere = team.caller(ann.user_id)
    assert team.members.add(elsewhere, "admin@localhost", "reader").user_id == owner.user_id


@pytest.mark.parametrize("role", ["owner", "tenant_system", "custom"])
def test_an_administrators_account_is_claimable_for_a_week(
    role: str, team: Team, people: TokenSignIn, tokens: Tokens
) -> None:
    if role == "custom":
        role = team.roles.create(team.admin, "deputy", ["api.organizations.users.write"]).id
    alice = team.person("alice@example.org", role)
    with team.database.write() as session:
        session.run(update(users).where(users.c.id == alice.user_id).values(claimable_until=int(time.time()) - 1))
    assert refused(people, tokens.issue()) == "account_unclaimed"
    people.unlink(team.admin, alice.user_id)
    assert people.authenticate(tokens.issue_now()).user_id == alice.user_id


def test_an_unlinked_person_cannot_claim_the_account_with_an_old_token(
    team: Team, people: TokenSignIn, tokens: Tokens
) -> None:
    alice, held = team.person("alice@example.org", "owner"), tokens.issue(subject="leaver")
    assert people.authenticate(held).organization_role == "owner"
    unlinked_after = int(time.time())
    people.unlink(team.admin, alice.user_id)
    assert refused(people, held) == "account_unlinked"
    assert refused(people, tokens.issue(subject="leaver", issued_at=unlinked_after - 1)) == "account_unlinked"
    assert people.authenticate(tokens.issue_now(subject="uninvited")).user_id == alice.user_id
    assert refused(people, held) == "account_linked"


def test_an_unlinked_person_loses_access_at_once_in_every_process(
    team: Team, people: TokenSignIn, tokens: Tokens
) -> None:
    alice, held = team.person("alice@example.org"), tokens.issue()
    elsewhere = TokenSignIn(team.database, tokens, team.authenticator)
    assert elsewhere.authenticate(held).user_id == alice.user_id
    people.unlink(team.admin, alice.user_id)
    assert refused(elsewhere, held) == "account_unlinked"


def test_a_recently_added_promoted_or_invited_owner_can_sign_in(
    team: Team, people: TokenSignIn, tokens: Tokens
) -> None:
    added = team.person("added@example.org", "owner")
    promoted = team.person("promoted@example.org")
    Members(team.database).set_role(team.admin, promoted.user_id, "owner")
    _, token = Invites(team.database, PEPPER).create(team.admin, "invited@example.org", "owner")
    invited = Invites(team.database, PEPPER).accept(token).user_id
    for subject, user_id in (("added", added.user_id), ("promoted", promoted.user_id), ("invited", invited)):
        token = tokens.issue(email=f"{subject}@example.org", subject=subject)
        assert people.authenticate(token).user_id == user_id


def test_another_organization_cannot_make_an_administrators_account_claimable(
    team: Team, people: TokenSignIn, tokens: Tokens
) -> None:
    alice = team.person("alice@example.org", "owner")
    with team.database.write() as session:  # as accounts of before are
        session.run(update(users).where(users.c.id == alice.user_id).values(claimable_until=None))
    theirs = team.caller(team.admin.user_id, team.organizations.create(team.admin, "Acme").id)
    team.members.add(theirs, "alice@example.org", "owner")
    team.members.set_role(theirs, alice.user_id, "reader")
    assert refused(people, tokens.issue()) == "account_unclaimed"


def test_a_readers_account_is_always_claimable(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    join(database, owner, add_user(database, "alice@example.org"))
    assert people.authenticate(tokens.issue()).organization_role == "reader"


PRIVATE = [
    "a@localhost",
    "a@server",
    "a@corp.local",
    "a@x.internal",
    "a@192.0.2.1",
    "a@[::1]",
    "a@x.localhost.",
    "a@.org",
]


@pytest.mark.parametrize("email", PRIVATE)
def test_an_email_without_a_public_domain_claims_no_account(
    email: str, database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    join(database, owner, add_user(database, email))
    assert refused(people, tokens.issue(email=email)) == "account_not_claimable"
    assert not has_public_domain(email)


def test_an_email_without_a_public_domain_can_create_an_account(people: TokenSignIn, tokens: Tokens) -> None:
    assert_no_membership(people, tokens.issue(email="alice@corp.local"))
    assert all(map(has_public_domain, ("a@example.org", "a@mail.example.co.uk", "a@xn--bcher-kva.de", "a@bücher.de")))
