"""Authentication: a key has at most the permissions of its user, and changes apply in every process."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import delete, event, select, text, update
from sqlalchemy.exc import InternalError

from llmariner.errors import AuthenticationFailed, InvalidRequest, PermissionDenied, Unavailable
from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.settings import DatabaseSettings, Secret
from llmariner.tenancy.authenticator import Authenticator
from llmariner.tenancy.keys.store import KeyOwner, Keys, NewKey
from llmariner.tenancy.roles.effective_permissions import bump_revision
from llmariner.tenancy.roles.scopes import MODEL_ADMIN, ORGANIZATION_ROLES, OWNER_SCOPES, PROJECT_ROLES, VIEWER_SCOPES
from llmariner.tenancy.tables import (
    api_keys,
    custom_roles,
    organization_users,
    organizations,
    project_users,
    projects,
    users,
)

_PEPPER = Secret("p" * 32)


@pytest.fixture
def authenticator(database: Database) -> Authenticator:
    return Authenticator(database, _PEPPER)


@pytest.fixture
def keys(database: Database) -> Keys:
    return Keys(database, _PEPPER)


def join(database: Database, owner: KeyOwner, role: str) -> KeyOwner:
    """A user with that role in the owner's project, and membership in the organization."""
    with database.write() as session:
        session.add(users, id="user_m", email="mia@example.org", created_at=1)
        joined = {"user_id": "user_m", "organization_id": owner.organization_id, "created_at": 1}
        session.add(organization_users, **joined, role="reader")
        session.add(project_users, **joined, project_id=owner.project_id, role=role)
    return KeyOwner("user_m", owner.project_id, owner.organization_id)


def set_role(database: Database, table: Any, user_id: str, role: str | None) -> None:
    with database.write() as session:
        one = table.c.user_id == user_id
        session.run(delete(table).where(one) if role is None else update(table).where(one).values(role=role))
        bump_revision(session, user_ids=[user_id])


@pytest.mark.parametrize("role", sorted(PROJECT_ROLES))
def test_a_key_has_at_most_its_users_permissions(
    role: str, database: Database, owner: KeyOwner, keys: Keys, authenticator: Authenticator
) -> None:
    _, secret = keys.create(join(database, owner, role), NewKey("all", OWNER_SCOPES))
    caller = authenticator.authenticate(secret)
    assert caller is not None
    assert caller.scopes == PROJECT_ROLES[role] | ORGANIZATION_ROLES["reader"]
    assert (caller.project_role, caller.is_owner) == (role, False)


def test_a_key_has_at_most_its_own_scopes(owner: KeyOwner, keys: Keys, authenticator: Authenticator) -> None:
    _, secret = keys.create(owner, NewKey("files", frozenset({"api.files.read", "api.k8s.clusterscope.read"})))
    caller = authenticator.authenticate(secret)
    assert caller is not None
    assert caller.scopes == {"api.files.read"}


def test_permission_to_change_models_includes_use(owner: KeyOwner, keys: Keys, authenticator: Authenticator) -> None:
    _, secret = keys.create(owner, NewKey("older", frozenset({"api.model.write"})))
    caller = authenticator.authenticate(secret)
    assert caller is not None
    assert caller.scopes == {"api.model.write", "api.inference.write"}


@pytest.mark.parametrize("table", [organization_users, project_users], ids=str)
def test_a_removed_members_keys_end_with_the_membership(
    table: Any, database: Database, owner: KeyOwner, keys: Keys, authenticator: Authenticator
) -> None:
    member = join(database, owner, "member")
    made, secret = keys.create(member, NewKey("mine", VIEWER_SCOPES))
    assert authenticator.authenticate(secret) is not None
    before, _ = keys.changed_since(0)
    set_role(database, table, member.user_id, None)
    assert authenticator.authenticate(secret) is None
    assert set(keys.changed_since(before)[1]) == {made.id, member.user_id}


def test_a_changed_role_applies_at_once(
    database: Database, owner: KeyOwner, keys: Keys, authenticator: Authenticator
) -> None:
    member = join(database, owner, "viewer")
    _, secret = keys.create(member, NewKey("mine", OWNER_SCOPES))
    set_role(database, project_users, member.user_id, "member")
    caller = authenticator.authenticate(secret)
    assert caller is not None
    assert caller.scopes == PROJECT_ROLES["member"] | ORGANIZATION_ROLES["reader"]


def test_a_custom_role_grants_its_scopes(
    database: Database, owner: KeyOwner, keys: Keys, authenticator: Authenticator
) -> None:
    with database.write() as session:
        role = {"id": "role_1", "organization_id": owner.organization_id, "name": "asks", "description": ""}
        session.add(custom_roles, **role, scopes="api.inference.write", created_at=1)
    _, secret = keys.create(join(database, owner, "role_1"), NewKey("mine", OWNER_SCOPES))
    caller = authenticator.authenticate(secret)
    assert caller is not None
    assert caller.scopes == {"api.inference.write"} | ORGANIZATION_ROLES["reader"]


def test_a_key_of_an_archived_project_is_rejected(
    database: Database, owner: KeyOwner, keys: Keys, authenticator: Authenticator
) -> None:
    _, secret = keys.create(owner, NewKey("mine", OWNER_SCOPES))
    with database.write() as session:
        session.run(update(projects).where(projects.c.id == owner.project_id).values(archived_at=5))
    assert authenticator.authenticate(secret) is None


def test_a_superseded_secret_is_rejected(owner: KeyOwner, keys: Keys, authenticator: Authenticator) -> None:
    made, old = keys.create(owner, NewKey("mine", OWNER_SCOPES))
    _, new = keys.rotate(owner, made.id, overlap=0)
    assert authenticator.authenticate(old) is None
    assert authenticator.authenticate(new) is not None


def test_a_superseded_secret_is_valid_during_the_overlap(
    database: Database, owner: KeyOwner, keys: Keys, authenticator: Authenticator
) -> None:
    made, old = keys.create(owner, NewKey("mine", OWNER_SCOPES))
    keys.rotate(owner, made.id, overlap=60)
    assert authenticator.authenticate(old) is not None
    with database.write() as session:  # as if that time were over
        session.run(update(api_keys).where(api_keys.c.id == made.id).values(previous_expires_at=time.time() - 1))
    assert authenticator.authenticate(old) is None


def test_the_last_use_of_a_key_is_recorded_per_minute(
    database: Database, owner: KeyOwner, keys: Keys, authenticator: Authenticator
) -> None:
    made, secret = keys.create(owner, NewKey("mine", OWNER_SCOPES))
    assert authenticator.authenticate(secret) is not None
    noted = keys.get(owner, made.id)
    now = noted.last_used_at or 0
    assert now == pytest.approx(time.time(), abs=30)
    assert noted.revision == made.revision
    for before, after in ((now - 40, now - 40), (now - 90, now)):
        with database.write() as session:
            session.run(update(api_keys).where(api_keys.c.id == made.id).values(last_used_at=before))
        Authenticator(database, _PEPPER).authenticate(secret)  # another process, which knows only what is stored
        assert keys.get(owner, made.id).last_used_at == pytest.approx(after, abs=15)


def test_one_process_records_the_last_use_once_per_minute(
    database: Database, owner: KeyOwner, keys: Keys, authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, secret = keys.create(owner, NewKey("mine", OWNER_SCOPES))
    assert authenticator.authenticate(secret) is not None
    writes = []
    monkeypatch.setattr(database, "write", lambda: writes.append(1))
    now = int(time.time())
    authenticator.last_use.record({made.id: now})
    authenticator.authenticate(secret)
    assert not writes
    authenticator.last_use.record({made.id: now + 90})
    assert writes


def test_a_read_only_database_authenticates_keys(database: Database, owner: KeyOwner, keys: Keys) -> None:
    made, secret = keys.create(owner, NewKey("mine", OWNER_SCOPES))
    replica = Database(DatabaseSettings(database.url))
    only_reads = "PRAGMA query_only = ON" if database.url.startswith("sqlite") else "SET TRANSACTION READ ONLY"
    event.listen(replica.engine, "begin", lambda connection: connection.exec_driver_sql(only_reads))
    try:
        with pytest.raises((Unavailable, InternalError)), replica.write() as session:
            session.run(update(api_keys).values(last_used_at=1))
        caller = Authenticator(replica, _PEPPER).authenticate(secret)
        assert caller is not None
        assert caller.key_id == made.id
    finally:
        replica.close()
    assert keys.get(owner, made.id).last_used_at is None


def test_headers_that_contradict_the_key_are_rejected(
    owner: KeyOwner, keys: Keys, authenticator: Authenticator
) -> None:
    _, secret = keys.create(owner, NewKey("mine", OWNER_SCOPES))
    assert authenticator.authenticate(secret, owner.organization_id, "Default Project") is not None
    with pytest.raises(AuthenticationFailed) as refused:
        authenticator.authenticate(secret, "org_2")
    assert refused.value.code == "mismatched_organization"
    with pytest.raises(AuthenticationFailed) as refused:
        authenticator.authenticate(secret, None, "proj_2")
    assert refused.value.code == "mismatched_project"


def test_a_person_selects_by_id_or_title(database: Database, owner: KeyOwner, authenticator: Authenticator) -> None:
    with database.write() as session:
        row = {"organization_id": owner.organization_id, "is_default": False, "created_at": 1}
        session.add(projects, id="proj_b", title="Second", **row)
    first = authenticator.caller_for_user(owner.user_id)
    assert (first.organization_id, first.project_id) == (owner.organization_id, owner.project_id)
    assert authenticator.caller_for_user(owner.user_id, "Default Organization", "Second").project_id == "proj_b"
    assert authenticator.caller_for_user(owner.user_id, None, "proj_b").project_role == "owner"
    member = join(database, owner, "member")
    assert authenticator.caller_for_user(member.user_id).project_id == owner.project_id
    with pytest.raises(PermissionDenied, match="Second"):
        authenticator.caller_for_user(member.user_id, None, "Second")


def test_a_person_without_memberships_is_informed(
    database: Database, owner: KeyOwner, authenticator: Authenticator
) -> None:
    with pytest.raises(AuthenticationFailed):
        authenticator.caller_for_user("user_gone")
    member = join(database, owner, "member")
    set_role(database, project_users, member.user_id, None)
    with pytest.raises(InvalidRequest, match="OpenAI-Project"):
        _ = authenticator.caller_for_user(member.user_id).key_owner
    set_role(database, organization_users, member.user_id, None)
    with pytest.raises(PermissionDenied, match="not a member of any organization"):
        authenticator.caller_for_user(member.user_id)


_ALL_OF_0001 = (
    "api.api_usages.read api.api_usages.write api.batch.jobs.read api.batch.jobs.write api.clusters.read "
    "api.clusters.write api.events.read api.events.write api.files.read api.files.write api.fine_tuning.jobs.read "
    "api.fine_tuning.jobs.write api.model.read api.model.write api.organizations.projects.api_keys.read "
    "api.organizations.projects.api_keys.write api.selfuser.read api.selfuser.write api.vector-stores.read "
    "api.vector-stores.write api.workspaces.notebooks.read api.workspaces.notebooks.write"
)


@pytest.mark.parametrize(
    ("before", "after"),
    [("api.files.read", frozenset({"api.files.read"})), (_ALL_OF_0001, OWNER_SCOPES | {MODEL_ADMIN})],
)
def test_a_key_from_before_memberships_keeps_its_permissions(
    before: str, after: frozenset[str], new_database: Any
) -> None:
    database = new_database()
    upgrade(database, "0001")
    with database.write() as session:
        session.add(organizations, id="org_1", title="Ours", is_default=True, created_at=1)
        columns = "INSERT INTO projects (id, organization_id, title, is_default, created_at) VALUES "
        session.run(text(columns + "('proj_1', 'org_1', 'P', true, 1)"))
        session.run(text("INSERT INTO users (id, email, created_at) VALUES ('user_1', 'a@example.org', 1)"))
        session.run(
            text(
                "INSERT INTO api_keys (id, name, user_id, project_id, organization_id, prefix, scopes, created_at, "
                "excluded_from_rate_limiting, digest, revision) VALUES "
                "('key_1', 'a', 'user_1', 'proj_1', 'org_1', 'sk-', :scopes, 1, false, 'd', 1)"
            ).bindparams(scopes=before)
        )
    upgrade(database)
    found = Authenticator(database, _PEPPER).authenticate_digest("d")
    assert found is not None
    assert (found[1].organization_role, found[1].project_role) == ("owner", "owner")
    assert found[1].scopes == after
    with database.read() as session:
        assert session.value(select(organization_users.c.created_at)) == pytest.approx(time.time(), abs=60)
        assert session.value(select(api_keys.c.kind)) == "project"
