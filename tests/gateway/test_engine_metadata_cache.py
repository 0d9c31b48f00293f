"""Metadata of an engine's model is fetched once for concurrent requests, and again after a change of the model."""

from __future__ import annotations

import asyncio

from llmariner.gateway.admission.chat_template import TemplateTokens
from llmariner.gateway.control_plane.port import ModelState
from llmariner.gateway.state import Gateway
from llmariner.settings import GatewaySettings, Secret

from .raw_engine import RawEngine, raw_engine
from .running_platform import soon


def gateway() -> Gateway:
    return Gateway(None, GatewaySettings(), Secret("p" * 64))  # type: ignore[arg-type]


def state(endpoint: str) -> ModelState:
    return ModelState("m", None, "generate", True, True, "ready", 1.0, None, "", endpoint, 8, 0)


def test_engine_metadata_is_fetched_again_after_a_model_change() -> None:
    known = gateway()
    known._template_tokens |= {"m": TemplateTokens(10, 20), "other": TemplateTokens(1, 2)}
    known._context_lengths |= {"m": 4096, "other": 2048}
    known.invalidate("m")
    assert (known.cached_template_tokens("m"), known.cached_context_length("m")) == (None, None)
    assert (known.cached_template_tokens("other"), known.cached_context_length("other")) == (TemplateTokens(1, 2), 2048)


def test_a_context_length_is_fetched_once_and_invalidated_by_a_change() -> None:
    lengths = iter((100, 200))

    async def reply(engine: RawEngine, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        body = b'{"data":[{"id":"m","max_model_len":%d}]}' % next(lengths)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async def scenario() -> None:
        found = gateway()
        async with raw_engine(reply) as engine:
            requests = [asyncio.create_task(found.context_length("m", state(engine.origin))) for _ in range(20)]
            await soon(lambda: engine.requests)
            found.invalidate("m")
            assert set(await asyncio.gather(*requests)) == {100}
            assert found.cached_context_length("m") is None, "it may be of the engine of before"
            assert await found.context_length("m", state(engine.origin)) == 200
            assert found.cached_context_length("m") == 200
            assert len(engine.requests) == 2
        found.engine_client.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_template_tokens_are_invalidated_by_a_change() -> None:
    async def reply(engine: RawEngine, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        body = b'{"count":50}'
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async def scenario() -> None:
        found = gateway()
        async with raw_engine(reply) as engine:
            requests = asyncio.create_task(found.template_tokens("m", "m", state(engine.origin)))
            await soon(lambda: engine.requests)
            found.invalidate("m")
            assert await requests == TemplateTokens(50, 0)
            assert found.cached_template_tokens("m") is None
            assert await found.template_tokens("m", "m", state(engine.origin)) == found.cached_template_tokens("m")
        found.engine_client.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))
