"""A gateway instance keeps almost no memory for models that are no longer used."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from llmariner.gateway import state as module
from llmariner.gateway.control_plane.port import Changes, Key, LeaseRequest, LeaseResponse, ModelState
from llmariner.gateway.state import Gateway
from llmariner.settings import GatewaySettings, Secret


class AnyModelControlPlane:
    """A control plane with a model of every name."""

    async def model_state(self, model_id: str) -> ModelState:
        return ModelState(model_id, None, "generate", True, True, "ready", 1.0, 0.0, "", "http://e", 8, 0)

    async def authenticate_key(self, digest: str, organization: str | None, project: str | None) -> Key | None:
        raise NotImplementedError

    async def authenticate_user(
        self, token: str, organization: str | None, project: str | None, client_address: str | None
    ) -> Key | None:
        raise NotImplementedError

    async def wake(self, model_id: str) -> None:
        raise NotImplementedError

    async def report_waiting(self, instance: str, counts: Mapping[str, int]) -> None:
        raise NotImplementedError

    async def changes_since(self, cursor: str, limits_revision: int) -> Changes:
        raise NotImplementedError

    async def lease(self, ask: LeaseRequest) -> LeaseResponse:
        raise NotImplementedError

    async def record_events(self, events: Sequence[dict[str, Any]]) -> None:
        raise NotImplementedError

    async def record_last_used(self, last_used: dict[str, int]) -> None:
        raise NotImplementedError


def closing(model: str) -> dict[str, Any]:
    """A closing ledger event, as the metrics read it."""
    counts = {"prompt_tokens": 3, "completion_tokens": 2, "uncounted": True}
    times = {"at": 2.0, "admitted_at": 1.0, "first_token_seconds": 0.5}
    return {"model": model, "route": "chat", "outcome": "succeeded", "status": 200, **counts, **times}


def test_unused_models_are_dropped_and_used_ones_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_MODELS", 40)

    async def scenario() -> None:
        gateway = Gateway(AnyModelControlPlane(), GatewaySettings(), Secret("p" * 64))
        await gateway.state("busy")
        assert gateway.queue("busy").try_admit("tenant")
        gateway.metrics.observe(closing("busy"))
        for number in range(500):
            name = f"model-{number}"
            await gateway.state(name)
            room = gateway.queue(name)
            assert room.try_admit("tenant")
            room.release_slot("tenant")
            gateway.metrics.observe(closing(name))
        assert len(gateway._states) <= 41
        assert gateway._queues.keys() <= gateway._states.keys()
        assert gateway.queue("busy").running == 1
        text = gateway.metrics_text()
        assert 'gen_ai_request_model="busy"' in text
        assert 'gen_ai_request_model="model-499"' in text
        assert "model-0" not in text
        # Four histograms with some sixteen lines, and five more.
        assert text.count("\n") < 42 * 90 + 20

    asyncio.run(scenario())
