"""The connections of agents at this replica, and the way to those at other replicas."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from llmariner.clusters.registration_keys import RegisteredAgent, RegistrationKeys
from llmariner.errors import Unavailable
from llmariner.identifiers import new_id
from llmariner.platform.tunnel import Http2Connection, Stream, TooManyStreams, TunnelClosed, TunnelLimits
from llmariner.platform.tunnel.http2 import Socket
from llmariner.platform.tunnel.stream import Headers
from llmariner.sessions.connection_leases import LEASE_SECONDS, ConnectionLeases
from llmariner.sessions.peers import Peers
from llmariner.sessions.stream_copy import copy_between

__all__ = ["CLUSTER_FIELD", "DRAIN", "Tunnels", "not_connected"]

_log = logging.getLogger(__name__)
DRAIN = "drain"
"""A text message of either side: send no new request on this connection, it is closed when the last stream has ended."""
CLUSTER_FIELD = b"llmariner-cluster"
"""The field of a request between replicas that names the cluster."""
_KEY_CHECK_SECONDS = 2.0
_RENEW_SECONDS = LEASE_SECONDS / 3
# Of one cluster's agent here. It opens two, and some are drained; those that an agent lost end when a ping has no answer.
_MAX_CONNECTIONS = 16


@dataclass(eq=False)
class _Agent:
    """An open connection of an agent."""

    id: str
    cluster_id: str
    digest: str
    connection: Http2Connection
    task: asyncio.Task[None]
    draining: bool = False


class Tunnels:
    """One per process. `replica_url`: where other replicas reach this one."""

    def __init__(
        self, leases: ConnectionLeases, keys: RegistrationKeys, peers: Peers, replica_url: str, limits: TunnelLimits
    ) -> None:
        self.limits = limits
        self.replica_url = replica_url
        self._leases = leases
        self._keys = keys
        self._peers = peers
        self._agents: dict[str, list[_Agent]] = {}
        self._background: asyncio.Task[None] | None = None

    def connections(self, cluster_id: str) -> int:
        """How many connections of a cluster's agent are open here."""
        return len(self._agents.get(cluster_id, ()))

    async def serve_agent(
        self, holder: RegisteredAgent, socket: Socket, on_shutdown: Callable[[Callable[[], None]], None]
    ) -> None:
        """Use an agent's connection until it ends. `on_shutdown` gets what is to be called when this process shuts down."""
        id_, cluster_id = new_id("tunnel"), holder.cluster.id
        connection = Http2Connection(
            socket, limits=self.limits, on_text=lambda text: self._drain(agent) if text == DRAIN else None
        )
        agent = _Agent(id_, cluster_id, holder.digest, connection, asyncio.create_task(connection.run()))
        on_shutdown(lambda: self._send_drain(agent, socket))
        self._add(agent)
        try:
            await asyncio.to_thread(self._leases.add, id_, cluster_id, self.replica_url)
            self._start_background()
            await asyncio.wait([agent.task])
        finally:
            self._forget(agent)
            agent.task.cancel()
            await asyncio.gather(agent.task, return_exceptions=True)
            await asyncio.to_thread(self._leases.remove, id_)

    async def serve_peer(self, socket: Socket) -> None:
        """Serve requests of another replica on its connection until that ends."""
        await Http2Connection(socket, handler=self._serve_peer_stream, limits=self.limits).run()

    async def request(self, cluster_id: str, headers: Headers, *, end: bool, tried: set[str]) -> Stream:
        """Send a request's head to a cluster's agent, here or through another replica. Unavailable if none is connected.

        `tried`: addresses of replicas that failed before; the one that is used is added.
        """
        if (stream := self._local(cluster_id, headers, end=end)) is not None:
            return stream
        replicas = [
            url
            for url in await asyncio.to_thread(self._leases.replicas, cluster_id)
            if url != self.replica_url and url not in tried
        ]
        random.shuffle(replicas)
        for url in replicas:
            tried.add(url)
            try:
                connection = await self._peers.connection(url)
                return connection.request([*headers, (CLUSTER_FIELD, cluster_id.encode())], end=end)
            except (OSError, TimeoutError, TunnelClosed, TooManyStreams) as error:
                _log.info("no way to the replica %s: %s: %s", url, type(error).__name__, error)
        raise not_connected()

    def _local(self, cluster_id: str, headers: Headers, *, end: bool) -> Stream | None:
        agents = [
            each for each in self._agents.get(cluster_id, ()) if not each.draining and not each.connection.is_closed
        ]
        for agent in sorted(agents, key=lambda each: len(each.connection.streams)):
            with contextlib.suppress(TooManyStreams, TunnelClosed):
                return agent.connection.request(headers, end=end)
        return None

    async def _serve_peer_stream(self, incoming: Stream) -> None:
        headers = [each for each in incoming.request if each[0] != CLUSTER_FIELD]
        outgoing = self._local(incoming.field(CLUSTER_FIELD).decode("latin-1"), headers, end=False)
        if outgoing is None:
            incoming.respond(503, [(b"llmariner-tunnel", b"no-connection")], end=True)
            return
        await copy_between(incoming, outgoing)

    # --- the lives of connections ---

    def _drain(self, agent: _Agent) -> None:
        """Send nothing new on a connection, and close it when its last stream has ended."""
        if not agent.draining:
            agent.draining = True
            task = asyncio.create_task(agent.connection.idle())
            task.add_done_callback(lambda _: agent.connection.close())

    def _send_drain(self, agent: _Agent, socket: Socket) -> None:
        """Ask the agent for a connection elsewhere, and drain this one."""
        task = asyncio.create_task(socket.send(DRAIN))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        task.add_done_callback(lambda _: self._drain(agent))

    def _add(self, agent: _Agent) -> None:
        """Use a connection; a cluster with too many loses its oldest, so that nobody fills this replica with a key."""
        agents = self._agents.setdefault(agent.cluster_id, [])
        agents.append(agent)
        if len(agents) > _MAX_CONNECTIONS:
            oldest = agents[0]
            _log.warning("cluster %s has too many connections: the oldest is closed", oldest.cluster_id)
            self._forget(oldest)
            oldest.task.cancel()

    def _forget(self, agent: _Agent) -> None:
        agents = self._agents.get(agent.cluster_id, [])
        if agent in agents:
            agents.remove(agent)
        if not agents:
            self._agents.pop(agent.cluster_id, None)

    def _start_background(self) -> None:
        if self._background is None or self._background.done():
            self._background = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """While connections are open: close those whose keys are no longer valid, and renew the leases of the others."""
        since_renewal = 0.0
        while self._agents:
            await asyncio.sleep(_KEY_CHECK_SECONDS)
            since_renewal += _KEY_CHECK_SECONDS
            try:
                await self._close_revoked()
                if since_renewal >= _RENEW_SECONDS:
                    await asyncio.to_thread(self._leases.renew, [each.id for each in self._all()])
                    since_renewal = 0.0
            except Exception:
                _log.exception("checking the connections of agents failed; it is tried again")

    async def _close_revoked(self) -> None:
        agents = self._all()
        valid = await asyncio.to_thread(self._keys.valid, {each.digest for each in agents})
        for agent in agents:
            if agent.digest not in valid:
                _log.info("the key of cluster %s was revoked: its connection is closed", agent.cluster_id)
                self._forget(agent)
                agent.connection.close()

    def _all(self) -> list[_Agent]:
        return [agent for agents in self._agents.values() for agent in agents]


def not_connected() -> Unavailable:
    """For a cluster that no agent connects."""
    return Unavailable(
        "No agent of this cluster is connected. `llma admin clusters status` shows when it was last seen; it connects again "
        "by itself while it runs there.",
        code="cluster_not_connected",
        headers={"retry-after": "5"},
    )
