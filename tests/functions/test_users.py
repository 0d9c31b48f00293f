"""The caller's own user, visible users, and the acceptance of invitations."""

from __future__ import annotations

from typing import Any

import pytest

from llmariner.boot import load
from llmariner.context import Context
from llmariner.tenancy.invitations.store import Invites, ProjectGrant
from llmariner.tenancy.organizations.projects import Projects
from llmariner.tenancy.tables import organization_users, users

from .company import Company
from .conftest import Ask
from .http_calls import HttpRequest, InProcessClient, assert_error
from .installation import Installation
from .processes import CHECKOUT


@pytest.fixture
def company(installation: Installation, ask: Ask) -> Company:
    return Company(installation, ask)


def visible_users(company: Company, by: str) -> dict[str, tuple[int, int]]:
    """The users that a caller sees: name → number of roles in the organization and in projects."""
    answer = company.ask("GET /v1/users", by=by)
    assert answer.status == 200, answer.body
    ids = [each["id"] for each in answer.json["users"]]
    assert ids == sorted(ids)
    return {
        each["id"].partition("-")[0].partition("@")[0]: (
            len(each["organization_role_bindings"]),
            len(each["project_role_bindings"]),
        )
        for each in answer.json["users"]
    }


def test_the_callers_own_user_has_their_roles(company: Company) -> None:
    found = company.ask("GET /v1/users:getSelf", by="mia").json
    assert (found["id"], found["is_service_account"], found["hidden"]) == (company.email("mia"), False, False)
    [here] = found["organization_role_bindings"]
    assert (here["organization_id"], here["role"]) == (company.id, "ORGANIZATION_ROLE_READER")
    [there] = found["project_role_bindings"]
    assert (there["project_id"], there["title"], there["role"]) == (company.vision, "Vision", "PROJECT_ROLE_MEMBER")


def test_a_keys_user_has_only_the_keys_project(company: Company) -> None:
    company.members.add_to_project(company.founder, company.speech, company.people["mia"].user_id, "viewer")
    found = company.ask("GET /v1/users:getSelf", by="mia").json
    assert [each["title"] for each in found["project_role_bindings"]] == ["Vision"]


def test_owners_see_all_users_and_members_those_of_their_projects(company: Company) -> None:
    # Who owned the organization when a project was made is its member.
    assert visible_users(company, "boss") == {
        "admin": (1, 2),
        "boss": (1, 0),
        "lead": (1, 1),
        "mia": (1, 1),
        "vic": (1, 1),
        "sam": (1, 1),
        "rob": (1, 0),
    }
    assert visible_users(company, "mia") == {"admin": (0, 1), "lead": (0, 1), "mia": (0, 1), "vic": (0, 1)}
    assert visible_users(company, "rob") == {"rob": (0, 0)}
    assert company.email("mia") not in str(company.ask("GET /v1/users", by="outsider").json)


def invited(company: Company, *, project: bool = True) -> str:
    invites = Invites(company.context.database, company.context.secrets.pepper)
    promised = [ProjectGrant(company.vision)] if project else []
    return invites.create(company.founder, company.email("ann"), "reader", promised)[1]


def test_an_invitation_is_accepted_by_token_and_returns_a_key(company: Company) -> None:
    token = invited(company)
    accepted = company.ask("POST /v1/invitations:accept", {"token": token}, by="").json
    assert (accepted["status"], accepted["organization_id"]) == ("accepted", company.id)
    assert accepted["user"]["id"] == company.email("ann")
    key = accepted["api_key"]
    assert (key["project"]["id"], key["project_role"]) == (company.vision, "PROJECT_ROLE_MEMBER")
    company.secrets["ann"] = key["secret"]
    assert company.ask("GET /v1/users:getSelf", by="ann").json["id"] == company.email("ann")
    again = company.ask("POST /v1/invitations:accept", {"token": token}, by="")
    assert_error(again, 404, "not_found")
    assert "ann" in visible_users(company, "mia")


def test_without_an_issuer_an_invitation_must_include_a_project(company: Company) -> None:
    asked: dict[str, Any] = {"email": company.email("ann"), "role": "reader"}
    nowhere = company.ask("POST /v1/organization/invites", asked)
    assert_error(nowhere, 400, None)
    assert nowhere.error["param"] == "projects"
    asked["projects"] = [{"id": company.speech}]
    made = company.ask("POST /v1/organization/invites", asked)
    assert made.status == 200, made.body
    Projects(company.context.database).archive(company.founder, company.speech)
    ended = company.ask("POST /v1/invitations:accept", {"token": made.json["token"]}, by="")
    assert_error(ended, 409, "conflict")
    shown = company.ask(f"GET /v1/organization/invites/{made.json['id']}").json
    assert (shown["status"], shown["accepted_at"]) == ("pending", None)


def test_an_invited_owner_gets_a_key_of_an_existing_project(company: Company) -> None:
    asked = {"email": company.email("ann"), "role": "owner"}
    made = company.ask("POST /v1/organization/invites", asked)
    accepted = company.ask("POST /v1/invitations:accept", {"token": made.json["token"]}, by="")
    assert accepted.json["api_key"]["project"]["id"] in (company.vision, company.speech)


def test_an_invitation_reveals_nothing_of_the_person_elsewhere(company: Company, installation: Installation) -> None:
    members = company.members
    members.add(
        company.context.authenticator.caller_for_user(installation.owner.user_id), company.email("ann"), "reader"
    )
    accepted = company.ask("POST /v1/invitations:accept", {"token": invited(company)}, by="").json
    assert [each["organization_id"] for each in accepted["user"]["organization_role_bindings"]] == [company.id]


def test_a_member_cannot_accept_an_invitation(company: Company) -> None:
    token = invited(company)
    with company.context.database.write() as session:  # as if both were done at once
        user_id = "user_" + company.email("ann")
        session.add(users, id=user_id, email=company.email("ann"), created_at=1)
        joined = {"organization_id": company.id, "user_id": user_id, "role": "owner", "created_at": 1}
        session.add(organization_users, **joined)
    answer = company.ask("POST /v1/invitations:accept", {"token": token}, by="")
    assert_error(answer, 409, "already_member")


def another(installation: Installation, settings: dict[str, str]) -> Any:
    """The function with other settings."""
    application = load(CHECKOUT / "functions/invitations")
    application.use_context(Context({**installation.environment, **settings}))
    return application


def test_failed_invitation_lookups_are_limited(
    company: Company, installation: Installation, in_process: InProcessClient
) -> None:
    application = another(installation, {"LLMARINER_UNKNOWN_KEYS_PER_MINUTE": "3"})

    def accept(token: str) -> Any:
        return in_process.send(application, HttpRequest("POST", "/v1/invitations:accept", {"token": token}))

    assert [accept(f"inv-{at:048}").status for at in range(4)] == [404, 404, 404, 429]
    refused = accept(invited(company))
    assert_error(refused, 429, "too_many_failed_authentications")
    assert "invitations" in refused.error["message"]
    assert int(refused.headers["retry-after"]) >= 1


def test_with_an_issuer_no_key_is_returned(
    company: Company, installation: Installation, in_process: InProcessClient
) -> None:
    signing_in = {"LLMARINER_OIDC_ISSUER": "https://issuer.example.org", "LLMARINER_OIDC_CLIENT_ID": "llmariner"}
    application = another(installation, signing_in)
    http_request = HttpRequest("POST", "/v1/invitations:accept", {"token": invited(company)})
    accepted = in_process.send(application, http_request)
    assert (accepted.status, accepted.json["api_key"]) == (200, None)


@pytest.mark.parametrize("token", ["", "inv-unknown", "x" * 5000, "\u0000", "ä"])
def test_an_invalid_token_admits_nobody(company: Company, token: str) -> None:
    assert_error(company.ask("POST /v1/invitations:accept", {"token": token}, by=""), 404, "not_found")
