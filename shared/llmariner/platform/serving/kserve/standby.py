"""Standby pods: engines that have imported vLLM before a request for a model arrives (images/engine/standby.py).

A pod that serves a model becomes a replica of the model's own Deployment: its labels are changed to what the Deployment's
ReplicaSet selects, so the standby ReplicaSet releases and replaces it, and the model's adopts it, as Kubernetes documents
for both. From then on it is an engine replica like any other, also when the model goes to sleep
(docs/decisions/0010-standby-engines-join-the-models-replica-set.md).

The pod's label and annotations record each step, so any process can continue after another.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from llmariner.http_client import Client, ConnectionFailed, ResponseFailed
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import ClusterError, Conflict, NotFound
from llmariner.platform.kube.resources import (
    CLUSTER_SERVING_RUNTIMES,
    DEPLOYMENTS,
    PODS,
    REPLICA_SETS,
)
from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.kserve.object_events import record_event
from llmariner.platform.serving.kserve.objects import (
    ENGINE_CONTAINER,
    INFERENCE_SERVICE_LABEL,
    MODEL_ANNOTATION,
    PRIORITY_LABELS,
    deployment_name,
    engine_spec,
    object_name,
)
from llmariner.platform.serving.kserve.phases import (
    RESERVED,
    RESERVED_AT_ANNOTATION,
    STANDBY_LABEL,
    TAKEN,
    is_terminating,
    reserved_at,
)
from llmariner.platform.serving.kserve.standby_matching import Match, match
from llmariner.settings import KServeSettings

__all__ = ["StandbyPods"]

_log = logging.getLogger(__name__)
_ARGUMENTS_ANNOTATION = "llmariner.ai/engine-arguments"
_DELETION_COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
_CONTROL_PORT = "control"
# On a model's first wake KServe has yet to create its Deployment.
_JOIN_TIMEOUT_SECONDS, _POLL_SECONDS = 20.0, 0.1
_ABANDONED_AFTER_SECONDS = 120.0

Body = dict[str, Any]


class StandbyPods:
    """Standby pods of one namespace. Without a token in the settings every call returns at once."""

    def __init__(self, cluster: Cluster, client: Client, settings: KServeSettings) -> None:
        self._cluster = cluster
        self._client = client
        self._settings = settings
        self._started_steps: set[tuple[str, str]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def reserve(self, model: EngineModel, adapters: Sequence[EngineModel]) -> Body | None:
        """Reserve a matching standby pod before the model is scaled up; None if there is none. Blocks.

        The pod already holds quota; with the model's priority it cannot be preempted by the model's own new pods.
        """
        if not self._settings.standby_token:
            return None
        wanted = engine_spec(model, adapters, self._settings)
        runtime = self._cluster.get(CLUSTER_SERVING_RUNTIMES, None, wanted.runtime)
        if runtime is None:
            return None
        for pod in self._cluster.list(PODS, self._settings.namespace, labels={STANDBY_LABEL: wanted.runtime}).items:
            if found := match(pod, model, adapters, wanted, runtime):
                try:
                    return self._reserve(pod, model, found)
                except (Conflict, NotFound):
                    continue  # another model reserved it, or it ended
        return None

    def reconcile(self, name: str, pods: Sequence[Body]) -> None:
        """Start the missing steps of a model's reserved standby pods: starting the engine, joining the ReplicaSet."""
        if not self._settings.standby_token:
            return
        for pod in pods:
            state = pod["metadata"].get("labels", {}).get(STANDBY_LABEL)
            if state not in (RESERVED, TAKEN) or is_terminating(pod):
                continue
            if _has_restarted(pod):
                # The restarted container has no model: the Deployment starts an engine of its own instead.
                self._start_step(pod, "drop", partial(self._give_up, pod, "its engine ended"))
                continue
            self._start_step(pod, "start", partial(self._start_engine, pod))
            if state == RESERVED:
                self._start_step(pod, "join", partial(self._join_replica_set, name, pod))

    def release(self, pod: Body) -> None:
        """Delete a reserved pod that is not needed. Blocks."""
        metadata = pod["metadata"]
        try:
            self._cluster.delete(PODS, metadata["namespace"], metadata["name"], uid=metadata["uid"])
        except Conflict:
            return  # it ended, and a new pod has its name

    def release_abandoned(self, now: float) -> None:
        """Delete reserved pods without a Deployment, after their model was deleted or put to sleep. Blocks."""
        if not self._settings.standby_token:
            return
        for label in (RESERVED, TAKEN):
            for pod in self._cluster.list(PODS, self._settings.namespace, labels={STANDBY_LABEL: label}).items:
                owned = any(owner.get("controller") for owner in pod["metadata"].get("ownerReferences", ()))
                if not owned and now - reserved_at(pod, now) > _ABANDONED_AFTER_SECONDS:
                    _log.warning("the standby pod %s has no model any more and is deleted", pod["metadata"]["name"])
                    self.release(pod)

    async def close(self) -> None:
        """Cancel running steps; another process continues them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _reserve(self, pod: Body, model: EngineModel, found: Match) -> Body:
        metadata = pod["metadata"]
        stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        labels = {STANDBY_LABEL: RESERVED, INFERENCE_SERVICE_LABEL: object_name(model, self._settings.namespace)}
        if set(PRIORITY_LABELS) & metadata["labels"].keys():
            labels |= PRIORITY_LABELS
        annotations = {
            MODEL_ANNOTATION: model.id,
            RESERVED_AT_ANNOTATION: stamp,
            _ARGUMENTS_ANNOTATION: json.dumps(found.arguments),
            _DELETION_COST_ANNOTATION: "100",
        }
        return self._cluster.merge_patch(
            PODS,
            metadata["namespace"],
            metadata["name"],
            {"metadata": {"labels": labels, "annotations": annotations}},
            resource_version=metadata["resourceVersion"],
        )

    async def _start_engine(self, pod: Body) -> None:
        """Have the pod start its engine; no effect if it has started. A pod that cannot is deleted."""
        metadata = pod["metadata"]
        body = {
            "model": metadata["annotations"][MODEL_ANNOTATION],
            "argv": json.loads(metadata["annotations"][_ARGUMENTS_ANNOTATION]),
        }
        headers = [
            (b"content-type", b"application/json"),
            (b"authorization", b"Bearer " + self._settings.standby_token.reveal().encode()),
        ]
        try:
            response = await self._client.request(
                _control_url(pod), "POST", "/start", headers=headers, body=json.dumps(body).encode()
            )
            reply = await response.read()
        except (ConnectionFailed, ResponseFailed) as error:
            await self._give_up(pod, f"it does not answer: {error}")
            return
        if response.status not in (202, 409):
            await self._give_up(pod, f"it answered {response.status}: {reply[:300].decode(errors='replace')}")

    async def _join_replica_set(self, name: str, pod: Body) -> None:
        """Make the pod a replica of the model, once the model's ReplicaSet needs one."""
        deadline = asyncio.get_running_loop().time() + _JOIN_TIMEOUT_SECONDS
        wanted = json.loads(pod["metadata"]["annotations"][_ARGUMENTS_ANNOTATION])
        while (replica_set := await asyncio.to_thread(self._replica_set, name, wanted)) is None:
            if asyncio.get_running_loop().time() > deadline:
                await self._give_up(pod, "the model's Deployment wants no replica")
                return
            await asyncio.sleep(_POLL_SECONDS)
        try:
            await asyncio.to_thread(self._relabel, name, pod, replica_set)
        except NotFound:
            return  # it ended
        except ClusterError as error:
            await self._give_up(pod, str(error))

    def _replica_set(self, name: str, arguments: Sequence[str]) -> Body | None:
        """The current ReplicaSet of the Deployment; None while KServe or Kubernetes have not created it."""
        deployment = self._cluster.get(DEPLOYMENTS, self._settings.namespace, deployment_name(name))
        if deployment is None or not _is_rolled_out(deployment, arguments):
            return None
        revision = deployment["metadata"].get("annotations", {}).get("deployment.kubernetes.io/revision")
        for each in self._cluster.list(
            REPLICA_SETS, self._settings.namespace, labels={INFERENCE_SERVICE_LABEL: name}
        ).items:
            metadata = each["metadata"]
            mine = any(owner["uid"] == deployment["metadata"]["uid"] for owner in metadata.get("ownerReferences", ()))
            current = metadata.get("annotations", {}).get("deployment.kubernetes.io/revision") == revision
            if mine and current and each["spec"].get("replicas", 1) > 0:
                return each
        return None

    def _relabel(self, name: str, pod: Body, replica_set: Body) -> None:
        template = replica_set["spec"]["template"]["metadata"].get("labels", {})
        # Kueue's labels stay: they name the queue from which the pod holds its quota.
        labels = {key: value for key, value in template.items() if not key.startswith("kueue.x-k8s.io/")}
        labels |= {**replica_set["spec"]["selector"]["matchLabels"], STANDBY_LABEL: TAKEN}
        metadata = pod["metadata"]
        self._cluster.merge_patch(PODS, metadata["namespace"], metadata["name"], {"metadata": {"labels": labels}})
        message = f"The standby pod {metadata['name']} serves the model."
        event = f"{metadata['name']}.standby-taken"
        record_event(self._cluster, self._settings.namespace, name, "Normal", "StandbyTaken", message, event)

    async def _give_up(self, pod: Body, why: str) -> None:
        _log.warning("the standby pod %s is given up: %s", pod["metadata"]["name"], why)
        await asyncio.to_thread(self.release, pod)

    def _start_step(self, pod: Body, step: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a step once per process. Steps are idempotent: another process may have started it too."""
        if (mark := (pod["metadata"]["uid"], step)) not in self._started_steps:
            self._started_steps.add(mark)
            task = asyncio.create_task(work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


def _is_rolled_out(deployment: Body, arguments: Sequence[str]) -> bool:
    """Whether the Deployment has the expected arguments and its controller has observed it."""
    metadata, spec = deployment["metadata"], deployment["spec"]
    if spec.get("replicas", 1) == 0 or deployment.get("status", {}).get("observedGeneration") != metadata.get(
        "generation"
    ):
        return False
    engine = next(each for each in spec["template"]["spec"]["containers"] if each["name"] == ENGINE_CONTAINER)
    # Only the paths of weights and adapters differ between its own pods and standby pods.
    own = [each for each in engine.get("args", ()) if "=/" not in each]
    return own == [each for each in arguments[2:] if "=/" not in each]


def _has_restarted(pod: Body) -> bool:
    """Whether a container of the pod has restarted."""
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return any(each.get("restartCount") for each in statuses)


def _control_url(pod: Body) -> str:
    ports = next(each for each in pod["spec"]["containers"] if each["name"] == ENGINE_CONTAINER)["ports"]
    port = next(each["containerPort"] for each in ports if each.get("name") == _CONTROL_PORT)
    return f"http://{pod['status']['podIP']}:{port}"
