"""Limits and budgets through the API: permissions, and OpenAI's own client."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from llmariner.models.model import NewModel, SourceRepository

from .company import Company
from .conftest import Ask
from .http_calls import HttpRequest, InProcessClient, assert_error
from .installation import Installation
from .test_organization_sdk import collect, openai_client

MODEL = "org/limited-model"


@pytest.fixture(scope="module")
def company(installation: Installation, ask: Ask) -> Company:
    return Company(installation, ask)


@pytest.fixture(scope="module")
def own_key(company: Company) -> str:
    """The id of mia's key."""
    key = company.context.keys.by_secret(company.secrets["mia"])
    assert key is not None
    return key.id


def of(kind: str, id_: str, **fields: Any) -> dict[str, Any]:
    return {"subject": kind, "subject_id": id_, **fields}


def test_the_lifecycle_of_a_limit(company: Company) -> None:
    body = of("project", company.vision, model=MODEL, requests_per_minute=5, concurrent_requests=2)
    made = company.ask("POST /v1/limits", body).json
    assert (made["object"], made["requests_per_minute"], made["tokens_per_day"]) == ("limit", 5, None)
    assert made["used"] == {"requests_per_minute": 0, "concurrent_requests": 0}
    path = f"/v1/limits/{made['id']}"
    changed = company.ask(f"POST {path}", {"requests_per_minute": None, "tokens_per_day": 9}).json
    assert (changed["id"], changed["requests_per_minute"], changed["tokens_per_day"]) == (made["id"], None, 9)
    assert company.ask(f"GET {path}").json == changed
    again = company.ask("POST /v1/limits", body).json
    assert (again["id"], again["tokens_per_day"]) == (made["id"], 9)
    listed = company.ask("GET /v1/limits", query=f"subject=project&subject_id={company.vision}").json["data"]
    assert [row["id"] for row in listed] == [made["id"]]
    assert company.ask(f"DELETE {path}").json == {"id": made["id"], "object": "limit", "deleted": True}
    assert_error(company.ask(f"GET {path}"), 404, "not_found")


# Who may set a limit of the organization, of the project vision, of a key in it, and of a user.
@pytest.mark.parametrize(
    ("by", "statuses"),
    [
        ("boss", (200, 200, 200, 200)),
        ("lead", (403, 200, 200, 403)),
        ("mia", (403, 403, 403, 403)),
        ("vic", (403, 403, 403, 403)),
        ("sam", (403, 403, 403, 403)),
        ("rob", (403, 403, 403, 403)),
        ("outsider", (404, 404, 404, 404)),
    ],
)
@pytest.mark.parametrize("noun", ["limits", "budgets"])
def test_limits_are_set_by_permitted_callers_only(
    company: Company, own_key: str, noun: str, by: str, statuses: tuple[int, ...]
) -> None:
    fields: dict[str, Any] = {"requests_per_day": 7} if noun == "limits" else {"period": "day", "amount": 7}
    user = company.people["mia"].user_id
    subjects = [("organization", company.id), ("project", company.vision), ("key", own_key), ("user", user)]
    found = [company.ask(f"POST /v1/{noun}", of(*subject, **fields), by=by).status for subject in subjects]
    assert tuple(found) == statuses


def test_each_caller_sees_their_limits(company: Company, own_key: str) -> None:
    made = {
        kind: company.ask("POST /v1/limits", of(kind, id_, requests_per_day=7)).json["id"]
        for kind, id_ in (("organization", company.id), ("project", company.vision), ("key", own_key))
    }
    speech = company.ask("POST /v1/limits", of("project", company.speech, requests_per_day=7)).json["id"]

    def seen(by: str) -> set[str]:
        return {row["id"] for row in company.ask("GET /v1/limits", by=by).json["data"]}

    assert seen("boss") >= {*made.values(), speech}
    assert seen("vic") == seen("lead") >= {made["project"], made["key"]}
    assert not seen("vic") & {made["organization"], speech}
    assert seen("outsider") == set()
    assert_error(company.ask(f"GET /v1/limits/{speech}", by="lead"), 404, "not_found")
    assert_error(company.ask(f"DELETE /v1/limits/{speech}", by="outsider"), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"requests_per_minute": -1}, "requests_per_minute"),
        ({"requests_per_minute": "5"}, "requests_per_minute"),
        ({"requests_per_hour": 5}, "requests_per_hour"),
        ({}, "requests_per_minute"),
    ],
)
def test_an_invalid_limit_is_rejected(company: Company, body: dict[str, Any], param: str) -> None:
    answer = company.ask("POST /v1/limits", of("project", company.vision, **body))
    assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "invalid_request_error", param)


def test_the_waiting_room_is_divided_among_projects(company: Company, own_key: str) -> None:
    refused = company.ask("POST /v1/limits", of("key", own_key, queue_share=1))
    assert_error(refused, 400, None)
    assert refused.error["param"] == "queue_share"
    assert company.ask("POST /v1/limits", of("project", company.vision, queue_share=1)).status == 200


def test_the_lifecycle_of_a_budget(company: Company) -> None:
    body = of("project", company.speech, period="month", amount=12.5)
    made = company.ask("POST /v1/budgets", body).json
    assert (made["amount"], made["spent"], made["hard"], made["alert_ratio"]) == (12.5, 0, True, 0.8)
    path = f"/v1/budgets/{made['id']}"
    changed = company.ask(f"POST {path}", {"amount": 0.000000001, "alert_ratio": None}).json
    assert (changed["id"], changed["amount"], changed["alert_ratio"]) == (made["id"], 1e-9, None)
    assert_error(company.ask(f"POST {path}", {"amount": 0.0000000001}), 400, None)
    listed = company.ask("GET /v1/budgets", query=f"subject_id={company.speech}").json["data"]
    assert listed == [changed]
    assert company.ask(f"DELETE {path}").json["deleted"] is True
    assert_error(company.ask(f"GET {path}"), 404, "not_found")


@pytest.fixture
def organization(company: Company, router: Any) -> Any:
    """`client.admin.organization` of OpenAI's client, by the owner's admin key."""
    return openai_client(router, company.secrets["boss"]).admin.organization


def test_openais_client_reads_and_sets_rate_limits(
    company: Company, organization: Any, in_process: InProcessClient
) -> None:
    new = NewModel(MODEL, SourceRepository.LOCAL, "here", project_id=company.vision)
    company.context.registry.create(new)

    async def work() -> None:
        rates = organization.projects.rate_limits
        rows = {row.model: row for row in await collect(rates.list_rate_limits(company.vision, limit=1))}
        assert rows[MODEL].max_requests_per_1_minute == 6000
        fields = {"max_requests_per_1_minute": 10, "max_requests_per_1_day": 100}
        row = await rates.update_rate_limit(rows[MODEL].id, project_id=company.vision, **fields)
        assert (row.id, row.max_requests_per_1_minute, row.max_requests_per_1_day) == (rows[MODEL].id, 10, 100)
        again = {row.model: row for row in await collect(rates.list_rate_limits(company.vision))}
        assert again[MODEL] == row
        assert MODEL not in {row.model for row in await collect(rates.list_rate_limits(company.speech))}

    in_process.runner.run(work())


def test_openais_client_sets_spend_limits(company: Company, organization: Any, in_process: InProcessClient) -> None:
    async def work() -> None:
        monthly: dict[str, Any] = {"currency": "USD", "interval": "month"}
        whole = await organization.spend_limit.update(**monthly, threshold_amount=12345)
        assert (whole.threshold_amount, whole.enforcement.status) == (12345, "inactive")
        assert await organization.spend_limit.retrieve() == whole
        spend = organization.projects.spend_limit
        none_left = await spend.update(company.vision, **monthly, threshold_amount=0)
        assert none_left.enforcement.status == "enforcing"
        assert (await spend.delete(company.vision)).deleted
        assert (await organization.spend_limit.delete()).deleted

    in_process.runner.run(work())
    query = f"subject=organization&subject_id={company.id}"
    assert "month" not in {row["period"] for row in company.ask("GET /v1/budgets", query=query).json["data"]}


def test_openais_client_sets_spend_alerts(company: Company, organization: Any, in_process: InProcessClient) -> None:
    channel: dict[str, Any] = {"type": "email", "recipients": ["boss@example.org"]}
    monthly: dict[str, Any] = {"currency": "USD", "interval": "month", "notification_channel": channel}

    async def work() -> None:
        await organization.spend_limit.update(currency="USD", interval="month", threshold_amount=99)
        places: tuple[Any, ...] = (
            (organization.spend_alerts, (), {}),
            (organization.projects.spend_alerts, (company.vision,), {"project_id": company.vision}),
        )
        for alerts, where, named in places:
            first = await alerts.create(*where, **monthly, threshold_amount=1000)
            second = await alerts.create(*where, **monthly, threshold_amount=2000)
            assert (first.threshold_amount, first.notification_channel.recipients) == (1000, ["boss@example.org"])
            assert [each.id for each in await collect(alerts.list(*where, limit=1))] == [first.id, second.id]
            assert [each.id for each in await collect(alerts.list(*where, order="desc"))] == [second.id, first.id]
            before = await alerts.list(*where, before=second.id)
            assert [each.id for each in before.data] == [first.id]
            changed = await alerts.update(first.id, **named, **monthly, threshold_amount=3000)
            assert (changed.id, changed.threshold_amount) == (first.id, 3000)
            assert await alerts.retrieve(first.id, **named) == changed
            assert (await alerts.delete(first.id, **named)).deleted
            with pytest.raises(openai.NotFoundError):
                await alerts.retrieve(first.id, **named)
        assert (await organization.spend_limit.retrieve()).threshold_amount == 99
        with pytest.raises(openai.BadRequestError):
            await organization.spend_alerts.create(
                **{**monthly, "notification_channel": {"type": "email", "recipients": ["nobody"]}}, threshold_amount=1
            )

    in_process.runner.run(work())
    listed = company.ask("GET /v1/budgets").json["data"]
    [whole] = [row for row in listed if row["notification_channel"] and row["subject"] == "organization"]
    assert (whole["amount"], whole["hard"], whole["alert_ratio"]) == (20.0, False, 1.0)
    changed = company.ask(f"POST /v1/budgets/{whole['id']}", {"amount": 30})
    assert (changed.json["id"], changed.json["amount"]) == (whole["id"], 30.0)
    for terms in ({"hard": True}, {"alert_ratio": 0.5}):
        refused = company.ask(f"POST /v1/budgets/{whole['id']}", terms)
        assert (refused.status, refused.error["param"]) == (400, next(iter(terms)))
    monthly_ones = [row for row in company.ask("GET /v1/budgets").json["data"] if row["period"] == "month"]
    assert 0.99 in [row["amount"] for row in monthly_ones if row["hard"]]


@pytest.mark.parametrize("field", ["max_images_per_1_minute", "batch_1_day_max_input_tokens"])
def test_an_unsupported_measure_is_not_a_limit(
    company: Company, router: Any, organization: Any, in_process: InProcessClient, field: str
) -> None:
    async def row_id() -> str:
        return str((await collect(organization.projects.rate_limits.list_rate_limits(company.vision)))[0].id)

    path = f"/v1/organization/projects/{company.vision}/rate_limits/{in_process.runner.run(row_id())}"
    headers = {"authorization": f"Bearer {company.secrets['boss']}"}
    refused = in_process.send(router, HttpRequest("POST", path, {field: 1}, headers))
    assert_error(refused, 400, None)
    assert refused.error["param"] == field
