"""Groups of the issuer grant and revoke memberships: with each token that has new claims, and when a group role changes."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import delete

from llmariner.audit import log
from llmariner.platform.database import Database
from llmariner.settings import Secret
from llmariner.tenancy.authenticator import Authenticator
from llmariner.tenancy.groups.group_roles import GroupRoles
from llmariner.tenancy.groups.membership_sync import reconcile_group
from llmariner.tenancy.keys.store import KeyOwner, Keys, NewKey
from llmariner.tenancy.members.memberships import Members
from llmariner.tenancy.sign_in import token_sign_in as sign_in
from llmariner.tenancy.sign_in.token_sign_in import TokenSignIn
from llmariner.tenancy.tables import organization_users

from .sign_in_fixtures import ISSUER, Tokens, add_user, assert_no_membership, audit_entries, invite, join, map_group

pytestmark = pytest.mark.usefixtures("uncached_sign_ins")


def test_groups_grant_and_revoke_roles(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    map_group(database, owner, "staff", "viewer", project=True)
    map_group(database, owner, "engineers", "member", project=True)
    map_group(database, owner, "leads", "owner", issuer="https://other.example")

    def roles(*groups: str) -> tuple[str | None, str | None]:
        caller = people.authenticate(tokens.issue(groups=frozenset(groups)))
        return caller.organization_role, caller.project_role

    assert roles("staff") == ("reader", "viewer")
    assert roles("staff", "engineers", "leads") == ("reader", "member")
    assert roles("staff") == ("reader", "viewer")
    assert_no_membership(people, tokens.issue(groups=frozenset()))
    reported = {
        name: len(audit_entries(database, name)) for name in ("user.added", "user.deleted", "role.assignment.deleted")
    }
    assert reported == {"user.added": 1, "user.deleted": 1, "role.assignment.deleted": 3}
    assert log.verify(database, owner.organization_id).intact


def test_a_token_without_groups_changes_nothing(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    map_group(database, owner, "staff", "member", project=True)
    people.authenticate(tokens.issue(groups=frozenset({"staff"})))
    assert people.authenticate(tokens.issue(groups=None)).project_role == "member"


def test_a_former_group_members_keys_are_revoked(
    database: Database, people: TokenSignIn, tokens: Tokens, authenticator: Authenticator, owner: KeyOwner
) -> None:
    map_group(database, owner, "staff", "member", project=True)
    caller = people.authenticate(tokens.issue(groups=frozenset({"staff"})))
    keys = Keys(database, Secret("p" * 32))
    key, secret = keys.create(caller.key_owner, NewKey("mine", frozenset({"api.model.read"})))
    assert authenticator.authenticate(secret) is not None
    assert_no_membership(people, tokens.issue(groups=frozenset()))
    assert authenticator.authenticate(secret) is None
    assert key.id in keys.changed_since(key.revision)[1]
    assert people.authenticate(tokens.issue(groups=frozenset({"staff"}))).project_role == "member"
    assert authenticator.authenticate(secret) is None  # it does not come back with them


def test_an_older_token_does_not_change_groups(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    map_group(database, owner, "staff", "member", project=True)
    before = tokens.issue(groups=frozenset({"staff"}))
    assert people.authenticate(before).project_role == "member"
    assert_no_membership(people, tokens.issue(groups=frozenset(), issued_at=1060))
    assert_no_membership(people, before)
    again = tokens.issue(groups=frozenset({"staff"}), issued_at=1120)
    assert people.authenticate(again).project_role == "member"
    assert people.authenticate(before).project_role == "member"


def test_a_removed_member_stays_removed_with_older_tokens(
    database: Database, people: TokenSignIn, tokens: Tokens, authenticator: Authenticator, owner: KeyOwner
) -> None:
    map_group(database, owner, "staff", "member", project=True)
    held = tokens.issue(groups=frozenset({"staff"}))
    alice = people.authenticate(held).user_id
    members = Members(database)
    members.remove(authenticator.caller_for_user(owner.user_id), alice)
    assert_no_membership(people, held)
    later = int(time.time()) + 60
    assert_no_membership(people, tokens.issue(groups=frozenset({"staff"}), issued_at=later))
    map_group(database, owner, "staff", "reader")
    reconcile_group(database, ISSUER, "staff")
    assert_no_membership(people, tokens.issue(groups=frozenset({"staff", "more"}), issued_at=later + 60))
    members.add(authenticator.caller_for_user(owner.user_id), "alice@example.org", "reader")
    assert (
        people.authenticate(tokens.issue(groups=frozenset({"staff"}), issued_at=later + 120)).project_role == "member"
    )


def test_a_removed_project_member_stays_removed_with_older_tokens(
    database: Database, people: TokenSignIn, tokens: Tokens, authenticator: Authenticator, owner: KeyOwner
) -> None:
    map_group(database, owner, "staff", "member", project=True)
    held = tokens.issue(groups=frozenset({"staff"}))
    alice = people.authenticate(held)
    assert alice.project_role == "member"
    Members(database).remove_from_project(authenticator.caller_for_user(owner.user_id), owner.project_id, alice.user_id)
    assert people.authenticate(held).project_role is None
    later = tokens.issue(groups=frozenset({"staff"}), issued_at=int(time.time()) + 60)
    assert people.authenticate(later).project_role is None
    Members(database).add_to_project(
        authenticator.caller_for_user(owner.user_id), owner.project_id, alice.user_id, "viewer"
    )
    assert people.authenticate(later).project_role == "viewer"


def test_an_invitation_readmits_a_removed_member(
    database: Database, people: TokenSignIn, tokens: Tokens, authenticator: Authenticator, owner: KeyOwner
) -> None:
    map_group(database, owner, "staff", "member", project=True)
    held = tokens.issue(groups=frozenset({"staff"}))
    Members(database).remove(authenticator.caller_for_user(owner.user_id), people.authenticate(held).user_id)
    assert_no_membership(people, held)
    invite(database, owner, "alice@example.org", projects="[]")
    later = tokens.issue(groups=frozenset({"staff"}), issued_at=int(time.time()) + 60)
    assert people.authenticate(later).organization_role == "reader"
    assert people.authenticate(later).project_role == "member"


def test_a_deleted_group_role_revokes_memberships_without_a_sign_in(
    database: Database,
    people: TokenSignIn,
    tokens: Tokens,
    authenticator: Authenticator,
    owner: KeyOwner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sign_in, "_CACHE_SECONDS", 60.0)
    mappings, actor = GroupRoles(database), authenticator.caller_for_user(owner.user_id)
    place = {"issuer": ISSUER, "group": "staff", "project_id": owner.project_id}
    mapped = mappings.create(actor, role="viewer", **place)
    token = tokens.issue(groups=frozenset({"staff"}))
    alice = people.authenticate(token)
    _, secret = Keys(database, Secret("p" * 32)).create(alice.key_owner, NewKey("mine", frozenset({"api.model.read"})))
    mappings.create(actor, issuer=ISSUER, group="staff", role="owner", project_id=None)
    assert people.authenticate(token).is_owner
    (_, owning) = mappings.of_organization(owner.organization_id)
    mappings.delete(actor, owning.id)
    assert people.authenticate(token).organization_role == "reader"
    assert authenticator.authenticate(secret) is not None
    mappings.delete(actor, mapped.id)
    reconcile_group(database, ISSUER, "staff")
    assert authenticator.authenticate(secret) is None
    assert_no_membership(people, token)
    assert log.verify(database, owner.organization_id).intact


def test_manual_memberships_are_not_revoked_by_groups(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    map_group(database, owner, "staff", "reader")
    join(database, owner, add_user(database, "alice@example.org", claimable_until=2**40), "owner")
    for groups in ({"staff"}, set()):
        assert people.authenticate(tokens.issue(groups=frozenset(groups))).organization_role == "owner"


def test_the_last_owner_remains_regardless_of_groups(
    database: Database, people: TokenSignIn, tokens: Tokens, owner: KeyOwner
) -> None:
    map_group(database, owner, "admins", "owner")
    with database.write() as session:
        session.run(delete(organization_users).where(organization_users.c.user_id == owner.user_id))
    assert people.authenticate(tokens.issue(groups=frozenset({"admins"}))).is_owner
    assert people.authenticate(tokens.issue(groups=frozenset())).is_owner
    join(database, owner, owner.user_id, "owner")
    assert_no_membership(people, tokens.issue(groups=frozenset()))
