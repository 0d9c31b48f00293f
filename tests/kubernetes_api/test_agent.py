"""The agent of a worker cluster with the rights of its own manifest, against a real API server and a control plane."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from llmariner.agent.control_plane import ControlPlane, Refused
from llmariner.agent.gpu_config import GpuSharing
from llmariner.agent.heartbeat_loop import HeartbeatLoop
from llmariner.agent.manifest import AgentManifest
from llmariner.agent_settings import AgentSettings
from llmariner.clusters.device_plugin import CONFIG_MAP
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import Forbidden
from llmariner.platform.kube.resources import CONFIG_MAPS, DEPLOYMENTS, NAMESPACES, NODES, PODS, SECRETS, Resource
from llmariner.settings import ClusterSettings

from .caller import Caller
from .conftest import REAL

pytestmark = pytest.mark.skipif(REAL not in os.environ, reason="rights are a real API server's: `make e2e-api-server`")

# A namespace that was deleted stays in an API server without its controller: each run has its own.
_RUN = uuid.uuid4().hex[:8]
NAMESPACE, GPUS = f"test-agent-{_RUN}", f"test-gpu-operator-{_RUN}"
ACCOUNT = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
PATHS = {
    "ServiceAccount": ACCOUNT,
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "Role": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{GPUS}/roles",
    "RoleBinding": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{GPUS}/rolebindings",
    "Secret": f"/api/v1/namespaces/{NAMESPACE}/secrets",
    "Deployment": f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments",
    "Namespace": "/api/v1/namespaces",
    "PriorityClass": "/apis/scheduling.k8s.io/v1/priorityclasses",
}
NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "test-gpu-1", "labels": {"nvidia.com/gpu.product": "A100"}},
}
AMOUNTS = {"cpu": "8", "memory": "32Gi", "pods": "10", "nvidia.com/gpu": "4"}
STATUS = {"capacity": AMOUNTS, "allocatable": AMOUNTS, "conditions": [{"type": "Ready", "status": "True"}]}


@pytest.fixture(scope="module")
def api() -> Caller:
    return Caller(Path(os.environ[REAL]), real=True)


@pytest.fixture(scope="module")
def joined(api: Caller, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The API server as the agent sees it, whose manifest was applied, with a node that has four GPUs."""
    url, folder = "https://llm.example.org", tmp_path_factory.mktemp("agent")
    objects = AgentManifest(url, "clusterkey-1", namespace=NAMESPACE, gpu_namespace=GPUS).objects()
    made = []
    try:
        api.make(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": GPUS}})
        for each in objects:
            api.done("POST", PATHS[each["kind"]], each)
            made.append(f"{PATHS[each['kind']]}/{each['metadata']['name']}")
        api.make(NODES, NODE)
        api.set_status(NODES, None, "test-gpu-1", STATUS)
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token = api.done("POST", f"{ACCOUNT}/llmariner-agent/token", request)["status"]["token"]
        kubeconfig = yaml.safe_load(Path(os.environ[REAL]).read_text())
        kubeconfig["users"][0]["user"] = {"token": token}
        (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        cluster = Cluster(ClusterSettings(folder / "kubeconfig"))
        yield cluster
        cluster.close()
    finally:
        for path in (*reversed(made), f"/api/v1/namespaces/{GPUS}", "/api/v1/nodes/test-gpu-1"):
            api.request("DELETE", path)


def test_the_agent_reads_nodes_and_pods_and_nothing_else_works(joined: Cluster) -> None:
    assert "test-gpu-1" in [node["metadata"]["name"] for node in joined.list(NODES, None).items]
    joined.list(PODS, None)
    joined.get(DEPLOYMENTS, "kserve", "kserve-controller-manager")
    refused: list[tuple[Resource, str | None]] = [(SECRETS, None), (SECRETS, NAMESPACE), (CONFIG_MAPS, None)]
    refused += [(CONFIG_MAPS, GPUS), (DEPLOYMENTS, None), (NAMESPACES, None)]
    for resource, namespace in refused:
        with pytest.raises(Forbidden):
            joined.list(resource, namespace)
    for resource, place, name in (
        (SECRETS, NAMESPACE, "llmariner-agent"),
        (DEPLOYMENTS, NAMESPACE, "llmariner-agent"),
        (CONFIG_MAPS, GPUS, "other"),
        (NODES, None, "test-gpu-1"),
    ):
        with pytest.raises(Forbidden):
            joined.get(resource, place, name)
    pod = {"containers": [{"name": "x", "image": "x"}]}
    for body in (
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": NAMESPACE}, "spec": pod},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": NAMESPACE}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": GPUS}},
    ):
        with pytest.raises(Forbidden):
            joined.create(body)


def test_heartbeats_reach_a_control_plane_until_the_key_is_revoked(
    joined: Cluster, api: Caller, tmp_path: Path
) -> None:
    served_functions = import_module("tests.cli.served_functions")
    with served_functions.ServedFunctions(tmp_path, LLMARINER_CLUSTER_HEARTBEAT_SECONDS="1") as platform:
        url = f"http://127.0.0.1:{platform.port}"

        def ask(method: str, path: str, body: Any = None) -> Any:
            headers = {"authorization": f"Bearer {platform.key}"}
            return httpx2.request(method, f"{url}/v1/clusters{path}", json=body, headers=headers, timeout=30).json()

        cluster = ask("POST", "", {"name": "test"})
        path = f"/{cluster['id']}"
        (tmp_path / "key").write_text(cluster["registration_key"])
        env = {"LLMARINER_AGENT_CONTROL_PLANE": url, "LLMARINER_AGENT_KEY_FILE": str(tmp_path / "key")}
        settings = AgentSettings.load(env)
        control_plane = ControlPlane(settings)
        beats = HeartbeatLoop(joined, control_plane, GpuSharing(joined, GPUS), lambda: False)
        assert beats.beat() == 1.0
        shown = ask("GET", path)
        assert shown["status"] == "connected"
        assert shown["agent"]["kubernetes_version"].startswith("v1.")
        assert "A100" in [each["product"] for each in shown["inventory"]["products"]]
        assert shown["component_statuses"]["agent"]["is_healthy"]
        ask("POST", f"{path}/config", {"device_plugin_config": {"time_slicing": {"gpus": 4}}})
        for expected in ("pending", "applied"):
            time.sleep(0.1)
            assert beats.beat() == 1.0
            assert ask("GET", f"{path}/config")["status"] == expected
        assert '"replicas": 4' in api.get(CONFIG_MAPS, GPUS, CONFIG_MAP)["data"]["llmariner-default"]
        ask("DELETE", f"{path}/config")
        beats.beat()
        assert api.request("GET", CONFIG_MAPS.path(GPUS, CONFIG_MAP))[0] == 404
        began = time.monotonic()
        ask("POST", f"{path}:revokeKey")
        with pytest.raises(Refused) as raised:
            control_plane.report({"protocol_version": 1, "agent_version": "0", "sent_at": 0.0})
        assert raised.value.status == 401
        assert time.monotonic() - began < 5
