"""What every adapter of the serving port does, whoever runs its engines."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from llmariner.errors import ModelNotFound
from llmariner.platform.serving import Phase, Status

if TYPE_CHECKING:
    from serving.conftest import Adapter

ORDER = [Phase.ASLEEP, Phase.QUEUED, Phase.STARTING, Phase.LOADING, Phase.READY]


def test_an_unknown_model_is_not_found(adapter: Adapter) -> None:
    with pytest.raises(ModelNotFound):
        adapter.driven.status("nowhere")


def test_a_wake_returns_at_once_and_leads_to_an_engine_that_answers(adapter: Adapter) -> None:
    began = time.monotonic()
    adapter.driven.wake(adapter.model)
    assert time.monotonic() - began < 1
    status = adapter.driven.ready(adapter.model)
    assert (status.progress, status.message) == (1.0, "")
    assert status.capacity > 0
    assert adapter.driven.chat(adapter.model, status.endpoint, max_tokens=2)


def test_phases_follow_one_another_and_progress_never_falls(adapter: Adapter) -> None:
    driven = adapter.driven
    seen: list[Status] = []

    async def watching() -> None:
        await driven.serving.wake(adapter.model)
        status = await driven.serving.status(adapter.model)
        while not seen or seen[-1].phase is not Phase.READY:
            seen.append(status)
            await asyncio.sleep(0.01)
            status = await driven.serving.status(adapter.model)

    driven.do(asyncio.wait_for(watching(), driven.patience))
    places = [ORDER.index(status.phase) for status in seen]
    assert places == sorted(places)
    progress = [status.progress for status in seen]
    assert progress == sorted(progress)
    assert all(status.endpoint is None and status.capacity == 0 for status in seen if status.phase is not Phase.READY)
    if adapter.sleeps:
        assert len(set(places)) >= 3


def test_waking_twice_is_waking_once(adapter: Adapter) -> None:
    driven = adapter.driven

    async def together() -> None:
        await asyncio.gather(*(driven.serving.wake(adapter.model) for _ in range(5)))

    driven.do(together())
    first = driven.ready(adapter.model)
    driven.wake(adapter.model)
    driven.pass_time(0.3)
    assert driven.status(adapter.model).endpoint == first.endpoint


def test_sleeping_twice_is_sleeping_once_and_a_wake_brings_it_back(adapter: Adapter) -> None:
    driven = adapter.driven
    driven.sleep(adapter.model)
    driven.ready(adapter.model)
    driven.sleep(adapter.model)
    driven.sleep(adapter.model)
    expected = Phase.ASLEEP if adapter.sleeps else Phase.READY
    assert driven.status(adapter.model).phase is expected
    assert driven.chat(adapter.model, driven.ready(adapter.model).endpoint, max_tokens=2)


def test_what_is_not_asleep_is_listed(adapter: Adapter) -> None:
    driven = adapter.driven
    driven.ready(adapter.model)
    assert driven.do(driven.serving.statuses())[adapter.model].phase is Phase.READY
    driven.sleep(adapter.model)
    assert (adapter.model in driven.do(driven.serving.statuses())) is not adapter.sleeps


def test_a_status_survives_the_wire(adapter: Adapter) -> None:
    status = adapter.driven.ready(adapter.model)
    assert Status.from_json(status.to_json()) == status
