"""CORS headers on every route, in errors and in streams."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from llmariner.boot import load
from llmariner.context import Context
from llmariner.http.middleware.cors import Cors
from llmariner.standalone.router import Router

from .declared_routes import FUNCTIONS, ROUTES, DeclaredRoute
from .http_calls import HttpRequest, HttpResponse, InProcessClient
from .installation import Installation
from .processes import CHECKOUT

PAGE = "https://app.example.org"
DEVELOPMENT = "http://localhost:5173"
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "say it"}], "max_tokens": 3}


@pytest.fixture(scope="module")
def open_to_pages(installation: Installation) -> Any:
    """All functions in one process, with pages of two origins allowed."""
    context = Context({**installation.environment, "LLMARINER_CORS_ORIGINS": f"{PAGE}, {DEVELOPMENT}"})
    for part in ("database", "serving", "gateway", "in_process_control_plane"):
        context.__dict__[part] = getattr(installation.context, part)
    return Router(CHECKOUT / "functions", context)


def vary(answer: HttpResponse) -> set[str]:
    return {word.strip().lower() for word in answer.headers.get("vary", "").split(",")}


def preflight(path: str, origin: str, method: str = "POST") -> HttpRequest:
    names = "authorization,content-type,x-stainless-retry-count"
    asked = {"access-control-request-method": method, "access-control-request-headers": names}
    return HttpRequest("OPTIONS", path, None, {"origin": origin, **asked})


@pytest.mark.parametrize("route", [route for route in ROUTES if route.function != "internal_gateway"], ids=str)
def test_a_preflight_succeeds_on_every_route(
    route: DeclaredRoute, open_to_pages: Any, in_process: InProcessClient
) -> None:
    answer = in_process.send(open_to_pages, preflight(route.example, PAGE, route.method))
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert route.method in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in answer.headers
    assert "origin" in vary(answer)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_separate_function_responds_to_a_preflight(
    name: str, installation: Installation, in_process: InProcessClient
) -> None:
    application = load(CHECKOUT / "functions" / name)
    application.use_context(Context({**installation.environment, "LLMARINER_CORS_ORIGINS": PAGE}))
    assert in_process.send(application, preflight("/v1/anything", PAGE)).status == 204


@pytest.mark.parametrize(
    "http_request",
    [
        HttpRequest("GET", "/v1/models"),
        HttpRequest("GET", "/v1/no/such/path"),
        HttpRequest("PUT", "/v1/models"),
        HttpRequest("POST", "/v1/chat/completions", CHAT),
        HttpRequest("POST", "/v1/chat/completions", b"{"),
        HttpRequest("GET", "/health"),
        HttpRequest("GET", "/v1/models", None, {}, "after=%ff"),
    ],
    ids=str,
)
def test_responses_and_errors_are_readable_by_the_page(
    http_request: HttpRequest, open_to_pages: Any, in_process: InProcessClient, admin: dict[str, str]
) -> None:
    for headers in (admin, {}):
        asked = HttpRequest(
            http_request.method, http_request.path, http_request.body, {**headers, "origin": PAGE}, http_request.query
        )
        answer = in_process.send(open_to_pages, asked)
        assert answer.headers["access-control-allow-origin"] == PAGE, answer
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        assert "retry-after" in answer.headers["access-control-expose-headers"]
        assert "x-ratelimit-remaining-tokens" in answer.headers["access-control-expose-headers"]
        assert "origin" in vary(answer)


def test_a_stream_is_readable_by_the_page(
    open_to_pages: Any, in_process: InProcessClient, admin: dict[str, str]
) -> None:
    asked = HttpRequest("POST", "/v1/chat/completions", {**CHAT, "stream": True}, {**admin, "origin": DEVELOPMENT})
    answer = in_process.send(open_to_pages, asked)
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert answer.headers["access-control-allow-origin"] == DEVELOPMENT


def test_other_origins_get_no_headers(open_to_pages: Any, in_process: InProcessClient, admin: dict[str, str]) -> None:
    for origin in ("https://evil.example.org", "https://app.example.org.evil", "http://app.example.org", "null"):
        refused = in_process.send(open_to_pages, preflight("/v1/models", origin))
        assert (refused.status, refused.error["code"]) == (403, "origin_not_allowed")
        answer = in_process.send(open_to_pages, HttpRequest("GET", "/v1/models", None, {**admin, "origin": origin}))
        for each in (refused, answer):
            assert not [name for name in each.headers if name.startswith("access-control-")]
            assert "origin" in vary(each)


def test_a_response_without_an_origin_is_not_cached_for_one_with(
    open_to_pages: Any, in_process: InProcessClient, admin: dict[str, str]
) -> None:
    assert "origin" in vary(in_process.send(open_to_pages, HttpRequest("GET", "/v1/models", None, admin)))


def test_without_the_setting_there_are_no_headers(
    router: Any, in_process: InProcessClient, admin: dict[str, str]
) -> None:
    answer = in_process.send(router, HttpRequest("GET", "/v1/models", None, {**admin, "origin": PAGE}))
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert in_process.send(router, preflight("/v1/models", PAGE)).status == 405


@pytest.mark.parametrize(
    ("setting", "origin", "allowed"),
    [
        ("loopback", "http://localhost:3000", True),
        ("loopback", "http://127.0.0.1", True),
        ("loopback", "https://[::1]:8443", True),
        ("loopback", "http://localhost.evil.org", False),
        ("loopback", "http://127.0.0.1.evil.org", False),
        ("loopback", "null", False),
        ("*", "https://anything.example", True),
        ("https://a.example https://b.example", "https://b.example", True),
        ("https://a.example", "https://a.example:8443", False),
        ("https://a.example:8443", "https://a.example:8443", True),
        ("https://a.example:443", "https://a.example", True),
        ("http://a.example:80", "http://a.example", True),
        ("http://a.example:443", "http://a.example:443", True),
        ("https://[2001:db8::1]:0443", "https://[2001:db8::1]", True),
    ],
)
def test_allowed_origins_of_a_setting(setting: str, origin: str, allowed: bool) -> None:
    cors = Cors.load({"LLMARINER_CORS_ORIGINS": setting})
    assert cors is not None
    assert cors.allows(origin.encode()) is allowed


@pytest.mark.parametrize(
    "value",
    [
        *("app.example.org", "https://app.example.org/", "https://*.example.org", "HTTPS://A.B", "null"),
        *("https://a.example:", "https://a.example:0", "https://a.example:65536", "https://a:1:2", "https://:443"),
    ],
)
def test_an_invalid_origin_fails_the_start(value: str, installation: Installation) -> None:
    application = load(CHECKOUT / "functions/models")
    application.use_context(Context({**installation.environment, "LLMARINER_CORS_ORIGINS": value}))
    with pytest.raises(ValueError, match="LLMARINER_CORS_ORIGINS"):
        application.prepare()


def test_the_wildcard_is_never_echoed_as_an_origin() -> None:
    """With `*`, responses do not depend on the origin, and browsers send no credentials."""
    cors = Cors.load({"LLMARINER_CORS_ORIGINS": "*"})
    said: list[Mapping[str, Any]] = []

    async def send(message: Any) -> None:
        said.append(message)

    async def run() -> None:
        assert cors is not None
        await cors.wrap_send(b"https://a.example", send)({"type": "http.response.start", "headers": []})

    asyncio.run(run())
    assert (b"access-control-allow-origin", b"*") in said[0]["headers"]
    assert b"access-control-allow-credentials" not in dict(said[0]["headers"])


@pytest.mark.parametrize(
    ("asked", "echoed"),
    [(b"authorization, content-type", True), (b"x" * 3000, False), (b"a\xff", False), (b"a\r\nset-cookie: b", False)],
)
def test_only_header_names_are_echoed(asked: bytes, echoed: bool) -> None:
    cors = Cors.load({"LLMARINER_CORS_ORIGINS": "https://a.example"})
    said: list[Mapping[str, Any]] = []

    async def send(message: Any) -> None:
        said.append(message)

    async def run() -> bool:
        assert cors is not None
        head = {
            b"origin": b"https://a.example",
            b"access-control-request-method": b"POST",
            b"access-control-request-headers": asked,
        }
        return await cors.preflight({"method": "OPTIONS"}, head, send)

    assert asyncio.run(run())
    assert dict(said[0]["headers"]).get(b"access-control-allow-headers") == (asked if echoed else None)
