"""Metadata of an engine's model: fetched with a timeout, and validated."""

from __future__ import annotations

import asyncio

import pytest

from llmariner.gateway.admission import chat_template as template_module
from llmariner.gateway.admission import context_length as context_module
from llmariner.gateway.admission.chat_template import DEFAULT_TEMPLATE_TOKENS, TemplateTokens, fetch_template_tokens
from llmariner.gateway.admission.context_length import fetch_context_length
from llmariner.http_client import Client

from .raw_engine import RawEngine, raw_engine


def asked(body: bytes | None, status: bytes = b"200 OK") -> tuple[TemplateTokens, int]:
    """What is taken from an engine that answers everything alike; None: it says nothing."""

    async def reply(engine: RawEngine, writer: asyncio.StreamWriter) -> None:
        if body is None:
            await asyncio.sleep(60)
        else:
            writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))

    async def scenario() -> tuple[TemplateTokens, int]:
        client = Client()
        async with raw_engine(reply) as engine:
            found = await asyncio.gather(
                fetch_template_tokens(client, engine.origin, "m"), fetch_context_length(client, engine.origin, "m")
            )
        client.close()
        return found[0], found[1]

    return asyncio.run(asyncio.wait_for(scenario(), 30))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"count":0,"data":[]}',
        b'{"count":-7,"data":[{"id":"m","max_model_len":-7}]}',
        b'{"count":true,"data":[{"id":"m","max_model_len":true}]}',
        b'{"count":1e9,"data":[{"id":"m","max_model_len":1e9}]}',
        b'{"count":99999999999,"data":[{"id":"m","max_model_len":99999999999}]}',
        b'{"count":"12","data":[7]}',
        b'{"count":[],"data":{}}',
        b" " * (1024 * 1024 + 1),
    ],
)
def test_invalid_numbers_are_ignored(body: bytes) -> None:
    assert asked(body) == (DEFAULT_TEMPLATE_TOKENS, 0)


def test_an_engine_without_the_route_has_default_metadata() -> None:
    assert asked(b'{"detail":"Not Found"}', b"404 Not Found") == (DEFAULT_TEMPLATE_TOKENS, 0)


def test_an_unresponsive_engine_delays_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(context_module, "_TIMEOUT_SECONDS", 0.1)
    assert asked(None) == (DEFAULT_TEMPLATE_TOKENS, 0)


def test_reported_metadata_is_used() -> None:
    assert asked(b'{"count":31,"data":[{"id":"m","max_model_len":4096}]}') == (TemplateTokens(31, 0), 4096)
