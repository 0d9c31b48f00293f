"""For every route: an object of somebody's project that it may be asked for, and a body that it takes.

A route that is not here fails the walk: say how its object is made, or that it has none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from llmariner.http.resources.rate_limits import RateLimitRow
from llmariner.limits.budgets import NewBudget
from llmariner.limits.rules import Subject
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.platform.events.tables import deliveries, events

from .world import Place, World, invite_token

__all__ = ["IN_BODY", "OBJECTS", "Asked", "an_alert", "an_event", "model"]


@dataclass(frozen=True)
class Asked:
    """What stands in the path's place-holders, the body, and the query."""

    path: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    query: str = ""


_NAMES = ("name", "id", "role_name", "group", "title")
SPENDING = {"currency": "USD", "interval": "month", "threshold_amount": 100}
ALERTING = {**SPENDING, "notification_channel": {"type": "email", "recipients": ["walked@example.org"]}}
Make = Callable[[World, Place], Asked]


def nothing(_world: World, _place: Place) -> Asked:
    """A route without an object."""
    return Asked()


def hundred(_world: World, _place: Place) -> Asked:
    """A list of as many as a page holds."""
    return Asked(query="limit=100")


def an_address(world: World, _place: Place) -> Asked:
    """Somebody to be invited."""
    return Asked(body={"email": f"walked-{world.number()}@example.org", "role": "reader"})


def an_invitation(world: World, place: Place) -> Asked:
    """The token of an invitation."""
    return Asked(body={"token": invite_token(world.invite(place))})


def in_organization(body: Any = None) -> Make:
    """The place's organisation."""
    return lambda world, place: Asked({"organization_id": place.organization_id}, _numbered(body, world))


def someone_in_organization(world: World, place: Place) -> Asked:
    """Somebody of the place's organisation, named by both."""
    return Asked({"organization_id": place.organization_id, "user_id": world.person(place, "reader", None)})


def newcomer(world: World, place: Place) -> Asked:
    """The place's organisation, and an address that nobody there has."""
    body = {"user_id": f"new-{world.number()}@example.org", "role": "reader"}
    return Asked({"organization_id": place.organization_id}, body)


def below(body: Any = None) -> Make:
    """The place's project, named by its organisation, too."""
    return lambda world, place: Asked(_both(place), _numbered(body, world))


def joins(world: World, place: Place) -> Asked:
    """The place's project, and somebody of its organisation who is not in it."""
    return Asked(_both(place), {"user_id": world.person(place, "reader", None), "role": "member"})


def member_below(world: World, place: Place) -> Asked:
    """Somebody in the place's project."""
    return Asked({**_both(place), "user_id": world.person(place, "reader", "member")})


def key_below(world: World, place: Place) -> Asked:
    """A key of the place's project and user."""
    return Asked({**_both(place), "key_id": world.key(place, place.user_id)[0]})


def a_limit(body: Any = None) -> Make:
    """A limit of the place's project."""

    def made(world: World, place: Place) -> Asked:
        subject = Subject(place.organization_id, "project", place.project_id)
        limit = world.context.limits.put(None, subject, f"walk/{world.number()}", {"requests_per_day": 9})
        return Asked({"id": limit.id}, body)

    return made


def a_budget(body: Any = None, *, organization: bool = False, **names: str) -> Make:
    """A budget of the place's project or organisation; `names`: the place-holder that names which."""

    def made(world: World, place: Place) -> Asked:
        whose = ("organization", place.organization_id) if organization else ("project", place.project_id)
        new = NewBudget(10**12, alert_ratio=None, hard=True)
        budget = world.context.budgets.put(None, Subject(place.organization_id, *whose), "month", new)
        return Asked({name: getattr(place, field) for name, field in names.items()} or {"id": budget.id}, body)

    return made


def an_alert(body: Any = None, *, organization: bool = False, **names: str) -> Make:
    """A spend alert of the place's project or organisation; `names` as of `a_budget`."""

    def made(world: World, place: Place) -> Asked:
        whose = ("organization", place.organization_id) if organization else ("project", place.project_id)
        subject = Subject(place.organization_id, *whose)
        channel = {"type": "email", "recipients": [f"{place.tag}@example.org"], "subject_prefix": None}
        budgets = world.context.budgets
        # There may be so many of them: the place's last one goes.
        for last in [each for each in budgets.for_subject(subject) if each.channel == channel]:
            budgets.remove(None, place.organization_id, last.id)
        alert = budgets.add_alert(None, subject, "month", 10**12, channel)
        return Asked({"id": alert.id, **{name: getattr(place, field) for name, field in names.items()}}, body)

    return made


def a_rate_limit(world: World, place: Place) -> Asked:
    """What the place's project may use of a model of its own."""
    row = RateLimitRow(model(world, place), {})
    return Asked({"project_id": place.project_id, "rate_limit_id": row.id}, {"max_requests_per_1_minute": 9})


def of_project(**fields: Any) -> Make:
    """A body that names the place's project."""
    return lambda _world, place: Asked(body={"subject": "project", "subject_id": place.project_id, **fields})


def _both(place: Place) -> dict[str, str]:
    return {"organization_id": place.organization_id, "project_id": place.project_id}


def a_key(body: Any = None) -> Make:
    """A key of the place's project."""
    return lambda world, place: Asked({"id": world.key(place, place.user_id)[0]}, _numbered(body, world))


def a_model(body: Any = None) -> Make:
    """A model of the place's project, its weights here."""
    return lambda world, place: Asked({"id:path": model(world, place)}, body)


def inference(task: Task = Task.GENERATE, **fields: Any) -> Make:
    """A request to a model of the place's project."""
    return lambda world, place: Asked(body={"model": model(world, place, task), **fields})


def new(**fields: Any) -> Make:
    """A body with a name that is not taken."""
    return lambda world, _place: Asked(body=_numbered(fields, world))


def an_event(world: World, place: Place) -> Asked:
    """A dead letter of the place's project."""
    event_id = f"evt_{place.tag}-{world.number()}"
    row = {"id": event_id, "type": "ai.llmariner.test.walked.v1", "subject": "x", "project_id": place.project_id}
    with world.database.write() as session:
        session.add(events, **row, time=1.0, data=json.dumps({"project_id": place.project_id}), published=True)
        sequence = session.value(events.select().with_only_columns(events.c.sequence).where(events.c.id == event_id))
        session.add(deliveries, sequence=sequence, consumer="walker", state="dead", attempts=8, due_at=0.0)
    return Asked({"id": event_id})


def in_project(body: Any = None) -> Make:
    """The place's project."""
    return lambda world, place: Asked({"id": place.project_id}, _numbered(body, world))


def a_project(body: Any = None) -> Make:
    """Another project of the place's organisation, to be changed or ended."""
    return lambda world, place: Asked({"id": world.project(place)}, _numbered(body, world))


def a_member(body: Any = None) -> Make:
    """Somebody in the place's project."""
    return lambda world, place: Asked(
        {"id": place.project_id, "user_id": world.person(place, "reader", "member")}, body
    )


def to_be_added(world: World, place: Place) -> Asked:
    """The place's project, and somebody of its organisation who is not in it."""
    return Asked({"id": place.project_id}, {"user_id": world.person(place, "reader", None), "role": "member"})


def an_account(body: Any = None) -> Make:
    """A service account of the place's project."""
    return lambda world, place: Asked(
        {"id": place.project_id, "account_id": world.account(place)}, _numbered(body, world)
    )


def a_key_in(body: Any = None) -> Make:
    """A key of the place's project, named by both."""
    return lambda world, place: Asked(
        {"id": place.project_id, "key_id": world.key(place, place.user_id)[0]}, _numbered(body, world)
    )


def a_person(body: Any = None) -> Make:
    """Somebody of the place's organisation."""
    return lambda world, place: Asked({"id": world.person(place, "reader", None)}, body)


def with_role(role: str, *, of_project: bool = False) -> Make:
    """Somebody of the place's organisation or project with that role."""

    def made(world: World, place: Place) -> Asked:
        if not of_project:
            return Asked({"id": world.person(place, role, None), "role_id": role})
        return Asked({"id": place.project_id, "user_id": world.person(place, "reader", role), "role_id": role})

    return made


def a_role(body: Any = None, *, of_project: bool = False) -> Make:
    """A role that the place's organisation or project made."""

    def made(world: World, place: Place) -> Asked:
        role_id = world.role(place, of_project=of_project)
        path = {"id": place.project_id, "role_id": role_id} if of_project else {"id": role_id}
        return Asked(path, _numbered(body, world))

    return made


def a_group(body: Any = None) -> Make:
    """A group of the issuer that is a reader of the place's organisation."""

    def made(world: World, place: Place) -> Asked:
        group_id = world.group(place)
        path = {"id": group_id, "role_id": "reader", "user_id": world.member_of_group(place, group_id)}
        return Asked(path, _numbered(body, world))

    return made


def a_group_in(body: Any = None) -> Make:
    """A group of the issuer whose members are in the place's project."""

    def made(world: World, place: Place) -> Asked:
        group_id = world.group(place, project_role="viewer")
        return Asked({"id": place.project_id, "group_id": group_id, "role_id": "viewer"}, body)

    return made


def to_be_let_in(world: World, place: Place) -> Asked:
    """The place's project, and a group that its organisation knows."""
    return Asked({"id": place.project_id}, {"group_id": world.group(place), "role": "member"})


def an_admin_key(world: World, place: Place) -> Asked:
    """An admin key of the place's organisation."""
    return Asked({"id": world.key(place, place.user_id, admin=True)[0]})


def an_invite(world: World, place: Place) -> Asked:
    """An invitation to the place's organisation."""
    return Asked({"id": world.invite(place)})


def dead_letters(_world: World, _place: Place) -> Asked:
    """What became of the events that were seeded; an owner also sees others, of the organisation itself."""
    return Asked(query="state=dead&limit=100")


def today(_world: World, _place: Place) -> Asked:
    """Sums since yesterday, by project."""
    return Asked(query=f"start_time={int(time.time()) - 86400}&group_by=project_id")


def acts_on_projects(world: World, _place: Place) -> Asked:
    """What was done to the projects themselves."""
    named = [("resource_ids[]", place.project_id) for place in world.distinct]
    return Asked(query=urlencode([("event_types[]", "project.created"), *named]))


def seeded_people(world: World, _place: Place) -> Asked:
    """The people of all places, who are not many."""
    emails = [f"{place.user_id}@example.org" for place in world.distinct]
    return Asked(query=urlencode([("emails[]", email) for email in emails]))


def model(world: World, place: Place, task: Task = Task.GENERATE, *, shared: bool = False) -> str:
    """The id of a new model that an engine serves, of the place's project or (`shared`) of all."""
    registry, name = world.context.registry, world.model_name(place)
    registry.create(
        NewModel(name, SourceRepository.LOCAL, f"/weights/{name}", project_id=None if shared else place.project_id)
    )
    registry.mark_loaded(name, folder=f"/weights/{name}", size_bytes=1, task=task)
    return name


def _numbered(body: Any, world: World) -> Any:
    """The body with a name of its own where it has one."""
    if not isinstance(body, dict):
        return body
    return {name: f"{value}-{world.number()}" if name in _NAMES else value for name, value in body.items()}


IN_BODY = {"POST /v1/budgets", "POST /v1/limits"}
"""Routes whose body names the object."""

OBJECTS: dict[str, Make] = {
    "POST /v1/chat/completions": inference(messages=[{"role": "user", "content": "x"}]),
    "POST /v1/completions": inference(prompt="x"),
    "POST /v1/embeddings": inference(Task.EMBED, input="x"),
    "POST /v1/tokenize": inference(prompt="x"),
    "POST /v1/detokenize": inference(tokens=[]),
    "GET /health": nothing,
    "POST /internal/gateway/{operation}": lambda _world, _place: Asked({"operation": "changes"}, {"cursor": ""}),
    "GET /v1/api_keys": nothing,
    "POST /v1/api_keys": new(name="walked"),
    "PATCH /v1/api_keys/{id}": a_key({"name": "walked"}),
    "DELETE /v1/api_keys/{id}": a_key(),
    "POST /v1/api_keys/{id}:rotate": a_key({}),
    "GET /v1/api-usage/model-usage-summaries": nothing,
    "GET /v1/api_usages": nothing,
    "GET /v1/budgets": nothing,
    "POST /v1/budgets": of_project(period="day", amount=5),
    "GET /v1/budgets/{id}": a_budget(),
    "POST /v1/budgets/{id}": a_budget({"amount": 7}),
    "DELETE /v1/budgets/{id}": a_budget(),
    "GET /v1/events": dead_letters,
    "POST /v1/events/{id}:replay": an_event,
    "GET /v1/inference/status": nothing,
    "POST /v1/invitations:accept": an_invitation,
    "GET /v1/limits": nothing,
    "POST /v1/limits": of_project(model="walk/x", requests_per_day=7),
    "GET /v1/limits/{id}": a_limit(),
    "POST /v1/limits/{id}": a_limit({"requests_per_day": 7}),
    "DELETE /v1/limits/{id}": a_limit(),
    "GET /v1/models": lambda _world, _place: Asked(query="limit=500"),
    "POST /v1/models": new(id="walk/made", source_repository="HUGGING_FACE", is_project_scoped=True),
    "GET /v1/models/{id:path}": a_model(),
    "PATCH /v1/models/{id:path}": a_model({"config": {}, "update_mask": "config"}),
    "DELETE /v1/models/{id:path}": a_model(),
    "POST /v1/models/{id:path}:activate": a_model(),
    "POST /v1/models/{id:path}:deactivate": a_model(),
    "GET /v1/auth/configuration": nothing,
    "GET /v1/organization/admin_api_keys": hundred,
    "POST /v1/organization/admin_api_keys": new(name="walked admin"),
    "GET /v1/organization/admin_api_keys/{id}": an_admin_key,
    "DELETE /v1/organization/admin_api_keys/{id}": an_admin_key,
    "GET /v1/organization/audit_logs": acts_on_projects,
    "GET /v1/organization/audit_logs:verify": nothing,
    "GET /v1/organization/costs": today,
    "GET /v1/organization/invites": hundred,
    "POST /v1/organization/invites": an_address,
    "GET /v1/organization/invites/{id}": an_invite,
    "DELETE /v1/organization/invites/{id}": an_invite,
    "GET /v1/organization/projects": hundred,
    "POST /v1/organization/projects": new(name="walked"),
    "GET /v1/organization/projects/{id}": in_project(),
    "POST /v1/organization/projects/{id}": a_project({"name": "renamed"}),
    "POST /v1/organization/projects/{id}/archive": a_project(),
    "GET /v1/organization/projects/{id}/model_permissions": in_project(),
    "POST /v1/organization/projects/{id}/model_permissions": a_project({"mode": "deny_list", "model_ids": ["x"]}),
    "DELETE /v1/organization/projects/{id}/model_permissions": a_project(),
    "GET /v1/organization/projects/{id}/users": in_project(),
    "POST /v1/organization/projects/{id}/users": to_be_added,
    "GET /v1/organization/projects/{id}/users/{user_id}": a_member(),
    "POST /v1/organization/projects/{id}/users/{user_id}": a_member({"role": "viewer"}),
    "DELETE /v1/organization/projects/{id}/users/{user_id}": a_member(),
    "GET /v1/organization/projects/{id}/service_accounts": in_project(),
    "POST /v1/organization/projects/{id}/service_accounts": in_project({"name": "walker"}),
    "GET /v1/organization/projects/{id}/service_accounts/{account_id}": an_account(),
    "POST /v1/organization/projects/{id}/service_accounts/{account_id}": an_account({"name": "renamed"}),
    "DELETE /v1/organization/projects/{id}/service_accounts/{account_id}": an_account(),
    "POST /v1/organization/projects/{id}/service_accounts/{account_id}/api_keys": an_account({"name": "walked"}),
    "GET /v1/organization/projects/{id}/api_keys": in_project(),
    "POST /v1/organization/projects/{id}/api_keys": in_project({"name": "walked"}),
    "GET /v1/organization/projects/{id}/api_keys/{key_id}": a_key_in(),
    "POST /v1/organization/projects/{id}/api_keys/{key_id}": a_key_in({"scopes": ["api.files.read"]}),
    "DELETE /v1/organization/projects/{id}/api_keys/{key_id}": a_key_in(),
    "GET /v1/organization/projects/{project_id}/rate_limits": lambda _world, place: Asked(
        {"project_id": place.project_id}
    ),
    "POST /v1/organization/projects/{project_id}/rate_limits/{rate_limit_id}": a_rate_limit,
    "GET /v1/organization/projects/{project_id}/spend_limit": a_budget(project_id="project_id"),
    "POST /v1/organization/projects/{project_id}/spend_limit": a_budget(SPENDING, project_id="project_id"),
    "DELETE /v1/organization/projects/{project_id}/spend_limit": a_budget(project_id="project_id"),
    "GET /v1/organization/spend_limit": a_budget(organization=True, organization_id="organization_id"),
    "POST /v1/organization/spend_limit": a_budget(SPENDING, organization=True, organization_id="organization_id"),
    "DELETE /v1/organization/spend_limit": a_budget(organization=True, organization_id="organization_id"),
    "GET /v1/organization/projects/{project_id}/spend_alerts": an_alert(project_id="project_id"),
    "POST /v1/organization/projects/{project_id}/spend_alerts": an_alert(ALERTING, project_id="project_id"),
    "GET /v1/organization/projects/{project_id}/spend_alerts/{id}": an_alert(project_id="project_id"),
    "POST /v1/organization/projects/{project_id}/spend_alerts/{id}": an_alert(ALERTING, project_id="project_id"),
    "DELETE /v1/organization/projects/{project_id}/spend_alerts/{id}": an_alert(project_id="project_id"),
    "GET /v1/organization/spend_alerts": hundred,
    "POST /v1/organization/spend_alerts": new(**ALERTING),
    "GET /v1/organization/spend_alerts/{id}": an_alert(organization=True),
    "POST /v1/organization/spend_alerts/{id}": an_alert(ALERTING, organization=True),
    "DELETE /v1/organization/spend_alerts/{id}": an_alert(organization=True),
    "GET /v1/organization/groups": lambda _world, _place: Asked(query="limit=100&order=desc"),
    "POST /v1/organization/groups": new(name="walkers of"),
    "GET /v1/organization/groups/{id}": a_group(),
    "POST /v1/organization/groups/{id}": a_group({"name": "renamed"}),
    "DELETE /v1/organization/groups/{id}": a_group(),
    "GET /v1/organization/groups/{id}/roles": a_group(),
    "POST /v1/organization/groups/{id}/roles": a_group({"role_id": "reader"}),
    "GET /v1/organization/groups/{id}/roles/{role_id}": a_group(),
    "DELETE /v1/organization/groups/{id}/roles/{role_id}": a_group(),
    "GET /v1/organization/groups/{id}/users": a_group(),
    "POST /v1/organization/groups/{id}/users": a_group({"user_id": "user_x"}),
    "GET /v1/organization/groups/{id}/users/{user_id}": a_group(),
    "DELETE /v1/organization/groups/{id}/users/{user_id}": a_group(),
    "GET /v1/organization/projects/{id}/groups": in_project(),
    "POST /v1/organization/projects/{id}/groups": to_be_let_in,
    "GET /v1/organization/projects/{id}/groups/{group_id}": a_group_in(),
    "DELETE /v1/organization/projects/{id}/groups/{group_id}": a_group_in(),
    "GET /v1/projects/{id}/groups/{group_id}/roles": a_group_in(),
    "POST /v1/projects/{id}/groups/{group_id}/roles": a_group_in({"role_id": "viewer"}),
    "GET /v1/projects/{id}/groups/{group_id}/roles/{role_id}": a_group_in(),
    "DELETE /v1/projects/{id}/groups/{group_id}/roles/{role_id}": a_group_in(),
    "GET /v1/organization/roles": lambda _world, _place: Asked(query="order=desc"),
    "POST /v1/organization/roles": new(role_name="walked", permissions=["api.files.read"]),
    "GET /v1/organization/roles/{id}": a_role(),
    "POST /v1/organization/roles/{id}": a_role({"role_name": "renamed"}),
    "DELETE /v1/organization/roles/{id}": a_role(),
    "GET /v1/organization/sign_in/group_roles": nothing,
    "POST /v1/organization/sign_in/group_roles": new(group="walkers", role="reader"),
    "DELETE /v1/organization/sign_in/group_roles/{id}": lambda world, place: Asked({"id": world.group_role(place)}),
    "DELETE /v1/organization/sign_in/users/{id}": a_person(),
    "GET /v1/organization/usage/completions": today,
    "GET /v1/organization/usage/embeddings": today,
    "GET /v1/organization/usage/requests": nothing,
    "GET /v1/organization/usage/requests/{request_id}": lambda _world, place: Asked(
        {"request_id": f"embeddings-{place.tag}"}
    ),
    "GET /v1/organization/users": seeded_people,
    "GET /v1/organization/users/{id}": a_person(),
    "POST /v1/organization/users/{id}": a_person({"role": "reader"}),
    "DELETE /v1/organization/users/{id}": a_person(),
    "GET /v1/organization/users/{id}/roles": a_person(),
    "POST /v1/organization/users/{id}/roles": a_person({"role_id": "reader"}),
    "GET /v1/organization/users/{id}/roles/{role_id}": with_role("reader"),
    "DELETE /v1/organization/users/{id}/roles/{role_id}": with_role("tenant_system"),
    "GET /v1/organizations": nothing,
    "POST /v1/organizations": new(title="walked"),
    "DELETE /v1/organizations/{organization_id}": in_organization(),
    "GET /v1/organizations/{organization_id}/users": in_organization(),
    "POST /v1/organizations/{organization_id}/users": newcomer,
    "DELETE /v1/organizations/{organization_id}/users/{user_id}": someone_in_organization,
    "GET /v1/organizations/{organization_id}/projects": in_organization(),
    "POST /v1/organizations/{organization_id}/projects": in_organization({"title": "walked"}),
    "PATCH /v1/organizations/{organization_id}/projects/{project_id}": below({"title": "renamed"}),
    "DELETE /v1/organizations/{organization_id}/projects/{project_id}": below(),
    "GET /v1/organizations/{organization_id}/projects/{project_id}/users": below(),
    "POST /v1/organizations/{organization_id}/projects/{project_id}/users": joins,
    "DELETE /v1/organizations/{organization_id}/projects/{project_id}/users/{user_id}": member_below,
    "GET /v1/organizations/{organization_id}/projects/{project_id}/api_keys": below(),
    "POST /v1/organizations/{organization_id}/projects/{project_id}/api_keys": below({"name": "walked"}),
    "DELETE /v1/organizations/{organization_id}/projects/{project_id}/api_keys/{key_id}": key_below,
    "GET /v1/prices": nothing,
    "POST /v1/prices": new(model="walked", prompt=1, completion=1),
    "GET /v1/projects/{id}/roles": in_project(),
    "POST /v1/projects/{id}/roles": in_project({"role_name": "walked", "permissions": ["api.files.read"]}),
    "GET /v1/projects/{id}/roles/{role_id}": a_role(of_project=True),
    "POST /v1/projects/{id}/roles/{role_id}": a_role({"role_name": "renamed"}, of_project=True),
    "DELETE /v1/projects/{id}/roles/{role_id}": a_role(of_project=True),
    "GET /v1/users": nothing,
    "GET /v1/users:getSelf": nothing,
    "GET /v1/projects/{id}/users/{user_id}/roles": a_member(),
    "POST /v1/projects/{id}/users/{user_id}/roles": a_member({"role_id": "viewer"}),
    "GET /v1/projects/{id}/users/{user_id}/roles/{role_id}": with_role("member", of_project=True),
    "DELETE /v1/projects/{id}/users/{user_id}/roles/{role_id}": with_role("member", of_project=True),
}
