"""`llma admin`: names and ids, aliases, the meaning of -o, local validation, and shell completion."""

from __future__ import annotations

import pytest

from .admin_cases import ORGANIZATION, ORGANIZATIONS, PROJECT_LOOKUP, PROJECTS, ROLE, ROLES, USERS, VISION
from .conftest import Complete, FakePlatform, Llma


@pytest.fixture(autouse=True)
def known(platform: FakePlatform) -> None:
    """What commands look things up in."""
    for route, document in {**PROJECT_LOOKUP, "GET /users": USERS, "GET /organization/roles": ROLES}.items():
        platform.respond(route, document)


@pytest.mark.parametrize(
    ("line", "record", "shows"),
    [
        ("admin organizations get Acme", ORGANIZATION, ("org_1", "yes", "17")),
        ("admin organizations get org_1", ORGANIZATION, ("Acme",)),
        ("admin projects get Vision", VISION, ("proj_1", "team-a", "org_1")),
        ("admin projects get proj_1 -o Acme", VISION, ("Vision",)),
        ("admin roles get auditor", ROLE, ("role_1", "api.audit.read")),
    ],
)
def test_an_object_is_shown_by_title_or_id(line: str, record: object, shows: tuple[str, ...], llma: Llma) -> None:
    result = llma(*line.split())
    assert result.code == 0, result.err
    for words in shows:
        assert words in result.out
    assert llma(*line.split(), "--output", "json").json == record


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("orgs", "organizations"),
        ("org", "organizations"),
        ("project", "projects"),
        ("user", "users"),
        ("role", "roles"),
    ],
)
def test_groups_have_upstreams_short_names(alias: str, name: str, llma: Llma) -> None:
    assert llma("admin", alias, "list").out == llma("admin", name, "list").out != ""
    assert alias not in [line.split()[0] for line in llma("admin", "-h").out.splitlines() if line.startswith("  ")]


def test_a_missing_object_error_names_the_list_command(llma: Llma) -> None:
    result = llma("admin", "organizations", "get", "Nowhere")
    assert result.code == 4
    assert "there is no organization 'Nowhere'" in result.err
    assert "llma admin organizations list" in result.err
    result = llma("admin", "projects", "delete", "Nowhere")
    assert result.code == 4
    assert "llma admin projects list --organization-title 'Acme'" in result.err


def test_an_ambiguous_title_requires_the_id(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("GET /organizations/org_1/projects", {"projects": [VISION, {**VISION, "id": "proj_2"}]})
    result = llma("admin", "projects", "get", "Vision")
    assert (result.code, "proj_1, proj_2" in result.err) == (2, True)


def test_option_o_is_the_organization_where_a_command_has_one(llma: Llma) -> None:
    assert llma("admin", "organizations", "list", "-o", "json").json == ORGANIZATIONS
    refused = llma("admin", "projects", "list", "-o", "json")
    assert refused.code == 4
    assert "--output json" in refused.err
    assert llma("admin", "projects", "list", "--output", "json").json == PROJECTS
    assert "-o, --organization-title" in llma("admin", "projects", "list", "-h").out


def test_the_contexts_organization_is_selected_by_title(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("GET /organizations/org_2/projects", {"projects": []})
    assert llma("context", "set", "--organization", "Two Words").code == 0
    result = llma("admin", "projects", "list")
    assert "no project in Two Words" in result.err
    assert platform.requests[-1].headers["openai-organization"] == "Two Words"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("admin projects create V --node-selector a=b", "--kubernetes-namespace"),
        ("admin projects create V -n a --node-selector nothing", "KEY=VALUE"),
        ("admin projects update Vision", "Nothing to change"),
        ("admin projects add-member Vision --role owner", "--email"),
        ("admin roles create x", "--scope"),
        ("admin roles update auditor", "Nothing to change"),
        ("admin limits set", "--requests-per-minute"),
        ("admin limits set --requests-per-minute few", "whole number"),
        ("admin limits set --project a --user b --requests-per-day 1", "one of --project"),
        ("admin budgets set", "--amount"),
        ("admin quota set", "--gpu 4"),
        ("admin quota set --borrow-gpu 4", "give both"),
        ("admin quota set --gpu half", "'none'"),
        ("admin quota set --gpu 0.5", "whole number"),
        ("admin quota set --gpu 4GiB", "'none'"),
        ("admin quota set --memory -1", "32GiB"),
        (f"admin quota set --memory {'9' * 400}", "32GiB"),
        ("auth api-keys create x --service-account", "--role"),
        ("auth api-keys create x --role owner", "--service-account"),
        ("auth api-keys list -o Acme", "--project-title"),
    ],
)
def test_invalid_options_are_rejected_before_the_request(
    line: str, words: str, llma: Llma, platform: FakePlatform
) -> None:
    result = llma(*line.split())
    assert (result.code, words in result.err) == (2, True), result.err
    assert {request.method for request in platform.requests} <= {"GET"}


def test_a_role_is_assigned_by_name(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("POST /organizations/org_1/users", {"user_id": "a@x.org", "role": "role_1"})
    for said, sent in (("auditor", "role_1"), ("role_9", "role_9"), ("Tenant-System", "Tenant-System")):
        llma("admin", "orgs", "add-member", "Acme", "--email", "a@x.org", "--role", said)
        assert platform.requests[-1].body["role"] == sent
    unknown = llma("admin", "orgs", "add-member", "Acme", "--email", "a@x.org", "--role", "boss")
    assert (unknown.code, "llma admin roles list" in unknown.err) == (4, True)


def test_a_project_is_unassigned_with_an_empty_namespace(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("PATCH /organizations/org_1/projects/proj_1", VISION)
    llma("admin", "projects", "update", "Vision", "-n", "")
    assert platform.requests[-1].body == {"assignments": [], "update_mask": "assignments"}


def test_limits_and_budgets_default_to_the_organization(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("POST /budgets", {"amount": 1})
    llma("admin", "budgets", "set", "--amount", "1")
    assert platform.requests[-1].body["subject_id"] == "org_1"
    assert "alert_ratio" not in platform.requests[-1].body


def test_names_that_cannot_be_listed_are_shown_as_ids(llma: Llma, platform: FakePlatform) -> None:
    platform.respond_error("GET /organizations", 403)
    platform.respond("GET /limits", {"data": [{"id": "limit_1", "subject": "project", "subject_id": "proj_1"}]})
    assert "project proj_1" in llma("admin", "limits", "list").out


def test_accepting_an_invitation_without_a_key_points_to_sign_in(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("POST /invitations:accept", {"user": USERS["users"][0], "api_key": None})
    result = llma("auth", "accept-invite", "inv-x")
    assert result.out == "You are in.\n"
    assert "llma auth login" in result.err


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("llma admin organizations get ", ["Acme", "Two Words"]),
        ("llma admin organizations get A", ["Acme"]),
        ("llma admin projects get ", ["Vision"]),
        ("llma admin projects get --organization-title Acme V", ["Vision"]),
        ("llma admin projects list -o Tw", ["Two Words"]),
        ("llma admin projects remove-member Vision --email a", ["ada@x.org"]),
        ("llma admin roles get ", ["owner", "auditor"]),
        (
            "llma admin users set-role ada@x.org --role ",
            ["owner", "reader", "tenant-system", "member", "viewer", "auditor"],
        ),
        ("llma admin roles create x --scope api.a", ["api.audit.read"]),
    ],
)
def test_the_shell_completes_names(words: str, offered: list[str], complete: Complete) -> None:
    assert complete(words) == offered


def test_completion_without_a_server_is_empty(complete: Complete, platform: FakePlatform) -> None:
    platform.respond_error("GET /organizations", 401)
    assert complete("llma admin organizations get ") == [""]


def test_a_lookup_is_made_once(llma: Llma, platform: FakePlatform) -> None:
    platform.requests.clear()
    llma("admin", "projects", "get", "Vision")
    assert [request.path for request in platform.requests] == ["/organizations", "/organizations/org_1/projects"]
