"""Replicas of `functions/sessions`: any of them serves a cluster, and one that is killed ends its own streams alone."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from llmariner.platform.tunnel import TunnelLimits
from llmariner.sessions.peers import Peers
from llmariner.sessions.tables import tunnel_connections

from .installation import Installation, KubernetesApi, ask, open_exec, running_agent, serving, until


@pytest.fixture
def installation(tmp_path: Path) -> Any:
    made = Installation(tmp_path)
    yield made
    made.context.database.close()


def pods(installation: Installation) -> str:
    return f"/v1/sessions/{installation.cluster.id}/api/v1/namespaces/team/pods"


def leases(installation: Installation) -> list[str]:
    with installation.context.database.read() as session:
        return [row.replica_url for row in session.rows(select(tunnel_connections.c.replica_url))]


def test_a_replica_without_a_connection_serves_through_one_that_has_it(installation: Installation) -> None:
    api = KubernetesApi()

    async def scenario() -> None:
        async with serving(installation, api, replicas=2) as (first, second), running_agent(installation, api, first):
            await until(lambda: leases(installation) == [first.url])
            for replica in (first, second):
                assert await ask(replica, installation.key, pods(installation)) == (
                    200,
                    b'{"kind":"PodList","items":[]}',
                )
            async with open_exec(second, installation.key, installation.cluster.id) as websocket:
                for message in (b"\x00ls\n", b"\x01" + bytes(300_000)):
                    await websocket.send(message)
                    assert await asyncio.wait_for(websocket.recv(), 10) == message
            await until(lambda: api.open == 0)
        assert leases(installation) == []

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert [request["method"] for request in api.requests] == ["GET"] * 3


def test_an_agent_connects_again_before_the_longest_request_of_the_proxies_on_its_way(
    installation: Installation,
) -> None:
    installation.environment["LLMARINER_TUNNEL_RECONNECT_SECONDS"] = "20"
    api = KubernetesApi()

    async def scenario() -> None:
        async with serving(installation, api) as (replica,), running_agent(installation, api, replica) as connections:
            left = connections._open[0].reconnect_at - asyncio.get_running_loop().time()
            assert 10 < left <= 20

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_replica_that_was_killed_costs_its_streams_alone(installation: Installation) -> None:
    api = KubernetesApi()

    async def scenario() -> None:
        async with (
            serving(installation, api, replicas=2) as (first, second),
            running_agent(installation, api, first),
            running_agent(installation, api, second),
            open_exec(second, installation.key, installation.cluster.id) as kept,
        ):
            async with open_exec(first, installation.key, installation.cluster.id) as lost:
                await first.stop()
                await asyncio.wait_for(lost.wait_closed(), 10)
            await kept.send(b"still here")
            assert await asyncio.wait_for(kept.recv(), 10) == b"still here"
            assert (await ask(second, installation.key, pods(installation)))[0] == 200

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_the_lease_of_a_killed_replica_delays_no_request(installation: Installation) -> None:
    api = KubernetesApi()

    async def scenario() -> float:
        async with (
            serving(installation, api, replicas=3) as (first, second, third),
            running_agent(installation, api, third),
        ):
            with installation.context.database.write() as session:
                row = {"cluster_id": installation.cluster.id, "expires_at": time.time() + 30}
                # One is gone; the other runs and has no connection any more.
                session.add(tunnel_connections, id="gone", replica_url="http://127.0.0.1:9", **row)
                session.add(tunnel_connections, id="empty", replica_url=second.url, **row)
            began = time.perf_counter()
            for _ in range(8):  # in any order of the three
                assert (await ask(first, installation.key, pods(installation)))[0] == 200
            return time.perf_counter() - began

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) < 30


def test_a_connection_that_is_replaced_keeps_its_streams(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = KubernetesApi()
    monkeypatch.setattr("llmariner.agent.tunnel.connections._MIN_RECONNECT", 1.0)

    async def scenario() -> None:
        async with serving(installation, api) as (replica,), running_agent(installation, api, replica) as agent:
            old = agent._open[0]
            async with open_exec(replica, installation.key, installation.cluster.id) as websocket:
                old.drained.set()  # as when its time is over
                await until(lambda: agent._open.get(0) is not None and agent._open[0] is not old)
                await until(lambda: len(leases(installation)) == 2)
                for _ in range(3):
                    await websocket.send(b"same stream")
                    assert await asyncio.wait_for(websocket.recv(), 10) == b"same stream"
                    assert (await ask(replica, installation.key, pods(installation)))[0] == 200
                assert not old.task.done()
            await until(old.task.done)  # its last stream has ended
            await until(lambda: len(leases(installation)) == 1)

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_an_agent_prefers_different_replicas_and_comes_back_to_one_that_returns(installation: Installation) -> None:
    api = KubernetesApi()

    async def scenario() -> None:
        async with (
            serving(installation, api) as (replica,),
            running_agent(installation, api, replica, wanted=2) as agent,
        ):
            assert agent.replicas == {replica.url}  # there is one alone
            assert agent.is_open
            for connection in list(replica.server.connections):
                connection.abort()
            await until(lambda: not agent._open or all(each.task.done() for each in agent._open.values()))
            await until(lambda: len(agent._open) == 2)
            assert (await ask(replica, installation.key, pods(installation)))[0] == 200

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_addresses_of_replicas_that_are_gone_are_forgotten() -> None:
    async def scenario() -> None:
        peers = Peers(lambda: "token", TunnelLimits())
        for _ in range(2):
            with pytest.raises(OSError, match="9"):
                await peers.connection("http://127.0.0.1:9")
        assert not peers._open

    asyncio.run(asyncio.wait_for(scenario(), 30))
