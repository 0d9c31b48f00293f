"""For every route, a call of it: the creation of its object in a tenant, and a valid body.

A route without an entry fails the test of all routes: add its call, or `no_object`.
"""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import urlencode

from llmariner.http.resources.rate_limits import RateLimitRow
from llmariner.limits.budgets import NewBudget
from llmariner.limits.rules import Subject
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.platform.events.tables import deliveries, events

from .route_calls import CallFactory, RouteCall, no_object
from .world import Tenant, World, invite_token

__all__ = ["IN_BODY", "OBJECTS", "an_alert", "an_event", "list_of_100", "model"]


_NAME_FIELDS = ("name", "id", "role_name", "group", "title")
SPENDING = {"currency": "USD", "interval": "month", "threshold_amount": 100}
ALERTING = {**SPENDING, "notification_channel": {"type": "email", "recipients": ["walked@example.org"]}}


def an_external_object(world: World, _place: Tenant) -> RouteCall:
    """An object outside the store, which every project may name."""
    with world.external.writer("walked.txt") as writer:
        writer.write(b"walked")
        writer.commit()
    return RouteCall(body={"object_path": "s3://walk/walked.txt", "purpose": "user_data"})


def list_of_100(_world: World, _place: Tenant) -> RouteCall:
    """A list with the largest page."""
    return RouteCall(query="limit=100")


def new_invite(world: World, _place: Tenant) -> RouteCall:
    """A body that invites a new e-mail."""
    return RouteCall(body={"email": f"walked-{world.number()}@example.org", "role": "reader"})


def invite_token_body(world: World, tenant: Tenant) -> RouteCall:
    """The token of an invitation."""
    return RouteCall(body={"token": invite_token(world.invite(tenant))})


def in_organization(body: Any = None) -> CallFactory:
    """The tenant's organization."""
    return lambda world, tenant: RouteCall({"organization_id": tenant.organization_id}, _with_unique_names(body, world))


def organization_user(world: World, tenant: Tenant) -> RouteCall:
    """A user of the tenant's organization, and the organization."""
    return RouteCall({"organization_id": tenant.organization_id, "user_id": world.person(tenant, "reader", None)})


def new_organization_user(world: World, tenant: Tenant) -> RouteCall:
    """The tenant's organization, and a new e-mail."""
    body = {"user_id": f"new-{world.number()}@example.org", "role": "reader"}
    return RouteCall({"organization_id": tenant.organization_id}, body)


def in_project_of_organization(body: Any = None) -> CallFactory:
    """The tenant's project and its organization."""
    return lambda world, tenant: RouteCall(_organization_and_project(tenant), _with_unique_names(body, world))


def new_project_member(world: World, tenant: Tenant) -> RouteCall:
    """The tenant's project, and a user of its organization outside it."""
    return RouteCall(
        _organization_and_project(tenant), {"user_id": world.person(tenant, "reader", None), "role": "member"}
    )


def project_member_of_organization(world: World, tenant: Tenant) -> RouteCall:
    """A member of the tenant's project."""
    return RouteCall({**_organization_and_project(tenant), "user_id": world.person(tenant, "reader", "member")})


def project_key_of_organization(world: World, tenant: Tenant) -> RouteCall:
    """A key of the tenant's project and user."""
    return RouteCall({**_organization_and_project(tenant), "key_id": world.key(tenant, tenant.user_id)[0]})


def a_limit(body: Any = None) -> CallFactory:
    """A limit of the tenant's project."""

    def call(world: World, tenant: Tenant) -> RouteCall:
        subject = Subject(tenant.organization_id, "project", tenant.project_id)
        limit = world.context.limits.put(None, subject, f"walk/{world.number()}", {"requests_per_day": 9})
        return RouteCall({"id": limit.id}, body)

    return call


def a_budget(body: Any = None, *, organization: bool = False, **names: str) -> CallFactory:
    """A budget of the tenant's project or organization; `names`: the path parameter that names which."""

    def call(world: World, tenant: Tenant) -> RouteCall:
        whose = ("organization", tenant.organization_id) if organization else ("project", tenant.project_id)
        new = NewBudget(10**12, alert_ratio=None, hard=True)
        budget = world.context.budgets.put(None, Subject(tenant.organization_id, *whose), "month", new)
        return RouteCall({name: getattr(tenant, field) for name, field in names.items()} or {"id": budget.id}, body)

    return call


def an_alert(body: Any = None, *, organization: bool = False, **names: str) -> CallFactory:
    """A spend alert of the tenant's project or organization; `names` as of `a_budget`."""

    def call(world: World, tenant: Tenant) -> RouteCall:
        whose = ("organization", tenant.organization_id) if organization else ("project", tenant.project_id)
        subject = Subject(tenant.organization_id, *whose)
        channel = {"type": "email", "recipients": [f"{tenant.tag}@example.org"], "subject_prefix": None}
        budgets = world.context.budgets
        # There may be so many of them: the tenant's last one goes.
        for last in [each for each in budgets.for_subject(subject) if each.channel == channel]:
            budgets.remove(None, tenant.organization_id, last.id)
        alert = budgets.add_alert(None, subject, "month", 10**12, channel)
        return RouteCall({"id": alert.id, **{name: getattr(tenant, field) for name, field in names.items()}}, body)

    return call


def a_rate_limit(world: World, tenant: Tenant) -> RouteCall:
    """The rate limit of the tenant's project for a model of its own."""
    row = RateLimitRow(model(world, tenant), {})
    return RouteCall({"project_id": tenant.project_id, "rate_limit_id": row.id}, {"max_requests_per_1_minute": 9})


def of_project(**fields: Any) -> CallFactory:
    """A body that names the tenant's project."""
    return lambda _world, tenant: RouteCall(body={"subject": "project", "subject_id": tenant.project_id, **fields})


def _organization_and_project(tenant: Tenant) -> dict[str, str]:
    return {"organization_id": tenant.organization_id, "project_id": tenant.project_id}


def a_key(body: Any = None) -> CallFactory:
    """A key of the tenant's project."""
    return lambda world, tenant: RouteCall(
        {"id": world.key(tenant, tenant.user_id)[0]}, _with_unique_names(body, world)
    )


def a_model(body: Any = None) -> CallFactory:
    """A loaded model of the tenant's project."""
    return lambda world, tenant: RouteCall({"id:path": model(world, tenant)}, body)


def a_failed_model(world: World, tenant: Tenant) -> RouteCall:
    """A model of the tenant's project whose weights could not be fetched."""
    registry, name = world.context.registry, world.model_name(tenant)
    registry.create(NewModel(name, SourceRepository.LOCAL, "/nowhere", project_id=tenant.project_id))
    registry.mark_failed(name, "There is no folder.")
    return RouteCall({"id:path": name})


def inference(task: Task = Task.GENERATE, **fields: Any) -> CallFactory:
    """A request to a model of the tenant's project."""
    return lambda world, tenant: RouteCall(body={"model": model(world, tenant, task), **fields})


def new(**fields: Any) -> CallFactory:
    """A body with unique names."""
    return lambda world, _place: RouteCall(body=_with_unique_names(fields, world))


def an_event(world: World, tenant: Tenant) -> RouteCall:
    """A dead letter of the tenant's project."""
    event_id = f"evt_{tenant.tag}-{world.number()}"
    row = {"id": event_id, "type": "ai.llmariner.test.walked.v1", "subject": "x", "project_id": tenant.project_id}
    with world.database.write() as session:
        session.add(events, **row, time=1.0, data=json.dumps({"project_id": tenant.project_id}), published=True)
        sequence = session.value(events.select().with_only_columns(events.c.sequence).where(events.c.id == event_id))
        session.add(deliveries, sequence=sequence, consumer="walker", state="dead", attempts=8, due_at=0.0)
    return RouteCall({"id": event_id})


def in_project(body: Any = None) -> CallFactory:
    """The tenant's project."""
    return lambda world, tenant: RouteCall({"id": tenant.project_id}, _with_unique_names(body, world))


def a_project(body: Any = None) -> CallFactory:
    """A new project of the tenant's organization, to be changed or deleted."""
    return lambda world, tenant: RouteCall({"id": world.project(tenant)}, _with_unique_names(body, world))


def a_member(body: Any = None) -> CallFactory:
    """A member of the tenant's project."""
    return lambda world, tenant: RouteCall(
        {"id": tenant.project_id, "user_id": world.person(tenant, "reader", "member")}, body
    )


def new_project_user(world: World, tenant: Tenant) -> RouteCall:
    """The tenant's project, and a user of its organization outside it."""
    return RouteCall({"id": tenant.project_id}, {"user_id": world.person(tenant, "reader", None), "role": "member"})


def an_account(body: Any = None) -> CallFactory:
    """A service account of the tenant's project."""
    return lambda world, tenant: RouteCall(
        {"id": tenant.project_id, "account_id": world.account(tenant)}, _with_unique_names(body, world)
    )


def a_key_in(body: Any = None) -> CallFactory:
    """A key of the tenant's project, named by both."""
    return lambda world, tenant: RouteCall(
        {"id": tenant.project_id, "key_id": world.key(tenant, tenant.user_id)[0]}, _with_unique_names(body, world)
    )


def a_person(body: Any = None) -> CallFactory:
    """A user of the tenant's organization."""
    return lambda world, tenant: RouteCall({"id": world.person(tenant, "reader", None)}, body)


def with_role(role: str, *, of_project: bool = False) -> CallFactory:
    """A user with that role in the tenant's organization or project."""

    def call(world: World, tenant: Tenant) -> RouteCall:
        if not of_project:
            return RouteCall({"id": world.person(tenant, role, None), "role_id": role})
        return RouteCall({"id": tenant.project_id, "user_id": world.person(tenant, "reader", role), "role_id": role})

    return call


def a_role(body: Any = None, *, of_project: bool = False) -> CallFactory:
    """A custom role of the tenant's organization or project."""

    def call(world: World, tenant: Tenant) -> RouteCall:
        role_id = world.role(tenant, of_project=of_project)
        path = {"id": tenant.project_id, "role_id": role_id} if of_project else {"id": role_id}
        return RouteCall(path, _with_unique_names(body, world))

    return call


def a_group(body: Any = None) -> CallFactory:
    """A group of the issuer with the role `reader` in the tenant's organization."""

    def call(world: World, tenant: Tenant) -> RouteCall:
        group_id = world.group(tenant)
        path = {"id": group_id, "role_id": "reader", "user_id": world.member_of_group(tenant, group_id)}
        return RouteCall(path, _with_unique_names(body, world))

    return call


def a_group_in(body: Any = None) -> CallFactory:
    """A group of the issuer with a role in the tenant's project."""

    def call(world: World, tenant: Tenant) -> RouteCall:
        group_id = world.group(tenant, project_role="viewer")
        return RouteCall({"id": tenant.project_id, "group_id": group_id, "role_id": "viewer"}, body)

    return call


def new_project_group(world: World, tenant: Tenant) -> RouteCall:
    """The tenant's project, and a group that is registered in its organization."""
    return RouteCall({"id": tenant.project_id}, {"group_id": world.group(tenant), "role": "member"})


def an_admin_key(world: World, tenant: Tenant) -> RouteCall:
    """An admin key of the tenant's organization."""
    return RouteCall({"id": world.key(tenant, tenant.user_id, admin=True)[0]})


def an_invite(world: World, tenant: Tenant) -> RouteCall:
    """An invitation to the tenant's organization."""
    return RouteCall({"id": world.invite(tenant)})


def dead_letters(_world: World, _place: Tenant) -> RouteCall:
    """Deliveries of the seeded events; an owner also sees those of the organization."""
    return RouteCall(query="state=dead&limit=100")


def today(_world: World, _place: Tenant) -> RouteCall:
    """Sums since yesterday, by project."""
    return RouteCall(query=f"start_time={int(time.time()) - 86400}&group_by=project_id")


def audit_entries_of_projects(world: World, _place: Tenant) -> RouteCall:
    """Audit entries of the tenants' projects."""
    named = [("resource_ids[]", tenant.project_id) for tenant in world.distinct]
    return RouteCall(query=urlencode([("event_types[]", "project.created"), *named]))


def seeded_users(world: World, _place: Tenant) -> RouteCall:
    """The seeded users of all tenants."""
    emails = [f"{tenant.user_id}@example.org" for tenant in world.distinct]
    return RouteCall(query=urlencode([("emails[]", email) for email in emails]))


def model(world: World, tenant: Tenant, task: Task = Task.GENERATE, *, shared: bool = False) -> str:
    """The id of a new model that an engine serves, of the tenant's project or (`shared`) of all."""
    registry, name = world.context.registry, world.model_name(tenant)
    registry.create(
        NewModel(name, SourceRepository.LOCAL, f"/weights/{name}", project_id=None if shared else tenant.project_id)
    )
    registry.mark_loaded(name, folder=f"/weights/{name}", size_bytes=1, task=task)
    return name


def _with_unique_names(body: Any, world: World) -> Any:
    """The body with unique values of its name fields."""
    if not isinstance(body, dict):
        return body
    return {name: f"{value}-{world.number()}" if name in _NAME_FIELDS else value for name, value in body.items()}


IN_BODY = {"POST /v1/budgets", "POST /v1/limits", "POST /v1/vector_stores/search"}
"""Routes whose body names the object."""

OBJECTS: dict[str, CallFactory] = {
    "POST /v1/chat/completions": inference(messages=[{"role": "user", "content": "x"}]),
    "POST /v1/completions": inference(prompt="x"),
    "POST /v1/embeddings": inference(Task.EMBED, input="x"),
    "POST /v1/rerank": inference(Task.EMBED, query="x", documents=["x"]),
    "POST /v1/tokenize": inference(prompt="x"),
    "POST /v1/detokenize": inference(tokens=[]),
    "GET /health": no_object,
    "POST /internal/gateway/{operation}": lambda _world, _place: RouteCall({"operation": "changes"}, {"cursor": ""}),
    "GET /v1/api_keys": no_object,
    "POST /v1/api_keys": new(name="walked"),
    "PATCH /v1/api_keys/{id}": a_key({"name": "walked"}),
    "DELETE /v1/api_keys/{id}": a_key(),
    "POST /v1/api_keys/{id}:rotate": a_key({}),
    "GET /v1/api-usage/model-usage-summaries": no_object,
    "GET /v1/api_usages": no_object,
    "GET /v1/budgets": no_object,
    "POST /v1/budgets": of_project(period="day", amount=5),
    "GET /v1/budgets/{id}": a_budget(),
    "POST /v1/budgets/{id}": a_budget({"amount": 7}),
    "DELETE /v1/budgets/{id}": a_budget(),
    "GET /v1/events": dead_letters,
    "POST /v1/events/{id}:replay": an_event,
    "POST /v1/files:createFromObjectPath": an_external_object,
    "GET /v1/inference/status": no_object,
    "POST /v1/invitations:accept": invite_token_body,
    "GET /v1/limits": no_object,
    "POST /v1/limits": of_project(model="walk/x", requests_per_day=7),
    "GET /v1/limits/{id}": a_limit(),
    "POST /v1/limits/{id}": a_limit({"requests_per_day": 7}),
    "DELETE /v1/limits/{id}": a_limit(),
    "GET /v1/models": lambda _world, _place: RouteCall(query="limit=500"),
    "POST /v1/models": new(id="walk/made", source_repository="HUGGING_FACE", is_project_scoped=True),
    "GET /v1/models/{id:path}": a_model(),
    "PATCH /v1/models/{id:path}": a_model({"config": {}, "update_mask": "config"}),
    "DELETE /v1/models/{id:path}": a_model(),
    "POST /v1/models/{id:path}:activate": a_model(),
    "POST /v1/models/{id:path}:deactivate": a_model(),
    "POST /v1/models/{id:path}:retry": a_failed_model,
    "GET /v1/auth/configuration": no_object,
    "GET /v1/organization/admin_api_keys": list_of_100,
    "POST /v1/organization/admin_api_keys": new(name="walked admin"),
    "GET /v1/organization/admin_api_keys/{id}": an_admin_key,
    "DELETE /v1/organization/admin_api_keys/{id}": an_admin_key,
    "GET /v1/organization/audit_logs": audit_entries_of_projects,
    "GET /v1/organization/audit_logs:verify": no_object,
    "GET /v1/organization/costs": today,
    "GET /v1/organization/invites": list_of_100,
    "POST /v1/organization/invites": new_invite,
    "GET /v1/organization/invites/{id}": an_invite,
    "DELETE /v1/organization/invites/{id}": an_invite,
    "GET /v1/organization/projects": list_of_100,
    "POST /v1/organization/projects": new(name="walked"),
    "GET /v1/organization/projects/{id}": in_project(),
    "POST /v1/organization/projects/{id}": a_project({"name": "renamed"}),
    "POST /v1/organization/projects/{id}/archive": a_project(),
    "GET /v1/organization/projects/{id}/model_permissions": in_project(),
    "POST /v1/organization/projects/{id}/model_permissions": a_project({"mode": "deny_list", "model_ids": ["x"]}),
    "DELETE /v1/organization/projects/{id}/model_permissions": a_project(),
    "GET /v1/organization/projects/{id}/users": in_project(),
    "POST /v1/organization/projects/{id}/users": new_project_user,
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
    "GET /v1/organization/projects/{project_id}/rate_limits": lambda _world, tenant: RouteCall(
        {"project_id": tenant.project_id}
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
    "GET /v1/organization/spend_alerts": list_of_100,
    "POST /v1/organization/spend_alerts": new(**ALERTING),
    "GET /v1/organization/spend_alerts/{id}": an_alert(organization=True),
    "POST /v1/organization/spend_alerts/{id}": an_alert(ALERTING, organization=True),
    "DELETE /v1/organization/spend_alerts/{id}": an_alert(organization=True),
    "GET /v1/organization/groups": lambda _world, _place: RouteCall(query="limit=100&order=desc"),
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
    "POST /v1/organization/projects/{id}/groups": new_project_group,
    "GET /v1/organization/projects/{id}/groups/{group_id}": a_group_in(),
    "DELETE /v1/organization/projects/{id}/groups/{group_id}": a_group_in(),
    "GET /v1/projects/{id}/groups/{group_id}/roles": a_group_in(),
    "POST /v1/projects/{id}/groups/{group_id}/roles": a_group_in({"role_id": "viewer"}),
    "GET /v1/projects/{id}/groups/{group_id}/roles/{role_id}": a_group_in(),
    "DELETE /v1/projects/{id}/groups/{group_id}/roles/{role_id}": a_group_in(),
    "GET /v1/organization/roles": lambda _world, _place: RouteCall(query="order=desc"),
    "POST /v1/organization/roles": new(role_name="walked", permissions=["api.files.read"]),
    "GET /v1/organization/roles/{id}": a_role(),
    "POST /v1/organization/roles/{id}": a_role({"role_name": "renamed"}),
    "DELETE /v1/organization/roles/{id}": a_role(),
    "GET /v1/organization/sign_in/group_roles": no_object,
    "POST /v1/organization/sign_in/group_roles": new(group="walkers", role="reader"),
    "DELETE /v1/organization/sign_in/group_roles/{id}": lambda world, tenant: RouteCall(
        {"id": world.group_role(tenant)}
    ),
    "DELETE /v1/organization/sign_in/users/{id}": a_person(),
    "GET /v1/organization/usage/completions": today,
    "GET /v1/organization/usage/embeddings": today,
    "GET /v1/organization/usage/requests": no_object,
    "GET /v1/organization/usage/requests/{request_id}": lambda _world, tenant: RouteCall(
        {"request_id": f"embeddings-{tenant.tag}"}
    ),
    "GET /v1/organization/users": seeded_users,
    "GET /v1/organization/users/{id}": a_person(),
    "POST /v1/organization/users/{id}": a_person({"role": "reader"}),
    "DELETE /v1/organization/users/{id}": a_person(),
    "GET /v1/organization/users/{id}/roles": a_person(),
    "POST /v1/organization/users/{id}/roles": a_person({"role_id": "reader"}),
    "GET /v1/organization/users/{id}/roles/{role_id}": with_role("reader"),
    "DELETE /v1/organization/users/{id}/roles/{role_id}": with_role("tenant_system"),
    "GET /v1/organizations": no_object,
    "POST /v1/organizations": new(title="walked"),
    "DELETE /v1/organizations/{organization_id}": in_organization(),
    "GET /v1/organizations/{organization_id}/users": in_organization(),
    "POST /v1/organizations/{organization_id}/users": new_organization_user,
    "DELETE /v1/organizations/{organization_id}/users/{user_id}": organization_user,
    "GET /v1/organizations/{organization_id}/projects": in_organization(),
    "POST /v1/organizations/{organization_id}/projects": in_organization({"title": "walked"}),
    "PATCH /v1/organizations/{organization_id}/projects/{project_id}": in_project_of_organization({"title": "renamed"}),
    "DELETE /v1/organizations/{organization_id}/projects/{project_id}": in_project_of_organization(),
    "GET /v1/organizations/{organization_id}/projects/{project_id}/users": in_project_of_organization(),
    "POST /v1/organizations/{organization_id}/projects/{project_id}/users": new_project_member,
    "DELETE /v1/organizations/{organization_id}/projects/{project_id}/users/{user_id}": project_member_of_organization,
    "GET /v1/organizations/{organization_id}/projects/{project_id}/api_keys": in_project_of_organization(),
    "POST /v1/organizations/{organization_id}/projects/{project_id}/api_keys": in_project_of_organization(
        {"name": "walked"}
    ),
    "DELETE /v1/organizations/{organization_id}/projects/{project_id}/api_keys/{key_id}": project_key_of_organization,
    "GET /v1/projects/{id}/roles": in_project(),
    "POST /v1/projects/{id}/roles": in_project({"role_name": "walked", "permissions": ["api.files.read"]}),
    "GET /v1/projects/{id}/roles/{role_id}": a_role(of_project=True),
    "POST /v1/projects/{id}/roles/{role_id}": a_role({"role_name": "renamed"}, of_project=True),
    "DELETE /v1/projects/{id}/roles/{role_id}": a_role(of_project=True),
    "GET /v1/users": no_object,
    "GET /v1/users:getSelf": no_object,
    "GET /v1/projects/{id}/users/{user_id}/roles": a_member(),
    "POST /v1/projects/{id}/users/{user_id}/roles": a_member({"role_id": "viewer"}),
    "GET /v1/projects/{id}/users/{user_id}/roles/{role_id}": with_role("member", of_project=True),
    "DELETE /v1/projects/{id}/users/{user_id}/roles/{role_id}": with_role("member", of_project=True),
}
