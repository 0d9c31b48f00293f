"""A request gets one response, whatever fails after it, and is charged."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from llmariner.gateway.control_plane.port import (
    Amounts,
    Changes,
    Key,
    LeaseGrant,
    LeaseRequest,
    LeaseResponse,
    ModelState,
    Rule,
)
from llmariner.gateway.metering.metrics import Metrics
from llmariner.gateway.metering.pricing import Price
from llmariner.gateway.requests.fields import CHAT_COMPLETIONS
from llmariner.gateway.requests.route_app import RouteApp
from llmariner.gateway.state import Gateway
from llmariner.settings import GatewaySettings, Secret

from .raw_engine import RawEngine, raw_engine
from .test_many_models import AnyModelControlPlane

BODY = b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":%b}'
WHOLE = b'{"id":"x","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
EVENTS = b"data: " + WHOLE + b"\n\ndata: [DONE]\n\n"


class _OneKeyControlPlane(AnyModelControlPlane):
    """Knows one key, and one model that is served at an endpoint."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    async def authenticate_key(self, digest: str, organization: str | None, project: str | None) -> Key:
        return Key("key", "p", "o", "u", frozenset({"api.inference.write"}), None, True)

    async def model_state(self, model_id: str) -> ModelState:
        return ModelState(model_id, None, "generate", True, True, "ready", 1.0, 0.0, "", self._endpoint, 8, 0)

    async def changes_since(self, cursor: str, rules: int) -> Changes:
        return Changes("1.1.", (), ())

    async def lease(self, ask: LeaseRequest) -> LeaseResponse:
        return LeaseResponse((), (), tuple(() for _ in ask.other_queries))


class _PricedControlPlane(_OneKeyControlPlane):
    """Its model has a price, and its caller's project a budget."""

    async def model_state(self, model_id: str) -> ModelState:
        return replace(await super().model_state(model_id), price=Price("price_1", 1_000_000, 1_000_000, 1_000_000, 0))

    async def lease(self, ask: LeaseRequest) -> LeaseResponse:
        budget = Rule("budget_1", "o", "project", "p", "*", {}, "total", 10**9)
        return LeaseResponse([LeaseGrant(budget.id, Amounts(money=10**9), Amounts(), None, 1)], [budget])


class _Failing(Metrics):
    def observe(self, event: dict[str, Any]) -> None:
        raise ValueError("what nobody thought of")


async def answer(gateway: Gateway, body: bytes, send: Any, *headers: tuple[bytes, bytes]) -> None:
    """Send a complete body without a declared length."""
    messages = [{"type": "http.request", "body": body}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        return await asyncio.get_running_loop().create_future()

    head = [(b"authorization", b"Bearer sk-x"), *headers]
    scope = {"type": "http", "method": "POST", "path": CHAT_COMPLETIONS.path, "headers": head}
    await RouteApp(gateway, CHAT_COMPLETIONS)(scope, receive, send)
    for task in (*gateway._tasks, *gateway._wake_loops.values()):
        task.cancel()
    gateway.engine_client.close()


@pytest.mark.parametrize("unsendable", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_after_a_response_is_no_second_response(stream: bool, unsendable: bool) -> None:
    async def reply(_: RawEngine, writer: asyncio.StreamWriter) -> None:
        said = EVENTS if stream else WHOLE
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(said), said))

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if unsendable and message["type"] == "http.response.body" and not message.get("more_body"):
            raise RuntimeError("the server can't take it")

    async def scenario() -> Gateway:
        async with raw_engine(reply) as engine:
            gateway = Gateway(_PricedControlPlane(engine.origin), GatewaySettings(), Secret("p" * 64))
            gateway.metrics = _Failing()
            await answer(gateway, BODY % (b"true" if stream else b"false"), send)
            return gateway

    gateway = asyncio.run(scenario())
    assert [message["status"] for message in sent if message["type"] == "http.response.start"] == [200]
    assert [message.get("more_body", False) for message in sent[1:]].count(False) == 1
    assert sent[-1].get("more_body", False) is False
    assert gateway.queue("m").running == 0
    assert gateway.body_budget.held == 0
    [budget] = gateway.limiter._limits_by_key["key"].default.budgets
    assert budget.reserved.money == 0
    # Its usage is unknown: it is charged its reservation, which exceeds the two tokens that were used.
    assert budget.used.money > len(BODY)


@pytest.mark.parametrize(("size", "status"), [(900, 200), (1100, 413)])
def test_a_body_without_a_declared_length_counts_by_its_bytes(size: int, status: int) -> None:
    held, sent = [], []

    async def send(message: Any) -> None:
        sent.append(message)

    async def scenario() -> None:
        async def reply(_: RawEngine, writer: asyncio.StreamWriter) -> None:
            held.append(gateway.body_budget.held)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(WHOLE), WHOLE))

        async with raw_engine(reply) as engine:
            gateway = Gateway(_OneKeyControlPlane(engine.origin), GatewaySettings(body_limit=1024), Secret("p" * 64))
            await answer(gateway, (BODY % b"false").ljust(size), send)
            assert gateway.body_budget.held == 0

    asyncio.run(scenario())
    assert sent[0]["status"] == status
    assert held == ([size] if status == 200 else [])


class _AsleepControlPlane(_OneKeyControlPlane):
    """Its model never wakes."""

    async def model_state(self, model_id: str) -> ModelState:
        return ModelState(model_id, None, "generate", True, True, "asleep", 0.0, 9.0, "", None, 0, 0)

    async def wake(self, model_id: str) -> None:
        pass


@pytest.mark.parametrize("asked", [b"0", b"3600", b"9" * 5000])
def test_no_request_waits_longer_than_the_platforms_limit(asked: bytes) -> None:
    sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def scenario() -> None:
        gateway = Gateway(_AsleepControlPlane(""), GatewaySettings(wait_limit=0.3), Secret("p" * 64))
        async with asyncio.timeout(20):
            await answer(gateway, BODY % b"false", send, (b"prefer", b"wait=" + asked))
        assert gateway.queue("m").waiting == 0

    asyncio.run(scenario())
    assert sent[0]["status"] == 503
