"""Standby pods: engines that have imported vLLM before anybody asks for a model (images/engine/standby.py).

A pod that takes a model becomes a replica of the model's own Deployment: its labels are changed to what the Deployment's
ReplicaSet selects, so the standby's lets it go and makes another, and the model's adopts it, as Kubernetes documents for
both. From then on KServe's objects tell of it as of any engine; put to sleep, it ends like one
(docs/decisions/0010-standby-engines-join-the-models-replica-set.md).

Every step is observed in the pod's label and annotations, so any process goes on where another ended.
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
# A model that wakes for the first time has no Deployment before KServe has made it.
_JOIN_TIMEOUT_SECONDS, _POLL_SECONDS = 20.0, 0.1
_ABANDONED_AFTER_SECONDS = 120.0

Body = dict[str, Any]


class StandbyPods:
    """Of one namespace. Without a token there are none, and every call returns at once."""

    def __init__(self, cluster: Cluster, client: Client, settings: KServeSettings) -> None:
        self._cluster = cluster
        self._client = client
        self._settings = settings
        self._started_steps: set[tuple[str, str]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def reserve(self, model: EngineModel, adapters: Sequence[EngineModel]) -> Body | None:
        """Take a free pod that fits for a model, before the model is scaled up; None: there is none. Blocks.

        Before, since it holds quota: at the model's own priority nothing that comes with the model can drive it out.
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
                    continue  # another model was quicker, or it ended
        return None

    def reconcile(self, name: str, pods: Sequence[Body]) -> None:
        """See to those of a model's pods that came from the standby: each is told its model, and joins the replicas."""
        if not self._settings.standby_token:
            return
        for pod in pods:
            state = pod["metadata"].get("labels", {}).get(STANDBY_LABEL)
            if state not in (RESERVED, TAKEN) or is_terminating(pod):
                continue
            if _has_restarted(pod):
                # Its container runs again, and knows of no model: let the Deployment start an engine of its own.
                self._start_step(pod, "drop", partial(self._give_up, pod, "its engine ended"))
                continue
            self._start_step(pod, "start", partial(self._start_engine, pod))
            if state == RESERVED:
                self._start_step(pod, "join", partial(self._join_replica_set, name, pod))

    def release(self, pod: Body) -> None:
        """Give up a pod that was reserved in vain. Blocks."""
        metadata = pod["metadata"]
        try:
            self._cluster.delete(PODS, metadata["namespace"], metadata["name"], uid=metadata["uid"])
        except Conflict:
            return  # it ended, and another has its name

    def release_abandoned(self, now: float) -> None:
        """End pods that were taken and belong to no Deployment: their model was deleted meanwhile, or slept. Blocks."""
        if not self._settings.standby_token:
            return
        for label in (RESERVED, TAKEN):
            for pod in self._cluster.list(PODS, self._settings.namespace, labels={STANDBY_LABEL: label}).items:
                owned = any(owner.get("controller") for owner in pod["metadata"].get("ownerReferences", ()))
                if not owned and now - reserved_at(pod, now) > _ABANDONED_AFTER_SECONDS:
                    _log.warning("the standby pod %s was left by its model and ends", pod["metadata"]["name"])
                    self.release(pod)

    async def close(self) -> None:
        """Stop attending; another process goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _reserve(self, pod: Body, model: EngineModel, found: Match) -> Body:
        metadata = pod["metadata"]
        stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        labels = {STANDBY_LABEL: RESERVED, INFERENCE_SERVICE_LABEL: object_name(model)}
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
        """Have the pod start its engine. One that has it already says so, and one that can't is given up."""
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
            said = await response.read()
        except (ConnectionFailed, ResponseFailed) as error:
            await self._give_up(pod, f"it does not answer: {error}")
            return
        if response.status not in (202, 409):
            await self._give_up(pod, f"it answered {response.status}: {said[:300].decode(errors='replace')}")

    async def _join_replica_set(self, name: str, pod: Body) -> None:
        """Make the pod a replica of the model, as soon as the model's ReplicaSet wants one."""
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
        """The ReplicaSet of the Deployment as it is now; None while KServe or Kubernetes have not come to that."""
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
        # Kueue's labels stay: they say from which queue the pod holds its quota.
        labels = {key: value for key, value in template.items() if not key.startswith("kueue.x-k8s.io/")}
        labels |= {**replica_set["spec"]["selector"]["matchLabels"], STANDBY_LABEL: TAKEN}
        metadata = pod["metadata"]
        self._cluster.merge_patch(PODS, metadata["namespace"], metadata["name"], {"metadata": {"labels": labels}})
        said = f"The standby pod {metadata['name']} serves the model."
        event = f"{metadata['name']}.standby-taken"
        record_event(self._cluster, self._settings.namespace, name, "Normal", "StandbyTaken", said, event)

    async def _give_up(self, pod: Body, why: str) -> None:
        _log.warning("the standby pod %s is given up: %s", pod["metadata"]["name"], why)
        await asyncio.to_thread(self.release, pod)

    def _start_step(self, pod: Body, step: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin a step that this process has not begun yet; another may have, and each can be done again."""
        if (mark := (pod["metadata"]["uid"], step)) not in self._started_steps:
            self._started_steps.add(mark)
            task = asyncio.create_task(work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


def _is_rolled_out(deployment: Body, arguments: Sequence[str]) -> bool:
    """Whether the Deployment is what the waker asked for, and its controller has observed it."""
    metadata, spec = deployment["metadata"], deployment["spec"]
    if spec.get("replicas", 1) == 0 or deployment.get("status", {}).get("observedGeneration") != metadata.get(
        "generation"
    ):
        return False
    engine = next(each for each in spec["template"]["spec"]["containers"] if each["name"] == ENGINE_CONTAINER)
    # What differs between a pod of its own and one from the standby is where the weights and adapters are.
    own = [each for each in engine.get("args", ()) if "=/" not in each]
    return own == [each for each in arguments[2:] if "=/" not in each]


def _has_restarted(pod: Body) -> bool:
    """Whether its container was started again after it had taken a model."""
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return any(each.get("restartCount") for each in statuses)


def _control_url(pod: Body) -> str:
    ports = next(each for each in pod["spec"]["containers"] if each["name"] == ENGINE_CONTAINER)["ports"]
    port = next(each["containerPort"] for each in ports if each.get("name") == _CONTROL_PORT)
    return f"http://{pod['status']['podIP']}:{port}"
