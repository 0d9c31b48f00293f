"""Projects: titles, assignments to clusters, model restrictions, and what is deleted with a project."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from sqlalchemy import select

from llmariner.audit.tables import audit_log
from llmariner.errors import Conflict, InvalidRequest, NotFound
from llmariner.models.model import NewModel, SourceRepository
from llmariner.models.registry import ModelRegistry
from llmariner.platform.events.tables import events
from llmariner.tenancy.keys.store import KeyOwner, NewKey
from llmariner.tenancy.organizations.projects import Assignment, NewProject, Project

from ..team import Team

AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]


def test_a_project_is_stored_as_requested(team: Team) -> None:
    made = team.projects.create(team.admin, NewProject(" Vision ", kubernetes_namespace="team-a"))
    assert (made.title, made.kubernetes_namespace, made.assignments) == ("Vision", "team-a", ())
    assert (made.is_default, made.archived_at, made.model_mode, made.model_ids) == (False, None, None, ())
    spread = [Assignment("a", "cluster-1", "queue", (("pool", "gpu"), ("example.org/zone", ""))), Assignment("b")]
    placed = team.projects.create(team.admin, NewProject("Speech", assignments=spread))
    assert (placed.assignments, placed.kubernetes_namespace) == (tuple(spread), None)
    assert [each.title for each in team.projects.all(team.admin.organization_id)] == [
        "Default Project",
        "Vision",
        "Speech",
    ]


def test_organization_owners_own_a_new_project(team: Team) -> None:
    second = team.person("ann@example.org", "owner")
    team.person("bob@example.org")
    project_id = team.project()
    members = team.members.of_project(team.admin.organization_id, project_id)
    assert [(each.email, each.role) for each in members] == [("admin@localhost", "owner"), ("ann@example.org", "owner")]
    assert team.projects.all(team.admin.organization_id, member=second.user_id)[-1].id == project_id
    assert team.projects.count_members([project_id]) == {project_id: 2}


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"title": ""}, "title"),
        ({"title": "x" * 257}, "title"),
        ({"kubernetes_namespace": "Team_A"}, "kubernetes_namespace"),
        ({"kubernetes_namespace": "-a"}, "kubernetes_namespace"),
        ({"kubernetes_namespace": "a" * 64}, "kubernetes_namespace"),
        ({"kubernetes_namespace": "a", "assignments": [Assignment("a")]}, "assignments"),
        ({"assignments": [Assignment("")]}, "assignments[0].namespace"),
        ({"assignments": [Assignment("a"), Assignment("b.c", "x")]}, "assignments[1].namespace"),
        ({"assignments": [Assignment("a"), Assignment("b")]}, "assignments"),
        ({"assignments": [Assignment("a", queue="no queue")]}, "assignments[0].kueue_queue_name"),
        ({"assignments": [Assignment("a", node_selector=(("a b", "c"),))]}, "assignments[0].node_selector[0].key"),
        ({"assignments": [Assignment("a", node_selector=(("a", "b/c"),))]}, "assignments[0].node_selector[0].value"),
        ({"assignments": [Assignment("a", "c" * 65)]}, "assignments[0].cluster_id"),
    ],
)
def test_invalid_projects_are_reported_by_field(team: Team, values: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        team.projects.create(team.admin, NewProject(**{"title": "Vision", **values}))
    assert refused.value.param == param
    assert len(team.projects.all(team.admin.organization_id)) == 1


def test_a_title_is_unique_in_an_organization(team: Team, run_concurrently: AtOnce) -> None:
    found = run_concurrently([lambda: team.projects.create(team.admin, NewProject("Vision"))] * 4)
    assert sorted(type(each).__name__ for each in found) == ["Conflict"] * 3 + ["Project"], found
    made = next(each for each in found if isinstance(each, Project))
    with pytest.raises(Conflict):
        team.projects.rename(team.admin, made.id, "Default Project")
    assert team.projects.rename(team.admin, made.id, "Vision").title == "Vision"
    team.projects.archive(team.admin, made.id)
    assert team.projects.create(team.admin, NewProject("Vision")).id != made.id
    elsewhere = team.caller(team.admin.user_id, team.organizations.create(team.admin, "Acme").id)
    team.projects.create(elsewhere, NewProject("Vision"))


def test_assignments_replace_a_namespace(team: Team) -> None:
    project_id = team.project(kubernetes_namespace="team-a")
    changed = team.projects.assign(team.admin, project_id, [Assignment("team-b")])
    assert (changed.kubernetes_namespace, changed.assignments) == (None, (Assignment("team-b"),))
    assert team.projects.assign(team.admin, project_id, []).assignments == ()


def test_a_model_restriction_is_stored_and_applies_to_keys(team: Team) -> None:
    project_id = team.project()
    key_id, secret = team.key(team.admin, project_id=project_id)
    before, _ = team.keys.changed_since(0)
    changed = team.projects.set_models(team.admin, project_id, "allow", ["b", "a", "b"])
    assert (changed.model_mode, changed.model_ids) == ("allow", ("a", "b"))
    assert key_id in team.keys.changed_since(before)[1]
    found = team.keys.by_secret(secret)
    assert found is not None
    assert found.project_models == ("allow", frozenset({"a", "b"}))
    cleared = team.projects.set_models(team.admin, project_id, None, ["a"])
    assert (cleared.model_mode, cleared.model_ids) == (None, ())
    with pytest.raises(InvalidRequest):
        team.projects.set_models(team.admin, project_id, "maybe", [])


def test_keys_of_an_archived_project_are_rejected(team: Team) -> None:
    project_id = team.project()
    ann = team.person("ann@example.org", **{project_id: "member"})
    key_id, secret = team.key(ann, project_id=project_id)
    assert team.authenticates(secret)
    before, _ = team.keys.changed_since(0)
    archived = team.projects.archive(team.admin, project_id)
    assert archived.archived_at is not None
    assert not team.authenticates(secret)
    assert {key_id, ann.user_id} <= set(team.keys.changed_since(before)[1])
    assert project_id not in [each.id for each in team.projects.all(team.admin.organization_id)]
    for change in (
        lambda: team.projects.archive(team.admin, project_id),
        lambda: team.projects.rename(team.admin, project_id, "x"),
        lambda: team.members.add_to_project(team.admin, project_id, team.admin.user_id, "owner"),
        lambda: team.accounts.create(team.admin, project_id, "ci"),
    ):
        with pytest.raises(InvalidRequest, match="archived"):
            change()


def test_the_default_project_cannot_be_deleted(team: Team) -> None:
    project_id = team.owner.project_id
    for end in (team.projects.archive, team.projects.delete):
        with pytest.raises(InvalidRequest) as refused:
            end(team.admin, project_id)
        assert refused.value.code == "default_project"


def test_a_deleted_project_returns_what_was_deleted_with_it(team: Team) -> None:
    project_id = team.project()
    ann = team.person("ann@example.org", **{project_id: "member"})
    role = team.roles.create(team.admin, "chats", ["api.inference.write"], project_id=project_id)
    account = team.accounts.create(team.admin, project_id, "ci")
    _, first = team.key(ann, project_id=project_id)
    made, second = team.keys.create(
        KeyOwner(account.id, project_id, team.admin.organization_id), NewKey("ci", frozenset({"api.model.read"}))
    )
    assert team.authenticates(first)
    assert team.authenticates(second)
    gone = team.projects.delete(team.admin, project_id)
    assert gone["users"] == ["admin@localhost", "ann@example.org"]
    assert (gone["service_accounts"], gone["roles"]) == (["ci"], [role.id])
    assert len(gone["api_keys"]) == 2
    assert gone["api_keys"][0] == made.id
    assert not team.authenticates(first)
    assert not team.authenticates(second)
    assert team.members.of_project(team.admin.organization_id, project_id) == []
    assert team.projects.get(team.admin.organization_id, project_id).archived_at is not None
    team.project()
    with team.database.read() as session:
        reported = session.value(select(audit_log.c.payload).where(audit_log.c.type == "project.deleted"))
        revoked = session.rows(select(events.c.subject).where(events.c.type == "ai.llmariner.api_key.revoked.v1"))
    assert json.loads(reported) == {"id": project_id, "removed": gone}
    assert sorted(row.subject for row in revoked) == sorted(f"api_keys/{key}" for key in gone["api_keys"])


def test_a_project_with_models_is_not_deleted_and_the_error_lists_them(team: Team, registry: ModelRegistry) -> None:
    project_id = team.project()
    registry.create(NewModel("org/mine", SourceRepository.LOCAL, "/x", project_id=project_id))
    with pytest.raises(InvalidRequest, match="org/mine") as refused:
        team.projects.delete(team.admin, project_id)
    assert refused.value.details == {"in_the_way": {"models": ["org/mine"]}}
    registry.delete("org/mine", project_id=None)
    team.projects.delete(team.admin, project_id)


def test_another_organizations_project_is_not_found(team: Team) -> None:
    elsewhere = team.caller(team.admin.user_id, team.organizations.create(team.admin, "Acme").id)
    project_id = team.project()
    for attempt in (
        lambda: team.projects.get(elsewhere.organization_id, project_id),
        lambda: team.projects.rename(elsewhere, project_id, "x"),
        lambda: team.projects.assign(elsewhere, project_id, []),
        lambda: team.projects.set_models(elsewhere, project_id, None, []),
        lambda: team.projects.archive(elsewhere, project_id),
        lambda: team.projects.delete(elsewhere, project_id),
        lambda: team.members.add_to_project(elsewhere, project_id, elsewhere.user_id, "owner"),
        lambda: team.accounts.create(elsewhere, project_id, "ci"),
        lambda: team.roles.create(elsewhere, "x", ["api.model.read"], project_id=project_id),
    ):
        with pytest.raises(NotFound):
            attempt()


def test_the_number_of_active_projects_is_bounded(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmariner.tenancy.organizations.projects._MAX_PROJECTS", 3)
    acme = team.organizations.create(team.admin, "Acme")
    second = team.project("Second")
    team.project("Third")
    with pytest.raises(InvalidRequest) as full:
        team.project("Fourth")
    assert full.value.code == "too_many_projects"
    team.projects.create(team.caller(team.admin.user_id, acme.id), NewProject("Fourth"))
    team.projects.archive(team.admin, second)
    team.project("Fourth")
