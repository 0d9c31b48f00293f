"""Repeated single-valued headers are rejected on every route."""

from __future__ import annotations

from typing import Any

import pytest

from llmariner.http.middleware.stack import MiddlewareStack

from .conftest import Ask
from .declared_routes import ROUTES, DeclaredRoute
from .http_calls import HttpRequest, HttpResponse, InProcessClient, assert_error
from .installation import Installation

Head = list[tuple[bytes, bytes]]


class RepeatedHeadersClient:
    """An application that gets repeated headers."""

    def __init__(self, application: Any, more: Head) -> None:
        self._application, self._more = application, more

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._application({**scope, "headers": [*self._more, *scope["headers"]]}, receive, send)


def asked(
    in_process: InProcessClient, application: Any, http_request: HttpRequest, *more: tuple[bytes, bytes]
) -> HttpResponse:
    return in_process.send(RepeatedHeadersClient(application, list(more)), http_request)


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_repeated_credentials_are_rejected(
    route: DeclaredRoute, installation: Installation, in_process: InProcessClient
) -> None:
    """For any order of the valid and the invalid one."""
    own = installation.credential(route.function)
    application = installation.application(route.function)
    for first, last in ((own, "sk-unknown"), ("sk-unknown", own), (own, own)):
        http_request = HttpRequest(route.method, route.example, None, {"authorization": f"Bearer {last}"})
        answer = asked(in_process, application, http_request, (b"authorization", b"Bearer " + first.encode()))
        assert_error(answer, 400, "duplicate_header")
        assert "'Authorization'" in answer.error["message"]


@pytest.mark.parametrize("name", ["openai-organization", "openai-project"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions"])
def test_repeated_selections_are_rejected(
    name: str, path: str, router: Any, in_process: InProcessClient, admin: dict[str, str], installation: Installation
) -> None:
    head = {**admin, name: installation.owner.organization_id}
    answer = asked(in_process, router, HttpRequest("POST", path, {}, head), (name.encode(), b"proj_2"))
    assert_error(answer, 400, "duplicate_header")


def test_list_valued_headers_may_be_repeated(ask: Ask, in_process: InProcessClient, installation: Installation) -> None:
    head = {"authorization": f"Bearer {installation.keys.admin}", "accept": "*/*"}
    http_request = HttpRequest("GET", "/v1/users:getSelf", None, head)
    answer = asked(in_process, installation.application("users"), http_request, (b"accept", b"text/html"))
    assert answer.status == 200


def test_middleware_without_work_passes_requests_straight_through() -> None:
    """Requests with one of each go straight to the application."""
    reached: list[Any] = []

    def application(scope: Any, _receive: Any, _send: Any) -> Any:
        reached.append(scope)
        return None

    scope = {
        "type": "http",
        "method": "GET",
        "raw_path": b"/v1/models",
        "headers": [(b"authorization", b"Bearer x"), (b"openai-project", b"p"), (b"openai-organization", b"o")],
    }
    MiddlewareStack(application, None)(scope, None, None)  # type: ignore[arg-type]
    assert reached == [scope]
