"""Service accounts: users of a project that are deleted with it, or with their last key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest

from llmariner.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from llmariner.tenancy.keys.store import KeyOwner, KeySelector, NewKey
from llmariner.tenancy.members.service_accounts import ServiceAccount
from llmariner.tenancy.roles.scopes import OWNER_SCOPES, PROJECT_ROLES

from ..team import Team

AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]


def key_of(team: Team, account: ServiceAccount, name: str = "ci") -> tuple[str, str]:
    place = KeyOwner(account.id, account.project_id, account.organization_id)
    key, secret = team.keys.create(place, NewKey(name, OWNER_SCOPES), actor=team.admin)
    return key.id, secret


def test_a_service_account_has_its_roles_permissions(team: Team) -> None:
    project_id = team.project()
    account = team.accounts.create(team.admin, project_id, " ci ", role="viewer")
    assert (account.name, account.role, account.organization_role) == ("ci", "viewer", "reader")
    assert account.email == f"system:serviceaccount:{project_id}:ci"
    assert team.accounts.of_project(account.organization_id, project_id) == [account]
    _, secret = key_of(team, account)
    caller = team.authenticator.authenticate(secret)
    assert caller is not None
    assert (caller.user_id, caller.project_id, caller.project_role) == (account.id, project_id, "viewer")
    assert caller.scopes >= PROJECT_ROLES["viewer"]
    assert "api.inference.write" not in caller.scopes
    team.accounts.update(team.admin, project_id, account.id, role="member", name="robot")
    caller = team.authenticator.authenticate(secret)
    assert caller is not None
    assert "api.inference.write" in caller.scopes
    assert caller.email == f"system:serviceaccount:{project_id}:robot"


def test_a_service_account_is_not_listed_as_a_person(team: Team) -> None:
    account = team.accounts.create(team.admin, team.owner.project_id, "ci")
    here = team.admin.organization_id
    assert [each.user_id for each in team.members.all(here)] == [team.admin.user_id]
    assert [each.user_id for each in team.members.of_project(here, team.owner.project_id)] == [team.admin.user_id]
    assert team.organizations.summarize([here])[here].people == 1
    assert team.projects.count_members([team.owner.project_id]) == {team.owner.project_id: 1}
    for attempt in (
        lambda: team.members.remove(team.admin, account.id),
        lambda: team.members.set_role(team.admin, account.id, "owner"),
        lambda: team.members.remove_from_project(team.admin, team.owner.project_id, account.id),
    ):
        with pytest.raises(NotFound):
            attempt()
    with pytest.raises(InvalidRequest):
        team.members.add_to_project(team.admin, team.project(), account.id, "owner")
    with pytest.raises(InvalidRequest, match="e-mail"):
        team.members.add(team.admin, account.email, "owner")


def test_a_service_account_named_like_an_email_has_no_email(team: Team) -> None:
    account = team.accounts.create(team.admin, team.owner.project_id, "ci@example.org")
    for add in (team.members.add, team.invites.create):
        with pytest.raises(InvalidRequest, match="e-mail address"):
            add(team.admin, account.email, "reader")
    assert [each.email for each in team.members.all(team.owner.organization_id)] == ["admin@localhost"]


def test_a_name_is_unique_in_a_project(team: Team, run_concurrently: AtOnce) -> None:
    project_id = team.project()
    found = run_concurrently([lambda: team.accounts.create(team.admin, project_id, "ci")] * 4)
    assert sorted(type(each).__name__ for each in found) == ["Conflict"] * 3 + ["ServiceAccount"], found
    other = team.accounts.create(team.admin, team.owner.project_id, "ci")
    third = team.accounts.create(team.admin, team.owner.project_id, "third")
    with pytest.raises(Conflict):
        team.accounts.update(team.admin, team.owner.project_id, third.id, name="ci")
    assert team.accounts.update(team.admin, team.owner.project_id, other.id, name="ci").name == "ci"
    with pytest.raises(InvalidRequest):
        team.accounts.create(team.admin, project_id, "")


def test_a_service_account_is_deleted_with_its_last_key(team: Team) -> None:
    project_id = team.project()
    account = team.accounts.create(team.admin, project_id, "ci")
    first, _ = key_of(team, account, "first")
    second, secret = key_of(team, account, "second")
    view = KeySelector(account.organization_id, project_id)
    team.keys.revoke(view, first)
    assert team.authenticates(secret)
    team.keys.revoke(view, second)
    assert not team.authenticates(secret)
    with pytest.raises(NotFound):
        team.accounts.get(account.organization_id, project_id, account.id)
    assert team.accounts.create(team.admin, project_id, "ci").id != account.id


def test_a_person_is_not_deleted_with_their_last_key(team: Team) -> None:
    ann = team.person("ann@example.org", **{team.owner.project_id: "member"})
    key_id, _ = team.key(ann)
    team.keys.revoke(KeySelector(ann.organization_id), key_id)
    assert team.members.get(ann.organization_id, ann.user_id).email == "ann@example.org"


def test_concurrent_deletions_of_the_last_two_keys_delete_it(team: Team, run_concurrently: AtOnce) -> None:
    project_id = team.project()
    account = team.accounts.create(team.admin, project_id, "ci")
    ids = [key_of(team, account, name)[0] for name in ("a", "b")]
    view = KeySelector(account.organization_id, project_id)
    assert run_concurrently([partial(team.keys.revoke, view, key) for key in ids]) == [None, None]
    assert team.accounts.of_project(account.organization_id, project_id) == []


def test_a_deleted_account_loses_its_keys(team: Team) -> None:
    account = team.accounts.create(team.admin, team.owner.project_id, "ci")
    key_id, secret = key_of(team, account)
    elsewhere = team.project()
    with pytest.raises(NotFound):
        team.accounts.delete(team.admin, elsewhere, account.id)
    assert team.accounts.delete(team.admin, team.owner.project_id, account.id) == {"api_keys": [key_id]}
    assert not team.authenticates(secret)
    with pytest.raises(NotFound):
        team.accounts.delete(team.admin, team.owner.project_id, account.id)


def test_only_owners_create_accounts_above_reader(team: Team) -> None:
    project_id = team.project()
    lead = team.caller(team.person("ann@example.org", **{project_id: "owner"}).user_id, None, project_id)
    assert team.accounts.create(lead, project_id, "ci", role="owner").role == "owner"
    for role in ("owner", "tenant_system"):
        with pytest.raises(PermissionDenied):
            team.accounts.create(lead, project_id, "more", organization_role=role)
    wide = team.roles.create(team.admin, "wide", ["api.organizations.read"])
    with pytest.raises(PermissionDenied):
        team.accounts.create(lead, project_id, "more", organization_role=wide.id)
    account = team.accounts.create(team.admin, project_id, "system", organization_role="tenant_system")
    assert account.organization_role == "tenant_system"


def test_nobody_grants_an_account_more_than_they_hold(team: Team) -> None:
    project_id = team.project()
    viewer = team.caller(team.person("ann@example.org", **{project_id: "viewer"}).user_id, None, project_id)
    with pytest.raises(PermissionDenied):
        team.accounts.create(viewer, project_id, "ci", role="member")
    account = team.accounts.create(viewer, project_id, "ci", role="viewer")
    with pytest.raises(PermissionDenied):
        team.accounts.update(viewer, project_id, account.id, role="owner")
    acme = team.organizations.create(team.admin, "Acme")
    team.members.add(team.caller(team.admin.user_id, acme.id), "ann@example.org", "owner")
    elsewhere = team.caller(viewer.user_id, acme.id)
    with pytest.raises(NotFound):
        team.accounts.update(elsewhere, project_id, account.id, role="viewer")
