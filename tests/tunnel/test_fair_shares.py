"""What one person, one organization or one agent may take of a replica."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from llmariner.errors import RateLimited
from llmariner.platform.tunnel import TunnelLimits
from llmariner.platform.tunnel.websocket import open_websocket
from llmariner.sessions.open_requests import OpenRequests

from .installation import Installation, KubernetesApi, ask, running_agent, serving, until


@pytest.fixture
def installation(tmp_path: Path) -> Any:
    made = Installation(tmp_path)
    yield made
    made.context.database.close()


def test_one_key_of_a_cluster_does_not_fill_a_replica_with_connections(installation: Installation) -> None:
    async def scenario() -> int:
        async with serving(installation, KubernetesApi()) as (replica,):
            url = f"ws://127.0.0.1:{replica.port}/v1/sessions/agent"
            headers = {"authorization": f"Bearer {installation.registration_key}"}
            opened = [await open_websocket(url, headers, TunnelLimits(), proxy=None) for _ in range(20)]
            await asyncio.wait_for(asyncio.gather(*(each.wait_closed() for each in opened[:4])), 10)
            still_open = len([each for each in opened if each.close_code is None])
            await asyncio.gather(*(each.close() for each in opened))
            return still_open

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) == 16


def test_open_requests_of_a_person_and_of_an_organization_are_counted_while_they_are_open() -> None:
    requests = OpenRequests(per_user=2, per_organization=3)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(requests.hold("a", "org"))
        with pytest.raises(RateLimited, match="you have"), requests.hold("a", "org"):
            pass
        stack.enter_context(requests.hold("b", "org"))
        with pytest.raises(RateLimited, match="your organization has"), requests.hold("c", "org"):
            pass
        stack.enter_context(requests.hold("c", "other"))
    assert not requests._open


def test_one_watch_too_many_is_refused_as_kubectl_understands_it(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenRequests.__init__, "__defaults__", (1, 400))
    api, gate = KubernetesApi(), asyncio.Event()
    path = f"/v1/sessions/{installation.cluster.id}/api/v1/namespaces/team/pods"
    api.answers["/api/v1/namespaces/team/pods"] = [b"first\n", gate.wait()]

    async def scenario() -> None:
        async with serving(installation, api) as (replica,), running_agent(installation, api, replica):
            watch = asyncio.create_task(ask(replica, installation.key, f"{path}?watch=1"))
            await until(lambda: api.open == 1)
            status, body = await ask(replica, installation.key, path)
            assert (status, json.loads(body)["reason"]) == (429, "TooManyRequests")
            gate.set()
            assert (await watch)[0] == 200
            assert (await ask(replica, installation.key, path))[0] == 200

    asyncio.run(asyncio.wait_for(scenario(), 60))
