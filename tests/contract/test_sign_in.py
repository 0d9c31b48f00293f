"""Who signs in becomes a user once, gets what awaits them, and can't become somebody else."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from sqlalchemy import delete, func, select, update

from llmariner.audit import log
from llmariner.audit.tables import audit_log
from llmariner.errors import AuthenticationFailed, NotFound, PermissionDenied
from llmariner.platform.database import Database
from llmariner.platform.identity import Identity
from llmariner.settings import Secret
from llmariner.tenancy import sign_in
from llmariner.tenancy.caller import Caller
from llmariner.tenancy.callers import Callers
from llmariner.tenancy.keys import Keys, NewKey, Owner
from llmariner.tenancy.scopes import ORGANIZATION_ROLES, PROJECT_ROLES
from llmariner.tenancy.sign_in import SignIn
from llmariner.tenancy.tables import (
    group_roles,
    invites,
    organization_users,
    organizations,
    project_users,
    projects,
    users,
)

ISSUER = "https://issuer.example"
AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]

ALICE = Identity(
    issuer=ISSUER,
    subject="0001",
    email="alice@example.org",
    email_verified=True,
    name="Alice",
    groups=None,
    signed_in_at=1000,
    expires_at=2_000_000_000,
)


class Tokens:
    """Stands for the issuer's verifier, which tests/identity tests: a token is good when it was given out here."""

    def __init__(self) -> None:
        self._given: dict[str, Identity] = {}

    def identity(self, token: str) -> Identity:
        if token not in self._given:
            raise AuthenticationFailed("no token")
        return self._given[token]

    def new(self, **changed: Any) -> str:
        """A token of alice's, but for what is changed."""
        token = f"token {len(self._given)}"
        self._given[token] = dataclasses.replace(ALICE, **changed)
        return token


@pytest.fixture
def tokens() -> Tokens:
    return Tokens()


@pytest.fixture
def callers(database: Database) -> Callers:
    return Callers(database, Secret("p" * 32))


@pytest.fixture
def people(database: Database, tokens: Tokens, callers: Callers, owner: Owner) -> SignIn:
    """Of an installation with its default organisation."""
    return SignIn(database, tokens, callers)


@pytest.fixture(autouse=True)
def _nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_in, "_REMEMBERED_SECONDS", 0.0)


def add_user(database: Database, email: str, **values: Any) -> str:
    user_id = f"user_{email}"
    with database.write() as session:
        session.add(users, **{"id": user_id, "email": email, "created_at": 1, **values})
    return user_id


def join(database: Database, owner: Owner, user_id: str, role: str = "reader", **values: Any) -> None:
    with database.write() as session:
        key = {"organization_id": owner.organization_id, "user_id": user_id}
        session.add(organization_users, **key, role=role, created_at=1, **values)


def invite(database: Database, owner: Owner, email: str, *, role: str = "reader", **values: Any) -> str:
    row = {
        "id": f"invite_{email}",
        "organization_id": owner.organization_id,
        "email": email,
        "role": role,
        "projects": json.dumps([{"id": owner.project_id, "role": "member"}]),
        "digest": email,
        "invited_by": owner.user_id,
        "created_at": 1,
        "expires_at": int(time.time()) + 3600,
    }
    with database.write() as session:
        session.add(invites, **{**row, **values})
    return str(row["id"])


def map_group(
    database: Database, owner: Owner, group: str, role: str, *, project: bool = False, issuer: str = ISSUER
) -> None:
    with database.write() as session:
        session.add(
            group_roles,
            id=f"group_role_{group}_{role}_{project}",
            organization_id=owner.organization_id,
            issuer=issuer,
            group_name=group,
            project_id=owner.project_id if project else None,
            role=role,
            created_at=1,
        )


def user_row(database: Database, email: str) -> Any:
    with database.read() as session:
        return session.first(select(users).where(users.c.email == email))


def logged(database: Database, type_: str) -> list[Any]:
    with database.read() as session:
        return list(session.rows(select(audit_log).where(audit_log.c.type == type_).order_by(audit_log.c.sequence)))


def no_member(people: SignIn, token: str) -> None:
    with pytest.raises(PermissionDenied, match="not a member of any organization"):
        people.caller(token)


def test_nobody_invited_is_known_and_is_a_member_of_nothing(database: Database, people: SignIn, tokens: Tokens) -> None:
    no_member(people, tokens.new())
    found = user_row(database, "alice@example.org")
    assert (found.issuer, found.subject, found.name, found.kind) == (ISSUER, "0001", "Alice", "person")


@pytest.mark.parametrize(
    ("newcomers", "organization_role", "project_role"), [("reader", "reader", None), ("member", "reader", "member")]
)
def test_a_newcomer_becomes_what_the_setting_says(
    newcomers: str,
    organization_role: str,
    project_role: str | None,
    database: Database,
    tokens: Tokens,
    callers: Callers,
    owner: Owner,
) -> None:
    people = SignIn(database, tokens, callers, newcomer_role=newcomers)
    caller = people.caller(tokens.new())
    assert (caller.organization_role, caller.project_role) == (organization_role, project_role)
    assert caller.organization_id == owner.organization_id
    assert caller.key_id is None


def test_whom_an_owner_removed_stays_removed(
    database: Database, tokens: Tokens, callers: Callers, owner: Owner
) -> None:
    people = SignIn(database, tokens, callers, newcomer_role="member")
    user_id = people.caller(tokens.new()).user_id
    with database.write() as session:
        for table in (project_users, organization_users):
            session.run(delete(table).where(table.c.user_id == user_id))
    no_member(people, tokens.new())


def test_an_invitation_is_kept_to_the_letter(database: Database, people: SignIn, tokens: Tokens, owner: Owner) -> None:
    invite(database, owner, "alice@example.org", role="owner")
    caller = people.caller(tokens.new())
    assert (caller.organization_role, caller.project_role) == ("owner", "member")
    with database.read() as session:
        assert session.value(select(invites.c.accepted_at)) == pytest.approx(time.time(), abs=60)
    assert [json.loads(row.payload)["id"] for row in logged(database, "invite.accepted")] == [
        "invite_alice@example.org"
    ]
    people.caller(tokens.new(signed_in_at=2000))
    assert len(logged(database, "invite.accepted")) == 1
    assert log.verify(database, owner.organization_id).whole


@pytest.mark.parametrize("ended", [{"expires_at": 5}, {"revoked_at": 5}, {"accepted_at": 5}, {"email": "bob@x.org"}])
def test_an_invitation_that_ended_or_is_another_s_gives_nothing(
    ended: dict[str, Any], database: Database, people: SignIn, tokens: Tokens, owner: Owner
) -> None:
    invite(database, owner, **{"email": "alice@example.org", **ended})
    no_member(people, tokens.new())


def test_an_invitation_needs_a_verified_e_mail(
    database: Database, people: SignIn, tokens: Tokens, owner: Owner
) -> None:
    no_member(people, tokens.new())
    invite(database, owner, "alice@example.org")
    no_member(people, tokens.new(email_verified=False))
    assert people.caller(tokens.new()).project_role == "member"


def test_an_invitation_does_not_change_what_somebody_is_already(
    database: Database, people: SignIn, tokens: Tokens, owner: Owner
) -> None:
    join(database, owner, add_user(database, "alice@example.org"), "owner")
    invite(database, owner, "alice@example.org", role="reader")
    assert people.caller(tokens.new()).organization_role == "owner"


def test_an_archived_project_takes_nobody_in(database: Database, people: SignIn, tokens: Tokens, owner: Owner) -> None:
    invite(database, owner, "alice@example.org")
    with database.write() as session:
        session.run(update(projects).values(archived_at=5))
    caller = people.caller(tokens.new())
    assert (caller.organization_role, caller.project_id) == ("reader", None)


def test_who_was_added_by_e_mail_is_found_by_it_whatever_its_case(
    database: Database, people: SignIn, tokens: Tokens, owner: Owner
) -> None:
    user_id = add_user(database, "alice@example.org")
    join(database, owner, user_id)
    assert people.caller(tokens.new()).user_id == user_id
    assert user_row(database, "alice@example.org").subject == "0001"


@pytest.mark.parametrize(
    "other", [{"issuer": "https://other.example"}, {"subject": "0002"}, {"issuer": "x", "subject": "0001"}]
)
def test_an_account_is_not_taken_over_by_its_e_mail(
    other: dict[str, Any], database: Database, people: SignIn, tokens: Tokens, owner: Owner
) -> None:
    invite(database, owner, "alice@example.org", role="owner")
    alice = people.caller(tokens.new())
    with pytest.raises(PermissionDenied, match="unlink") as refused:
        people.caller(tokens.new(**other))
    assert refused.value.code == "account_linked"
    found = user_row(database, "alice@example.org")
    assert (found.id, found.issuer, found.subject) == (alice.user_id, ISSUER, "0001")


def test_an_owner_may_let_somebody_move_to_another_issuer(
    database: Database, people: SignIn, tokens: Tokens, callers: Callers, owner: Owner
) -> None:
    join(database, owner, add_user(database, "alice@example.org"))
    alice, moved = people.caller(tokens.new()), tokens.new(issuer="https://other.example")
    administrator = callers.of_user(owner.user_id)
    with pytest.raises(PermissionDenied, match="Only an owner"):
        people.unlink(alice, alice.user_id)
    with pytest.raises(NotFound):
        people.unlink(administrator, "user_nobody")
    keys = Keys(database, Secret("p" * 32))
    before, _ = keys.changed_since(0)
    people.unlink(administrator, alice.user_id)
    assert keys.changed_since(before)[1] == [alice.user_id]  # gateways forget the tokens that they know
    assert people.caller(moved).user_id == alice.user_id
    with pytest.raises(PermissionDenied):
        people.caller(tokens.new())
    assert len(logged(database, "user.updated")) == 1


def test_another_organization_s_owner_changes_nobody_s_sign_in(
    database: Database, people: SignIn, tokens: Tokens, callers: Callers, owner: Owner, stranger: Owner
) -> None:
    join(database, stranger, stranger.user_id, "owner")
    with pytest.raises(PermissionDenied, match="default organization"):
        people.unlink(callers.of_user(stranger.user_id), owner.user_id)


def test_an_e_mail_that_nobody_verified_finds_no_account(
    database: Database, people: SignIn, tokens: Tokens, owner: Owner
) -> None:
    join(database, owner, add_user(database, "alice@example.org"), "owner")
    with pytest.raises(PermissionDenied, match="verified") as refused:
        people.caller(tokens.new(email_verified=False))
    assert refused.value.code == "email_not_verified"
    assert user_row(database, "alice@example.org").issuer is None


def test_a_service_account_is_nobody_who_signs_in(
    database: Database, people: SignIn, tokens: Tokens, owner: Owner
) -> None:
    name = "system:serviceaccount:ci"
    join(database, owner, add_user(database, name, kind="service_account"))
    for claims in ({"email": name}, {"email": None, "subject": name}):
        with pytest.raises(PermissionDenied):
            people.caller(tokens.new(**claims))


def test_without_an_e_mail_somebody_is_known_by_the_subject(
    database: Database, people: SignIn, tokens: Tokens, owner: Owner
) -> None:
    join(database, owner, add_user(database, "ci-runner"))
    nameless: dict[str, Any] = {"email": None, "email_verified": False, "name": None}
    assert people.caller(tokens.new(subject="CI-runner", **nameless)).email == "ci-runner"
    with pytest.raises(PermissionDenied, match="scope 'email'"):
        people.caller(tokens.new(subject="admin@localhost", **nameless))


def test_a_new_e_mail_is_followed_unless_it_is_somebody_s(
    database: Database, people: SignIn, tokens: Tokens, owner: Owner
) -> None:
    invite(database, owner, "alice@example.org")
    alice = people.caller(tokens.new())
    assert people.caller(tokens.new(email="alice@married.org")).email == "alice@married.org"
    assert people.caller(tokens.new(email="admin@localhost")).user_id == alice.user_id
    assert people.caller(tokens.new(email="x@y.org", email_verified=False)).email == "alice@married.org"


def test_groups_give_roles_and_take_them(database: Database, people: SignIn, tokens: Tokens, owner: Owner) -> None:
    map_group(database, owner, "staff", "viewer", project=True)
    map_group(database, owner, "engineers", "member", project=True)
    map_group(database, owner, "leads", "owner", issuer="https://other.example")

    def roles(*groups: str) -> tuple[str | None, str | None]:
        caller = people.caller(tokens.new(groups=frozenset(groups)))
        return caller.organization_role, caller.project_role

    assert roles("staff") == ("reader", "viewer")
    assert roles("staff", "engineers", "leads") == ("reader", "member")
    assert roles("staff") == ("reader", "viewer")
    no_member(people, tokens.new(groups=frozenset()))
    told = {name: len(logged(database, name)) for name in ("user.added", "user.deleted", "role.assignment.deleted")}
    assert told == {"user.added": 1, "user.deleted": 1, "role.assignment.deleted": 3}
    assert log.verify(database, owner.organization_id).whole


def test_a_token_that_says_nothing_of_groups_changes_nothing(
    database: Database, people: SignIn, tokens: Tokens, owner: Owner
) -> None:
    map_group(database, owner, "staff", "member", project=True)
    people.caller(tokens.new(groups=frozenset({"staff"})))
    assert people.caller(tokens.new(groups=None)).project_role == "member"


def test_a_leaver_s_keys_end_with_the_group(
    database: Database, people: SignIn, tokens: Tokens, callers: Callers, owner: Owner
) -> None:
    map_group(database, owner, "staff", "member", project=True)
    caller = people.caller(tokens.new(groups=frozenset({"staff"})))
    keys = Keys(database, Secret("p" * 32))
    key, secret = keys.create(caller.owner, NewKey("mine", frozenset({"api.model.read"})))
    assert callers.by_secret(secret) is not None
    no_member(people, tokens.new(groups=frozenset()))
    assert callers.by_secret(secret) is None
    assert key.id in keys.changed_since(key.revision)[1]
    assert people.caller(tokens.new(groups=frozenset({"staff"}))).project_role == "member"
    assert callers.by_secret(secret) is None  # it does not come back with them


def test_what_people_gave_groups_do_not_take(database: Database, people: SignIn, tokens: Tokens, owner: Owner) -> None:
    map_group(database, owner, "staff", "reader")
    join(database, owner, add_user(database, "alice@example.org"), "owner")
    for groups in ({"staff"}, set()):
        assert people.caller(tokens.new(groups=frozenset(groups))).organization_role == "owner"


def test_the_last_owner_stays_whatever_the_groups_say(
    database: Database, people: SignIn, tokens: Tokens, owner: Owner
) -> None:
    map_group(database, owner, "admins", "owner")
    with database.write() as session:
        session.run(delete(organization_users).where(organization_users.c.user_id == owner.user_id))
    assert people.caller(tokens.new(groups=frozenset({"admins"}))).is_owner
    assert people.caller(tokens.new(groups=frozenset())).is_owner
    join(database, owner, owner.user_id, "owner")
    no_member(people, tokens.new(groups=frozenset()))


def test_headers_select_by_id_or_title(
    database: Database, people: SignIn, tokens: Tokens, owner: Owner, stranger: Owner
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
    token = tokens.new()

    def chosen(organization: str | None = None, project: str | None = None) -> Caller:
        return people.caller(token, organization, project)

    assert chosen().project_id == owner.project_id
    assert chosen().scopes == PROJECT_ROLES["viewer"] | ORGANIZATION_ROLES["reader"]
    assert chosen(project="B").project_id == chosen(project="proj_b").project_id == "proj_b"
    with database.read() as reading:
        title = reading.value(select(organizations.c.title).where(organizations.c.is_default))
    assert chosen(organization=title, project="B").project_role == "member"
    for theirs in ({"organization": "Others"}, {"organization": "org_2"}, {"project": "Theirs"}, {"project": "proj_2"}):
        with pytest.raises(PermissionDenied):
            chosen(**theirs)


def test_a_sign_in_is_logged_once_however_often_its_tokens_come(
    database: Database, people: SignIn, tokens: Tokens, owner: Owner
) -> None:
    invite(database, owner, "alice@example.org")
    for _ in range(3):
        people.caller(tokens.new(), source="192.0.2.1")
    people.caller(tokens.new(signed_in_at=2000))
    entries = logged(database, "login.succeeded")
    assert len(entries) == 2
    actor = json.loads(entries[0].actor)
    assert actor["session"]["ip_address"] == "192.0.2.1"
    assert actor["session"]["user"]["email"] == "alice@example.org"
    assert user_row(database, "alice@example.org").last_login_at == 2000


def test_a_refused_sign_in_is_logged(
    database: Database, people: SignIn, tokens: Tokens, owner: Owner, stranger: Owner
) -> None:
    def failed() -> list[tuple[str, str | None, str | None]]:
        rows = logged(database, "login.failed")
        actors = [json.loads(row.actor)["session"] for row in rows]
        codes = [json.loads(row.payload)["error_code"] for row in rows]
        whose = [row.organization_id for row in rows]
        return [(whose[at], actor["user"]["email"], codes[at]) for at, actor in enumerate(actors)]

    with pytest.raises(AuthenticationFailed):
        people.caller("forged", source="192.0.2.1")
    assert failed() == [(owner.organization_id, None, "invalid_api_key")]
    no_member(people, tokens.new())
    with pytest.raises(PermissionDenied):
        people.caller(tokens.new(subject="0002"), source="192.0.2.2")
    with pytest.raises(PermissionDenied):
        people.caller(tokens.new(subject="0003", email="bob@x.org"), stranger.organization_id, source="192.0.2.2")
    assert failed()[1:] == [
        (owner.organization_id, "alice@example.org", "insufficient_permissions"),
        (owner.organization_id, "alice@example.org", "account_linked"),
        (stranger.organization_id, "bob@x.org", "insufficient_permissions"),
    ]


def test_who_is_in_and_asks_for_a_project_of_others_has_not_failed_to_sign_in(
    database: Database, people: SignIn, tokens: Tokens, owner: Owner
) -> None:
    invite(database, owner, "alice@example.org")
    with pytest.raises(PermissionDenied, match="project 'Theirs'"):
        people.caller(tokens.new(), None, "Theirs")
    assert not logged(database, "login.failed")


def test_many_first_requests_at_once_make_one_user(
    database: Database, people: SignIn, tokens: Tokens, owner: Owner, at_once: AtOnce
) -> None:
    map_group(database, owner, "staff", "member", project=True)
    invite(database, owner, "alice@example.org")
    given = [tokens.new(groups=frozenset({"staff"})) for _ in range(6)]
    found = at_once([lambda token=token: people.caller(token) for token in given])  # type: ignore[misc]
    assert {caller.user_id for caller in found} == {user_row(database, "alice@example.org").id}
    assert len(logged(database, "login.succeeded")) == 1
    with database.read() as session:
        assert session.value(select(func.count()).select_from(users)) == 2


def test_a_known_token_costs_no_writing(
    database: Database, people: SignIn, tokens: Tokens, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    invite(database, owner, "alice@example.org")
    token = tokens.new()
    people.caller(token)

    def fail() -> None:
        raise AssertionError("wrote")

    monkeypatch.setattr(database, "write", fail)
    people.caller(token)
    monkeypatch.setattr(sign_in, "_REMEMBERED_SECONDS", 60.0)
    people.caller(token)
