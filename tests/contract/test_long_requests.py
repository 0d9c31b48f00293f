"""A caller that loses its rights while a request arrives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmariner.errors import AuthenticationFailed, PermissionDenied
from llmariner.platform.database import Database
from llmariner.tenancy.keys.store import KeyOwner, NewKey
from llmariner.tenancy.long_requests import check_still_allowed

from .team import Team

WRITE = "api.files.write"


def test_a_caller_that_keeps_its_rights_is_allowed(team: Team, database: Database, owner: KeyOwner) -> None:
    key, secret = team.keys.create(owner, NewKey("k", frozenset({WRITE})))
    caller = team.authenticator.authenticate(secret)
    assert caller is not None
    check_still_allowed(database, caller, WRITE)
    team.keys.revoke(owner, key.id)
    with pytest.raises(AuthenticationFailed, match="revoked or expired"):
        check_still_allowed(database, caller, WRITE)


def test_a_key_that_lost_the_scope_is_refused(team: Team, database: Database, owner: KeyOwner) -> None:
    key, secret = team.keys.create(owner, NewKey("k", frozenset({WRITE})))
    caller = team.authenticator.authenticate(secret)
    assert caller is not None
    team.keys.update(owner, key.id, scopes=frozenset({"api.files.read"}))
    with pytest.raises(PermissionDenied, match="lost the right"):
        check_still_allowed(database, caller, WRITE)


def test_a_project_that_is_archived_or_gone_takes_nothing(team: Team, database: Database) -> None:
    project_id = team.project()
    caller = replace(team.admin, project_id=project_id)
    check_still_allowed(database, caller, WRITE)
    team.projects.archive(team.admin, project_id)
    with pytest.raises(PermissionDenied) as archived:
        check_still_allowed(database, caller, WRITE)
    assert archived.value.code == "project_archived"
    with pytest.raises(PermissionDenied):
        check_still_allowed(database, replace(caller, project_id="proj_gone"), WRITE)


def test_a_person_who_lost_the_scope_is_refused(team: Team, database: Database) -> None:
    caller = replace(team.person("reader@example.com"), project_id=team.project())
    with pytest.raises(PermissionDenied, match="lost the right"):
        check_still_allowed(database, caller, WRITE)
