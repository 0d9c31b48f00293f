"""No body or query makes a route answer 5xx, and every rejection is an error object."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import Ask
from .declared_routes import AUTHENTICATED
from .http_calls import HttpRequest
from .installation import Installation
from .test_bodies import BODIES, INVALID_VALUES, with_ids

FUZZ = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), database=None)

TEXT = st.text(max_size=20) | st.sampled_from(["", "\0", "\x7f", "é", "𝄞", "../..", "' OR 1=1", "a" * 3000])
NUMBERS = st.integers() | st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**40]) | st.floats(allow_nan=False)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXT
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
FIELDS: dict[str, list[str]] = {
    "POST /v1/chat/completions": ["x_unknown", "user", "logit_bias", "response_format"],
    "POST /v1/completions": ["suffix", "echo", "stream", "stream_options"],
    "POST /v1/embeddings": ["model", "user"],
    "POST /v1/rerank": ["model", "user"],
    "POST /v1/models": ["base_model_id", "suffix", "model_file_location", "is_fine_tuned_model"],
}
PUBLIC = [route for route in BODIES if not route.startswith("POST /internal")]
QUERY_NAMES = [
    "limit",
    "after",
    "state",
    "start_time",
    "end_time",
    "group_by",
    "update_mask",
    "include_loading_models",
    "include_summary",
]


def bodies(route: str) -> st.SearchStrategy[Any]:
    """Variations of valid values: some fields changed, left out or added."""
    right = BODIES[route][1]
    known = sorted({*right, *FIELDS.get(route, ()), *INVALID_VALUES.get(route, ())}) or ["x_unknown"]
    changed = st.dictionaries(st.sampled_from(known) | TEXT, VALUES, max_size=4).map(lambda some: {**right, **some})
    without = st.sets(st.sampled_from(known))
    fewer = st.tuples(changed, without).map(lambda two: {k: v for k, v in two[0].items() if k not in two[1]})
    return changed | fewer | VALUES | st.binary(max_size=60)


@pytest.mark.parametrize("route", PUBLIC)
def test_no_body_causes_a_5xx(route: str, ask: Ask, installation: Installation) -> None:
    caller = {"authorization": f"Bearer {installation.credential(BODIES[route][0])}"}
    method, path = with_ids(route, installation).split()
    allowed = {200, 400, 404, 409, 415}

    @FUZZ
    @given(bodies(route))
    def holds(body: Any) -> None:
        sent = b"null" if body is None else body
        answer = ask(BODIES[route][0], HttpRequest(method, path, sent, caller))
        assert answer.status in allowed, (answer.status, answer.body)
        if answer.status >= 400:
            assert answer.error["message"]

    holds()


@pytest.mark.parametrize("route", [route for route in AUTHENTICATED if route.method == "GET"], ids=str)
def test_no_query_causes_a_5xx(route: Any, ask: Ask, admin: dict[str, str]) -> None:
    values = TEXT | st.integers().map(str) | st.floats().map(str) | st.sampled_from(["²", "9" * 5000, "1e400", "null"])
    pairs = st.lists(st.tuples(st.sampled_from(QUERY_NAMES) | TEXT, values), max_size=4)

    @FUZZ
    @given(pairs.map(urlencode) | st.text(st.characters(codec="ascii", exclude_characters="# "), max_size=30))
    def holds(query: str) -> None:
        answer = ask(route.function, HttpRequest("GET", route.example, None, admin, query))
        # What nobody may do in a cluster is 403 there, as at Kubernetes' API.
        allowed = {200, 400, 403, 404} if route.function == "sessions" else {200, 400, 404}
        assert answer.status in allowed, (answer.status, answer.body)

    holds()


@pytest.mark.parametrize("route", AUTHENTICATED, ids=str)
def test_no_id_and_no_header_causes_a_5xx(route: Any, ask: Ask, admin: dict[str, str]) -> None:
    header = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20)

    @settings(FUZZ, max_examples=15)
    @given(TEXT, header, st.sampled_from(["content-type", "authorization", "prefer", "content-length", "x-request-id"]))
    def holds(identifier: str, value: str, name: str) -> None:
        path = route.example.replace("unknown", identifier or "x")
        body: Any = {} if route.method in ("POST", "PATCH") else None
        headers = {**admin, **({name: value} if name != "content-length" else {})}
        answer = ask(route.function, HttpRequest(route.method, path, body, headers))
        assert answer.status < 500, (answer.status, answer.body)

    holds()


# The content of `record` and `used` is trusted: only the platform's meter and key cache write it.
OPERATIONS: dict[str, dict[str, Any]] = {
    "key": {"digest": "0" * 64},
    "model": {"model": "tiny"},
    "wake": {"model": "tiny"},
    "sleep": {"model": "tiny"},
    "status": {"model": "tiny"},
    "statuses": {},
    "changes": {"cursor": "1.2.3"},
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_internal_call_causes_a_5xx(operation: str, ask: Ask, installation: Installation) -> None:
    right = OPERATIONS[operation]
    known = st.sampled_from(sorted(right) or ["x"])

    @FUZZ
    @given(st.dictionaries(known, VALUES, max_size=1).map(lambda changed: {**right, **changed}) | VALUES)
    def holds(body: Any) -> None:
        headers = {"authorization": f"Bearer {installation.service_token}"}
        sent = b"null" if body is None else body
        answer = ask("internal_gateway", HttpRequest("POST", f"/internal/gateway/{operation}", sent, headers))
        assert answer.status in {200, 400, 404, 415}, (answer.status, answer.body)

    holds()
