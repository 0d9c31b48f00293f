"""Kubernetes events of a model's InferenceService, which `kubectl describe` shows.

Annotations are no alternative: KServe copies them into the pod template, and a changed template replaces the pods.
"""

from __future__ import annotations

import datetime
import logging
from typing import Literal

from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import AlreadyExists, ClusterError
from llmariner.platform.kube.resources import INFERENCE_SERVICES

__all__ = ["record_event"]

_log = logging.getLogger(__name__)


def record_event(
    cluster: Cluster,
    namespace: str,
    name: str,
    kind: Literal["Normal", "Warning"],
    reason: str,
    message: str,
    event: str,
) -> bool:
    """Record an event of the InferenceService `name` unless one named `event` exists. Blocks.

    Returns False if the event or no such InferenceService exists. A rejection by the cluster is logged, not raised.
    """
    service = cluster.get(INFERENCE_SERVICES, namespace, name)
    if service is None:
        return False
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    involved = {key: service["metadata"][key] for key in ("name", "namespace", "uid")}
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event, "namespace": namespace},
        "involvedObject": {"apiVersion": service["apiVersion"], "kind": service["kind"], **involved},
        "type": kind,
        "reason": reason,
        "message": message[:1024],
        "source": {"component": "llmariner"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        cluster.create(body)
    except AlreadyExists:
        return False
    except ClusterError as error:
        _log.warning("the event %s of %s could not be recorded: %s", reason, name, error)
    return True
