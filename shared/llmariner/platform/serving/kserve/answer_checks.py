"""Records the result of each engine's answer check at its start as an event of the InferenceService.

An engine whose answer differs from the expected one still serves; a warning event of the InferenceService reports it
(docs/decisions/0021-cpu-engines-check-an-expected-answer.md).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from llmariner.errors import PlatformError
from llmariner.http_client import Client, ConnectionFailed, ResponseFailed
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import ClusterError
from llmariner.platform.serving.kserve.addresses import EngineAddresses
from llmariner.platform.serving.kserve.object_events import record_event

__all__ = ["AnswerChecks"]

_log = logging.getLogger(__name__)
_PATH = "/llmariner/answer"
_TIMEOUT_SECONDS = 15.0
_MAX_ANSWER_BYTES = 65536
# A large model may take minutes for its first answer.
_PAUSES = (0.0, *(2.0**power for power in range(-1, 8)))

Body = dict[str, Any]


class AnswerChecks:
    """Checks each engine of one namespace once per process."""

    def __init__(self, cluster: Cluster, client: Client, namespace: str, addresses: EngineAddresses) -> None:
        self._cluster = cluster
        self._client = client
        self._namespace = namespace
        self._addresses = addresses
        self._checked_pods: dict[str, set[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def check(self, name: str, pods: Sequence[Body]) -> None:
        """Check the ready pods of an InferenceService that are new since the last call; returns at once."""
        checked = self._checked_pods.get(name, set())
        self._checked_pods[name] = {pod["metadata"]["uid"] for pod in pods}
        for pod in pods:
            if pod["metadata"]["uid"] not in checked:
                task = asyncio.create_task(self._check(name, pod))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def retain_only(self, names: Collection[str]) -> None:
        """Drop the state of all InferenceServices but these."""
        for name in self._checked_pods.keys() - names:
            del self._checked_pods[name]

    async def close(self) -> None:
        """Cancel the checks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _check(self, name: str, pod: Body) -> None:
        answer: Body = {}
        for pause in _PAUSES:
            await asyncio.sleep(pause)
            answer = await self._fetch(self._addresses.of_pod(pod))
            if answer.get("answer") != "pending":
                break
        if answer.get("answer") != "differs":
            return
        pod_name, reason = pod["metadata"]["name"], str(answer.get("reason"))[:800]
        message, event = f"The pod {pod_name} answers otherwise than expected: {reason}", f"{pod_name}.first-answer"
        recording = partial(
            record_event, self._cluster, self._namespace, name, "Warning", "UnexpectedAnswer", message, event
        )
        try:
            if await asyncio.to_thread(recording):
                _log.warning("%s: %s", name, message)
        except (ClusterError, PlatformError) as error:
            _log.warning("%s: %s (an event could not be recorded: %s)", name, message, error)

    async def _fetch(self, engine: str) -> Body:
        """The engine's check result; empty when it sends none."""
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                response = await self._client.request(engine, "GET", _PATH)
                raw = await response.read(_MAX_ANSWER_BYTES)
            answer = json.loads(raw) if response.status == 200 else {}
        except (ConnectionFailed, ResponseFailed, TimeoutError, ValueError, RecursionError):
            return {}
        return answer if isinstance(answer, dict) else {}
