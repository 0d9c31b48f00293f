"""/v1/model_aliases: in lists of models, moved, rolled back, and wrong requests."""

from __future__ import annotations

from typing import Any

import pytest

from .company import Company
from .http_calls import assert_error
from .test_model_lists import company, key

__all__ = ["company"]


def test_aliases_are_listed_after_the_models_with_what_they_point_at(company: Company) -> None:
    here, there = f"here-{company.number}", f"there-{company.number}"
    for alias, model in (("bot-1", here), ("bot-2", there)):
        assert company.ask("POST /v1/model_aliases", {"alias": alias, "model": model}, by="mia").status == 200

    def page(by: str, query: str) -> tuple[list[tuple[str, str | None]], bool, int]:
        listed = company.ask("GET /v1/models", by=by, query=query).json
        shown_models = [(each["id"], each.get("alias_of")) for each in listed["data"]]
        return shown_models, listed["has_more"], listed["total_items"]

    whole, more, total = page("mia", "limit=500")
    assert whole[-2:] == [("bot-1", here), ("bot-2", there)]
    assert (more, total) == (False, len(whole))
    walked: list[tuple[str, str | None]] = []
    while more or not walked:
        part, more, _ = page("mia", "limit=1" + (f"&after={walked[-1][0]}" if walked else ""))
        walked += part
    assert walked == whole
    assert page(key(company, allowed_models=(here,)), "limit=500")[0] == [(here, None), ("bot-1", here)]
    # The static adapter serves this one alone.
    assert company.ask("POST /v1/model_aliases", {"alias": "bot-3", "model": "tiny"}, by="mia").status == 200
    found = company.ask("GET /v1/models/bot-3", by="mia").json
    assert (found["id"], found["alias_of"]) == ("bot-3", "tiny")
    assert "alias_of" not in company.ask("GET /v1/models/tiny", by="mia").json
    assert_error(company.ask("GET /v1/models/bot-2", by="bound"), 403, "model_not_allowed")
    assert_error(company.ask("GET /v1/models/bot-2", by="sam"), 404, "model_not_found")
    assert company.ask(f"DELETE /v1/models/{there}", by="mia").status == 400
    moved = company.ask("PATCH /v1/model_aliases/bot-2", {"model": here, "expected_revision": 1}, by="mia")
    assert (moved.status, moved.json["revision"]) == (200, 2)
    assert_error(
        company.ask("PATCH /v1/model_aliases/bot-2", {"model": there, "expected_revision": 1}, by="mia"),
        409,
        "alias_changed",
    )
    assert company.ask("POST /v1/model_aliases/bot-2/rollback", {}, by="mia").json["model"] == there
    assert company.ask("DELETE /v1/model_aliases/bot-1", by="mia").json["deleted"] is True
    assert page("mia", "limit=1&after=bot-1")[0] == [("bot-2", there)]
    revisions = company.ask("GET /v1/model_aliases/bot-2/revisions", by="vic").json["data"]
    assert [each["cause"] for each in revisions] == ["rolled_back", "moved", "created"]


def test_a_list_goes_on_after_a_model_that_has_the_name_of_a_deleted_alias(company: Company) -> None:
    here = f"here-{company.number}"
    assert company.ask("POST /v1/model_aliases", {"alias": "again", "model": here}, by="mia").status == 200
    assert company.ask("DELETE /v1/model_aliases/again", by="mia").status == 200
    for name in ("again", "later"):
        body = {
            "id": name,
            "source_repository": "HUGGING_FACE",
            "model_file_location": "a/b",
            "is_project_scoped": True,
        }
        assert company.ask("POST /v1/models", body, by="mia").status == 200
    listed = company.ask("GET /v1/models", by="mia", query="include_loading_models=true&after=again").json["data"]
    assert "later" in [each["id"] for each in listed]


@pytest.mark.parametrize(
    ("route", "field", "values"),
    [
        ("POST /v1/model_aliases", "alias", [7, "", "a/b", "a:b", "a@b", "-a", "x" * 129, "a\0b", None]),
        ("POST /v1/model_aliases", "model", [7, "x" * 257, None]),
        ("POST /v1/model_aliases", "reason", [7, "x" * 513, None]),
        ("PATCH /v1/model_aliases/bot", "model", [7, "x" * 257, None]),
        ("PATCH /v1/model_aliases/bot", "expected_revision", [0, -1, 1.5, "1", 2**31]),
        ("POST /v1/model_aliases/bot/rollback", "revision", [0, -1, "1", 2**31]),
    ],
)
def test_a_wrong_field_is_named(company: Company, route: str, field: str, values: list[Any]) -> None:
    valid = {"model": "tiny"} if "rollback" not in route else {}
    valid |= {"alias": "made"} if route.startswith("POST") and "rollback" not in route else {}
    for value in values:
        answer = company.ask(route, {**valid, field: value}, by="mia")
        assert (answer.status, answer.error["param"]) == (400, field), (value, answer.body)


@pytest.mark.parametrize("name", ["nobody", "a%00b", "..%2Fx", "x" * 300, "%F0%9F%A4%96"])
def test_an_unknown_alias_is_not_found(company: Company, name: str) -> None:
    for route, body in (
        (f"GET /v1/model_aliases/{name}", None),
        (f"PATCH /v1/model_aliases/{name}", {"model": "tiny"}),
        (f"DELETE /v1/model_aliases/{name}", None),
        (f"POST /v1/model_aliases/{name}/rollback", {}),
        (f"GET /v1/model_aliases/{name}/revisions", None),
    ):
        assert company.ask(route, body, by="mia").status in (400, 404), route
