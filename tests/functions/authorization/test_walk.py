"""Calls every route as every role, for its own, a sibling project's and another organization's object.

The expected outcome comes from the matrix that docs/security/authorization.md documents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from llmariner.authorization.matrix import ObjectScope, Outcome, Ownership, RouteAccess, decide, declared_routes
from llmariner.platform.events import outbox
from llmariner.platform.events.tables import events
from llmariner.tenancy.tables import api_keys, custom_roles

from ..conftest import Ask
from ..http_calls import HttpRequest, HttpResponse, InProcessClient, assert_error
from ..installation import Installation
from ..processes import CHECKOUT
from .all_objects import OBJECTS
from .issuer import serving
from .objects import IN_BODY, model
from .seeds import seed
from .world import CALLERS, World

ROUTES = declared_routes(CHECKOUT)
PLACEHOLDER = re.compile(r"\{([^}]+)\}")
REFUSALS = {401: Outcome.UNKNOWN, 403: Outcome.FORBIDDEN, 404: Outcome.HIDDEN}


@pytest.fixture(scope="module")
def world(
    installation: Installation, in_process: InProcessClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with serving() as issuer:
        made = World(installation, issuer, tmp_path_factory.mktemp("world") / "platform.db")
        seed(made)
        yield made
        in_process.runner.run(made.context.gateway.close())
        made.context.database.close()


@pytest.fixture(scope="module")
def ask(world: World, in_process: InProcessClient) -> Ask:
    """Ask a function of the world."""
    return lambda name, http_request: in_process.send(world.application(name), http_request)


@pytest.fixture(scope="module", autouse=True)
def first_seen(world: World, ask: Ask) -> dict[str, HttpResponse]:
    """What an owner sees in lists before other tests make more than a page holds."""
    return {
        str(route): asked(world, ask, route, "owner", Ownership.OWN)
        for route in lists()
        if str(route) not in WITHOUT_SEEDS
    }


def has_object(route: RouteAccess) -> bool:
    """Whether the route is called for one object: by its path, or by the name of a model."""
    named = bool(PLACEHOLDER.search(route.path)) and route.objects is not ObjectScope.FUNCTIONS
    return named or route.objects is ObjectScope.MODELS or str(route) in IN_BODY


def tenants(route: RouteAccess) -> list[Ownership]:
    """The owner of the objects; a colleague's for keys, since every user owns some."""
    one_key = route.objects is ObjectScope.KEYS and route.path.partition("api_keys")[2]
    asked = list(Ownership) if has_object(route) else [Ownership.OWN]
    return [whose for whose in asked if whose is not Ownership.SAME_PROJECT or one_key]


def observed_outcome(answer: HttpResponse, route: RouteAccess) -> Outcome:
    """What became of a request."""
    if answer.status == 400 and answer.error["code"] == "project_required":
        return Outcome.NO_PROJECT
    # kubectl takes 404 for "there is no such resource" where it asks which there are, so this is 403 then.
    if answer.status == 403 and answer.error["code"] == "namespace_not_found":
        return Outcome.HIDDEN
    if answer.status in REFUSALS:
        assert answer.error["code"] != "unknown_url", answer.body
        return REFUSALS[answer.status]
    # A project with models, an organization with projects; members of an issuer's group.
    elsewhere = answer.status == 400 and answer.error["code"] in ("in_use", "managed_by_issuer")
    # No agent connects a cluster of the walk, and its server can change no protocol.
    elsewhere |= answer.status == 503 and answer.error["code"] in ("cluster_not_connected", "upgrade_not_supported")
    # The notebooks of the walk do not run.
    elsewhere |= answer.status == 409 and answer.error["code"] == "notebook_not_running"
    elsewhere |= answer.status == 307 and route.function == "services_notebooks"
    assert answer.status == 200 or elsewhere, (str(route), answer.status, answer.body)
    return Outcome.ALLOWED


def asked(world: World, ask: Ask, route: RouteAccess, caller: str, whose: Ownership) -> HttpResponse:
    """The answer to that caller's request for a new object of that tenant."""
    made = OBJECTS[str(route)](world, world.tenant(whose, caller))
    path = PLACEHOLDER.sub(lambda match: made.path[match[1]], route.path)
    headers = {**world.headers[caller], **made.headers}
    return ask(route.function, HttpRequest(route.method, path, made.body, headers, made.query))


def test_every_route_has_a_call() -> None:
    assert {str(route) for route in ROUTES} == OBJECTS.keys()


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_the_matrix_is_enforced(route: RouteAccess, caller: str, world: World, ask: Ask) -> None:
    for whose in tenants(route):
        answer = asked(world, ask, route, caller, whose)
        expected = decide(route, CALLERS[caller], whose)
        assert observed_outcome(answer, route) is expected, (whose, answer.status, answer.body)
        if expected is not Outcome.ALLOWED and expected is not Outcome.HIDDEN:
            assert b"walk-" not in answer.body


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("route", [route for route in ROUTES if route.method == "GET"], ids=str)
def test_invisible_objects_are_in_no_response(route: RouteAccess, caller: str, world: World, ask: Ask) -> None:
    answer = asked(world, ask, route, caller, Ownership.OWN)
    for whose in (Ownership.SIBLING_PROJECT, Ownership.OTHER_ORGANIZATION):
        if decide(route, CALLERS[caller], whose) is not Outcome.ALLOWED:
            assert world.tenants[whose].tag.encode() not in answer.body, answer.body


def lists() -> Iterator[RouteAccess]:
    """Routes that list what a project or organization holds."""
    return (route for route in ROUTES if route.method == "GET" and route.scope and not PLACEHOLDER.search(route.path))


# None is a list of what was seeded.
WITHOUT_SEEDS = {
    "GET /v1/clustertelemetry/clustersnapshots",
    "GET /v1/clustertelemetry/gpu-usages",
    "GET /v1/inference/status",
    "GET /v1/jobs/summaries",
    "GET /v1/organization/audit_logs:verify",
    "GET /v1/organization/spend_limit",
    "GET /v1/organizations",
    "GET /v1/prices",
    "GET /v1/prices/charge",
    "GET /v1/prices/compute",
}


@pytest.mark.parametrize("route", [route for route in lists() if str(route) not in WITHOUT_SEEDS], ids=str)
def test_visible_objects_are_in_the_response(
    route: RouteAccess, world: World, first_seen: dict[str, HttpResponse]
) -> None:
    answer = first_seen[str(route)]
    for whose in (Ownership.OWN, Ownership.SIBLING_PROJECT, Ownership.OTHER_ORGANIZATION):
        shown = decide(route, CALLERS["owner"], whose) is Outcome.ALLOWED
        assert (world.tenants[whose].tag.encode() in answer.body) is shown, (whose, answer.body)


@pytest.mark.parametrize("route", [r for r in ROUTES if r.objects is ObjectScope.INSTALLATION], ids=str)
def test_operators_may_manage_the_installation(route: RouteAccess, world: World, ask: Ask) -> None:
    made = OBJECTS[str(route)](world, world.tenants[Ownership.OTHER_ORGANIZATION])
    path = PLACEHOLDER.sub(lambda match: made.path[match[1]], route.path)
    assert ask(route.function, HttpRequest(route.method, path, made.body, world.runner, made.query)).status == 200


def test_another_members_key_and_a_sibling_project_are_in_no_members_list(world: World, ask: Ask) -> None:
    here, sibling = world.tenants[Ownership.OWN], world.tenants[Ownership.SIBLING_PROJECT]
    theirs, _ = world.key(here, here.user_id)
    below = f"/v1/organizations/{here.organization_id}/projects"
    for caller, sees_all in (("owner", True), ("project owner", True), ("member", False)):
        for function, path in (("api_keys", "/v1/api_keys"), ("organizations", f"{below}/{here.project_id}/api_keys")):
            listed = ask(function, HttpRequest("GET", path, None, world.headers[caller])).json["data"]
            assert (theirs in [key["id"] for key in listed]) is sees_all, (caller, path)
        found = ask("organizations", HttpRequest("GET", below, None, world.headers[caller])).json["projects"]
        ids = [project["id"] for project in found]
        assert here.project_id in ids
        assert (sibling.project_id in ids) is (caller == "owner")


@pytest.mark.parametrize(
    ("whose", "by_owner"), [(Ownership.OWN, 200), (Ownership.SIBLING_PROJECT, 200), (Ownership.OTHER_ORGANIZATION, 404)]
)
def test_keys_are_created_only_in_the_callers_projects(whose: Ownership, by_owner: int, world: World, ask: Ask) -> None:
    tenant = world.tenants[whose]
    for caller, status in (("owner", by_owner), ("member", 200 if whose is Ownership.OWN else 404)):
        body = {"name": f"elsewhere {world.number()}", "project_id": tenant.project_id}
        body |= {"organization_id": tenant.organization_id}
        answer = ask("api_keys", HttpRequest("POST", "/v1/api_keys", body, world.headers[caller]))
        assert answer.status == status, (caller, answer.body)


def test_organization_settings_are_visible_to_its_owners_only(world: World, ask: Ask) -> None:
    with world.database.write() as session:
        for tenant in (world.tenants[Ownership.OWN], world.tenants[Ownership.OTHER_ORGANIZATION]):
            reported = {"organization_id": tenant.organization_id, "project_id": None, "name": '"organization_id":"'}
            outbox.add(session, "ai.llmariner.test.walked.v1", f"notice/{tenant.organization_id}", reported)
        outbox.add(session, "ai.llmariner.test.walked.v1", "notice/everybody", {"project_id": None})
    here, other = "notice/org_walk-here", "notice/org_walk-other"
    for caller, seen in (("owner", {here}), ("project owner", set()), ("member", set())):
        listed = ask("events", HttpRequest("GET", "/v1/events", None, world.headers[caller], "limit=100")).json["data"]
        subjects = {event["subject"] for event in listed}
        assert subjects & {here, other, "notice/everybody"} == seen | {"notice/everybody"}, caller
        [theirs] = [event_id for event_id, subject in events_of(world) if subject == other]
        replayed = ask("events", HttpRequest("POST", f"/v1/events/{theirs}:replay", None, world.headers[caller]))
        assert_error(replayed, 404, "not_found")


def events_of(world: World) -> list[tuple[str, str]]:
    """Ids and subjects of all events."""
    with world.database.read() as session:
        return [(row.id, row.subject) for row in session.rows(select(events.c.id, events.c.subject))]


SHARED = {
    "GET /v1/models/{id}": None,
    "PATCH /v1/models/{id}": {"config": {}, "update_mask": "config"},
    "POST /v1/models/{id}:activate": None,
    "POST /v1/models/{id}:deactivate": None,
    "DELETE /v1/models/{id}": None,
}


@pytest.mark.parametrize("route", SHARED)
def test_shared_models_are_changed_by_operators_only(route: str, world: World, ask: Ask) -> None:
    shared = model(world, world.tenants[Ownership.OWN], shared=True)
    method, path = route.replace("{id}", shared).split()
    asked = [world.headers[caller] for caller in ("owner", "project owner", "member")]
    for headers in asked:
        answer = ask("models", HttpRequest(method, path, SHARED[route], headers))
        assert answer.status == (200 if method == "GET" else 403), answer.body
    assert ask("models", HttpRequest(method, path, SHARED[route], world.runner)).status == 200


def test_other_organizations_create_models_of_their_own_projects_only(world: World, ask: Ask) -> None:
    body = {"id": f"walk/shared-{world.number()}", "source_repository": "LOCAL"}
    for headers in (world.headers["owner"], world.headers["member"]):
        assert_error(ask("models", HttpRequest("POST", "/v1/models", body, headers)), 403, "insufficient_permissions")


def test_a_custom_organization_role_grants_its_scopes_and_nothing_from_projects(world: World, ask: Ask) -> None:
    for route in ROUTES:
        if route.objects is ObjectScope.ORGANIZATION:
            made = OBJECTS[str(route)](world, world.tenants[Ownership.SIBLING_PROJECT])
            path = PLACEHOLDER.sub(lambda match, made=made: made.path[match[1]], route.path)  # type: ignore[misc]
            answer = ask(route.function, HttpRequest(route.method, path, made.body, world.auditor, made.query))
            assert answer.status == (200 if route.scope == "api.audit.read" else 403), (str(route), answer.body)


def test_a_service_accounts_key_needs_the_permission_to_create_keys(world: World, ask: Ask) -> None:
    here = world.tenants[Ownership.OWN]
    people = "api.organizations.projects.users.read api.organizations.projects.users.write"
    row = {"organization_id": here.organization_id, "description": "", "scopes": people, "created_at": 1}
    for role_id in ("role_usher", "role_ushered"):
        world.add(custom_roles, **row, id=role_id, name=role_id)
    _, secret = world.key(here, world.person(here, "role_usher", "viewer"))
    path = f"/v1/organization/projects/{here.project_id}/service_accounts"
    body: dict[str, object] = {"name": f"ushered {world.number()}", "role": "role_ushered"}
    headers = {"authorization": f"Bearer {secret}"}
    assert_error(
        ask("organization_projects", HttpRequest("POST", path, body, headers)), 403, "insufficient_permissions"
    )
    body["create_service_account_only"] = True
    made = ask("organization_projects", HttpRequest("POST", path, body, headers))
    assert (made.status, made.json["api_key"]) == (200, None)


def twin(text: str) -> str:
    """What another organization's object is called, changed to what nothing is called."""
    return re.sub(r'([^":/ ]*walk-other[^":/ ]*)', r"\1-nobody", text)


@pytest.mark.parametrize("route", [route for route in ROUTES if route.scope and has_object(route)], ids=str)
def test_another_organizations_object_has_the_response_of_a_missing_one(
    route: RouteAccess, world: World, ask: Ask
) -> None:
    for caller in ("owner", "member", "owner in person"):
        made = OBJECTS[str(route)](world, world.tenant(Ownership.OTHER_ORGANIZATION, caller))
        path = PLACEHOLDER.sub(lambda match, made=made: made.path[match[1]], route.path)  # type: ignore[misc]
        body = made.body if isinstance(made.body, bytes) else json.loads(twin(json.dumps(made.body)))
        headers = {**world.headers[caller], **made.headers}
        theirs = ask(route.function, HttpRequest(route.method, path, made.body, headers, made.query))
        nobodys = ask(route.function, HttpRequest(route.method, twin(path), body, headers, made.query))
        assert (theirs.status, theirs.body) == (nobodys.status, nobodys.body.replace(b"-nobody", b"")), caller


def test_a_service_accounts_key_has_at_most_its_creators_permissions(world: World, ask: Ask) -> None:
    here = world.tenants[Ownership.OWN]
    writes = "api.organizations.projects.api_keys.write"
    row = {"organization_id": here.organization_id, "description": "", "created_at": 1}
    world.add(custom_roles, **row, id="role_maker", name="role_maker", scopes=writes)
    _, secret = world.key(here, world.person(here, "role_maker", "viewer"))
    headers = {"authorization": f"Bearer {secret}"}
    path = f"/v1/organization/projects/{here.project_id}/service_accounts/{world.account(here)}/api_keys"
    made = ask("organization_projects", HttpRequest("POST", path, {"name": "its"}, headers))
    assert made.status == 200, made.body
    with world.database.read() as session:
        carried = session.value(select(api_keys.c.scopes).where(api_keys.c.id == made.json["id"]))
    # What a viewer may read, and to make keys.
    assert writes in carried.split()
    assert not [scope for scope in carried.split() if scope.endswith(".write") and scope != writes]
    for asked_for in ("api.model.write", "api.inference.write"):
        more = {"name": "more", "scopes": [asked_for]}
        assert_error(ask("organization_projects", HttpRequest("POST", path, more, headers)), 400, None)
        below = f"/v1/organization/projects/{here.project_id}/api_keys/{made.json['id']}"
        assert_error(
            ask("organization_projects", HttpRequest("POST", below, {"scopes": [asked_for]}, headers)), 400, None
        )
