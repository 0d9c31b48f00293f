"""The service account for serving has exactly the permissions that the adapter uses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.manifests.declarations import read_declarations
from llmariner.manifests.rbac import roles, standby_roles
from llmariner.platform.kube.resources import EVENTS, INFERENCE_SERVICES, LOCAL_QUEUES, PODS
from llmariner.platform.serving import EngineModel
from llmariner.settings import Secret

from .conftest import free_port
from .kserve_cluster import NAMESPACE, ServingOnCluster, serving_on_cluster
from .standby_pods import TOKEN, StandbyPods

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

CHECKOUT = Path(__file__).parents[2]
SMALL = EngineModel("small", "pvc://models/small", "generate", 0, typical_wake_seconds=1.0, project="proj_1")
MANY = replace(SMALL, replicas=2, max_replicas=3)
TUNED = EngineModel("", "llmariner-file://f", "generate", 0, base="small", project="proj_1", weights_token="t")
POOL = "cpu"
Rights = set[tuple[str, str]]

_ASKED = re.compile(r"/(?:api|apis/([^/]+))/v[^/]+(?:/namespaces/[^/]+)?/([^/]+)(?:/([^/]+))?(?:/([^/]+))?")
_VERBS = {"POST": {"create"}, "DELETE": {"delete"}}
# Made by server-side apply, which creates what is not there.
_APPLIED = {"inferenceservices", "localqueues", "scaledobjects", "horizontalpodautoscalers"}


def granted(objects: Iterable[dict[str, Any]]) -> Rights:
    rules = [rule for each in objects for rule in each.get("rules", ())]
    return {
        (f"{group}/{kind}", verb)
        for rule in rules
        for group in rule["apiGroups"]
        for kind in rule["resources"]
        for verb in rule["verbs"]
    }


def of_serving() -> Rights:
    return granted(role for role in roles() if role["metadata"]["name"] == "serving")


def used(cluster: ServingOnCluster) -> Rights:
    """What the adapter asked of objects: discovery of what the cluster has is open to every account."""
    found: Rights = set()
    for agent, method, path in cluster.answered:
        if agent != "llmariner" or (matched := _ASKED.fullmatch(path)) is None:
            continue
        group, kind, name, part = matched.groups("")
        verbs = _VERBS.get(method) or {"patch"} | ({"create"} if kind in _APPLIED else set())
        if method == "GET":
            verbs = {"get" if name else "list"}
        found |= {(f"{group}/{kind}{'/' if part else ''}{part}", verb) for verb in verbs}
    return found


def make_queue(cluster: ServingOnCluster) -> None:
    kind = {"apiVersion": LOCAL_QUEUES.api_version, "kind": LOCAL_QUEUES.kind}
    body = {**kind, "metadata": {"name": POOL, "namespace": NAMESPACE}, "spec": {"clusterQueue": "llmariner-cpu"}}
    cluster.caller.make(LOCAL_QUEUES, body)


def live(cluster: ServingOnCluster) -> None:
    """All that happens to a model, one thing after the other."""
    make_queue(cluster)
    cluster.controllers.gates = [{"name": "kueue.x-k8s.io/admission"}]
    cluster.driver.wake(SMALL.id)
    cluster.driver.wait_until(lambda _: cluster.controllers.listed(PODS), SMALL.id)
    cluster.driver.run(cluster.serving.statuses())
    cluster.controllers.gates = []
    cluster.controllers.engine_arguments = ["--first-answer", "differs"]
    cluster.driver.ready(SMALL.id)
    cluster.driver.wait_until(lambda _: cluster.controllers.listed(EVENTS), SMALL.id)
    for number in range(2):  # the second adapter's Secret takes the place of the first one's
        tuned = replace(TUNED, id=f"ft:small:{number}")
        cluster.models.registered[tuned.id] = tuned
        cluster.driver.sleep(SMALL.id)
        cluster.driver.wake(tuned.id)
    for changed in (MANY, SMALL):
        cluster.models.registered[SMALL.id] = changed
        cluster.driver.sleep(SMALL.id)
        cluster.driver.ready(SMALL.id)
    (name,) = (each["metadata"]["name"] for each in cluster.controllers.listed(INFERENCE_SERVICES))
    cluster.driver.run(cluster.serving.import_existing(name))
    cluster.driver.run(cluster.serving.reconcile())
    cluster.models.registered.clear()
    cluster.driver.run(cluster.serving.remove(SMALL.id, SMALL.folder))
    assert cluster.controllers.listed(INFERENCE_SERVICES) == []


def test_without_standby_engines_each_permission_is_used_and_each_use_permitted(
    upstream_schemas: tuple[Path, Schemas], tmp_path: Path
) -> None:
    crds, schemas = upstream_schemas
    found: Rights = set()
    for prometheus in ("", "http://prometheus:9090"):
        with serving_on_cluster(
            tmp_path, schemas, crds, free_port(), SMALL, queue=POOL, prometheus=prometheus, adapter_image="engine:1"
        ) as cluster:
            live(cluster)
            found |= used(cluster)
    assert found == of_serving()


@pytest.fixture
def standby(upstream_schemas: tuple[Path, Schemas], tmp_path: Path) -> Iterator[tuple[ServingOnCluster, StandbyPods]]:
    crds, schemas = upstream_schemas
    with serving_on_cluster(tmp_path, schemas, crds, free_port(), SMALL, standby_token=Secret(TOKEN)) as cluster:
        cluster.controllers.fixed_pod_status = {"phase": "Pending"}
        pods = StandbyPods(tmp_path, cluster)
        yield cluster, pods
        cluster.controllers.extra_steps.clear()
        pods.close()


@pytest.mark.quiet
def test_permissions_of_standby_engines_come_with_them(standby: tuple[ServingOnCluster, StandbyPods]) -> None:
    cluster, pods = standby
    workloads = [each for kind in read_declarations(CHECKOUT) for each in kind]
    more = granted(standby_roles(workloads))
    assert not more & of_serving()
    pods.start("standby-1", free_port())
    cluster.driver.wait_until(lambda _: pods.warm("standby-1"), SMALL.id, seconds=60)
    cluster.driver.ready(SMALL.id)
    cluster.driver.wait_until(lambda _: ("/events", "create") in used(cluster), SMALL.id)
    # Its container restarts and has no model: the pod is given up.
    pods.processes["standby-1"].kill()
    cluster.driver.wait_until(lambda _: ("/pods", "delete") in used(cluster), SMALL.id)
    assert used(cluster) - of_serving() == more
    assert all(pod["metadata"]["name"] != "standby-1" for pod in cluster.controllers.listed(PODS))
