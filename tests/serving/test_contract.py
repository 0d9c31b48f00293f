"""The contract of every adapter of the serving port."""

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
        adapter.driver.status("nowhere")


@pytest.mark.quiet
def test_a_wake_returns_at_once_and_leads_to_a_working_engine(adapter: Adapter) -> None:
    began = time.monotonic()
    adapter.driver.wake(adapter.model)
    assert time.monotonic() - began < 1
    status = adapter.driver.ready(adapter.model)
    assert (status.progress, status.message) == (1.0, "")
    assert status.capacity > 0
    assert adapter.driver.chat(adapter.model, status.endpoint, max_tokens=2)


def test_phases_are_in_order_and_progress_never_decreases(adapter: Adapter) -> None:
    driver = adapter.driver
    seen: list[Status] = []

    async def watching() -> None:
        await driver.serving.wake(adapter.model)
        status = await driver.serving.status(adapter.model)
        while not seen or seen[-1].phase is not Phase.READY:
            seen.append(status)
            await asyncio.sleep(0.01)
            status = await driver.serving.status(adapter.model)

    driver.run(asyncio.wait_for(watching(), driver.timeout_seconds))
    places = [ORDER.index(status.phase) for status in seen]
    assert places == sorted(places)
    progress = [status.progress for status in seen]
    assert progress == sorted(progress)
    assert all(status.endpoint is None and status.capacity == 0 for status in seen if status.phase is not Phase.READY)
    if adapter.sleeps:
        assert len(set(places)) >= 3


def test_waking_is_idempotent(adapter: Adapter) -> None:
    driver = adapter.driver

    async def together() -> None:
        await asyncio.gather(*(driver.serving.wake(adapter.model) for _ in range(5)))

    driver.run(together())
    first = driver.ready(adapter.model)
    driver.wake(adapter.model)
    driver.run_loop_for(0.3)
    assert driver.status(adapter.model).endpoint == first.endpoint


def test_sleeping_is_idempotent_and_reversible(adapter: Adapter) -> None:
    driver = adapter.driver
    driver.sleep(adapter.model)
    driver.ready(adapter.model)
    driver.sleep(adapter.model)
    driver.sleep(adapter.model)
    expected = Phase.ASLEEP if adapter.sleeps else Phase.READY
    assert driver.status(adapter.model).phase is expected
    assert driver.chat(adapter.model, driver.ready(adapter.model).endpoint, max_tokens=2)


def test_models_that_are_not_asleep_are_listed(adapter: Adapter) -> None:
    driver = adapter.driver
    driver.ready(adapter.model)
    assert driver.run(driver.serving.statuses())[adapter.model].phase is Phase.READY
    driver.sleep(adapter.model)
    assert (adapter.model in driver.run(driver.serving.statuses())) is not adapter.sleeps


def test_a_status_survives_serialization(adapter: Adapter) -> None:
    status = adapter.driver.ready(adapter.model)
    assert Status.from_json(status.to_json()) == status
