"""The test cluster itself: pods, names, scale from and to zero, events, quota and a model, each for real."""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .lab.images import BUSYBOX, Image, load, present
from .lab.ingress import GATEWAY
from .lab.kubectl import apply, get, kubectl
from .lab.places import Lab
from .lab.processes import running
from .lab.wait import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

_ECHO = "localhost/lab/echo:1"
# A web server that answers GET with a file and writes each event it takes to the container's log.
_TAKE_EVENT = """#!/bin/sh
body=$(cat)
echo "took $HTTP_CE_ID $HTTP_CE_TYPE $body" > /proc/1/fd/1
printf 'Status: 202 Accepted\\r\\nContent-Type: text/plain\\r\\n\\r\\n'
"""
# As the first process the server alone would not hear that it is to end.
_SERVE = ["/bin/sh", "-c", "trap 'exit 0' TERM; /bin/httpd -f -p 8080 -h /www & wait"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab()
    if not {"kubelet", "ingress"} <= running(lab).keys():
        pytest.skip("no test cluster is up; `make cluster` starts it")
    if _ECHO not in present(lab):
        folder = tmp_path_factory.mktemp("echo")
        files = {f"/bin/{name}": Path("/usr/bin/busybox") for name in ("httpd", "sh", "cat", "echo", "printf", "sleep")}
        for name, text in (("index.html", "here\n"), ("take", _TAKE_EVENT)):
            (folder / name).write_text(text)
        files |= {"/www/index.html": folder / "index.html", "/www/cgi-bin/take": folder / "take"}
        Image(_ECHO, files, "/bin/httpd").write(folder / "echo.tar")
        load(lab, folder / "echo.tar")
    return lab


@pytest.fixture
def namespace(lab: Lab) -> Iterator[str]:
    name = f"smoke-{uuid.uuid4().hex[:6]}"
    kubectl(lab, "create", "namespace", name)
    yield name
    kubectl(lab, "delete", "namespace", name, "--wait=false")


def test_a_pod_runs_and_names_resolve(lab: Lab, namespace: str) -> None:
    container = {
        "name": "main",
        "image": BUSYBOX,
        "command": ["/bin/sh", "-c", "nslookup kubernetes.default.svc.cluster.local && echo resolved"],
    }
    apply(lab, [_object("v1", "Pod", "names", namespace, {"containers": [container], "restartPolicy": "Never"})])
    until("pod", lambda: _field(lab, namespace, "pod/names", "Succeeded", "status", "phase"))
    said = kubectl(lab, "logs", "--namespace", namespace, "names")
    assert said.rstrip().endswith("resolved")
    assert lab.service(1) in said


def test_a_function_scales_from_zero_and_back(lab: Lab, namespace: str) -> None:
    apply(lab, [_function(namespace)])
    until("function", lambda: _not_true(lab, namespace, "ksvc/echo", "Ready"))
    until("zero", lambda: _replicas(lab, namespace, 0), seconds=180)
    host = get(lab, "ksvc", "echo", "--namespace", namespace)["status"]["url"].removeprefix("http://")
    began = time.monotonic()
    assert _ask(lab, host) == (200, "here\n")
    print(f"from zero: {time.monotonic() - began:.2f} s")
    assert _replicas(lab, namespace, 1) is None
    until("zero again", lambda: _replicas(lab, namespace, 0), seconds=180)


def test_events_reach_a_function_through_broker_and_trigger(lab: Lab, namespace: str) -> None:
    subscriber = {"ref": {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "echo"}}
    objects = [
        _function(namespace, copies=1),
        _object("eventing.knative.dev/v1", "Broker", "default", namespace, {}),
        _object(
            "eventing.knative.dev/v1",
            "Trigger",
            "wanted",
            namespace,
            {
                "broker": "default",
                "filter": {"attributes": {"type": "wanted.v1"}},
                "subscriber": {**subscriber, "uri": "/cgi-bin/take"},
            },
        ),
    ]
    apply(lab, objects)
    for each in ("broker/default", "trigger/wanted", "ksvc/echo"):
        until(each, lambda each=each: _not_true(lab, namespace, each, "Ready"))  # type: ignore[misc]
    wanted, other = uuid.uuid4().hex, uuid.uuid4().hex
    assert _publish(lab, namespace, other, "other.v1") == 202
    assert _publish(lab, namespace, wanted, "wanted.v1") == 202
    until("event", lambda: None if f"took {wanted} wanted.v1" in _said(lab, namespace) else "not taken yet")
    assert other not in _said(lab, namespace)


def test_ping_and_api_server_sources_emit_events(lab: Lab, namespace: str) -> None:
    sink = {
        "ref": {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "echo"},
        "uri": "/cgi-bin/take",
    }
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    subject = {"kind": "ServiceAccount", "name": "reader", "namespace": namespace}
    authorization = "rbac.authorization.k8s.io/v1"
    objects = [
        _function(namespace, copies=1),
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader", "namespace": namespace}},
        {**_bare(authorization, "Role", "reader", namespace), "rules": [rule]},
        {**_bare(authorization, "RoleBinding", "reader", namespace), "roleRef": reference, "subjects": [subject]},
    ]
    watched = {
        "serviceAccountName": "reader",
        "mode": "Resource",
        "resources": [{"apiVersion": "v1", "kind": "ConfigMap"}],
        "sink": sink,
    }
    sources = [
        _object("sources.knative.dev/v1", "ApiServerSource", "objects", namespace, watched),
        _object("sources.knative.dev/v1", "PingSource", "clock", namespace, {"schedule": "* * * * *", "sink": sink}),
    ]
    apply(lab, objects)
    until("function", lambda: _not_true(lab, namespace, "ksvc/echo", "Ready"))
    apply(lab, sources)
    for each in ("apiserversource/objects", "pingsource/clock"):
        until(each, lambda each=each: _not_true(lab, namespace, each, "Ready"))  # type: ignore[misc]
    apply(lab, [{**_bare("v1", "ConfigMap", "news", namespace), "data": {"a": "b"}}])
    for kind in ("dev.knative.apiserver.resource.add", "dev.knative.sources.ping"):
        until(kind, lambda kind=kind: None if kind in _said(lab, namespace) else "not taken yet")  # type: ignore[misc]


def test_quota_admits_what_fits_and_queues_the_rest(lab: Lab, namespace: str) -> None:
    group, flavor = "kueue.x-k8s.io/v1beta2", f"{namespace}-flavor"
    amounts = [{"name": "cpu", "nominalQuota": "100m"}, {"name": "memory", "nominalQuota": "1Gi"}]
    covered = {"coveredResources": ["cpu", "memory"], "flavors": [{"name": flavor, "resources": amounts}]}
    spec = {"namespaceSelector": {}, "resourceGroups": [covered]}
    try:
        apply(
            lab,
            [
                _object(group, "ResourceFlavor", flavor, None, {}),
                _object(group, "ClusterQueue", namespace, None, spec),
                _object(group, "LocalQueue", "queue", namespace, {"clusterQueue": namespace}),
            ],
        )
        apply(lab, [_job("fits", namespace, "50m"), _job("too-large", namespace, "200m")])
        until("job", lambda: _not_true(lab, namespace, "job/fits", "Complete"))
        assert get(lab, "job", "too-large", "--namespace", namespace)["spec"]["suspend"] is True
    finally:
        kubectl(lab, "delete", "--ignore-not-found", "--wait=false", f"clusterqueue/{namespace}")
        kubectl(lab, "delete", "--ignore-not-found", "--wait=false", f"resourceflavor/{flavor}")


def test_a_model_gets_a_deployment_and_responds_through_the_gateway(lab: Lab, namespace: str) -> None:
    container = {
        "name": "kserve-container",
        "image": _ECHO,
        "command": _SERVE,
        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}},
    }
    model = _object(
        "serving.kserve.io/v1beta1", "InferenceService", "echo", namespace, {"predictor": {"containers": [container]}}
    )
    model["metadata"]["annotations"] = {
        "serving.kserve.io/deploymentMode": "Standard",
        "serving.kserve.io/autoscalerClass": "none",
    }
    apply(lab, [model])
    until("model", lambda: _not_true(lab, namespace, "inferenceservice/echo", "Ready"))
    assert get(lab, "deployment", "echo-predictor", "--namespace", namespace)["status"]["readyReplicas"] == 1
    host = get(lab, "inferenceservice", "echo", "--namespace", namespace)["status"]["url"].removeprefix("http://")
    until("answer", lambda: None if _ask(lab, host) == (200, "here\n") else "the gateway doesn't know it yet")


def _bare(version: str, kind: str, name: str, namespace: str | None) -> dict[str, Any]:
    meta = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": version, "kind": kind, "metadata": meta}


def _object(version: str, kind: str, name: str, namespace: str | None, spec: dict[str, Any]) -> dict[str, Any]:
    return {**_bare(version, kind, name, namespace), "spec": spec}


def _function(namespace: str, copies: int = 0) -> dict[str, Any]:
    """A Knative Service that goes to zero quickly; `copies` always stay, so that what they said can be read."""
    container = {
        "image": _ECHO,
        "imagePullPolicy": "IfNotPresent",
        "command": _SERVE,
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}},
    }
    annotations = {
        "autoscaling.knative.dev/min-scale": str(copies),
        "autoscaling.knative.dev/window": "6s",
        "autoscaling.knative.dev/scale-to-zero-pod-retention-period": "0s",
    }
    template = {"metadata": {"annotations": annotations}, "spec": {"containers": [container]}}
    return _object("serving.knative.dev/v1", "Service", "echo", namespace, {"template": template})


def _job(name: str, namespace: str, cpu: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": BUSYBOX,
        "command": ["/bin/sleep", "1"],
        "resources": {"requests": {"cpu": cpu, "memory": "8Mi"}},
    }
    pod = {"spec": {"containers": [container], "restartPolicy": "Never"}}
    job = _object("batch/v1", "Job", name, namespace, {"template": pod, "suspend": True})
    job["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "queue"}
    return job


def _not_true(lab: Lab, namespace: str, name: str, kind: str) -> str | None:
    """What is missing for a condition of an object to be true."""
    conditions = get(lab, name, "--namespace", namespace).get("status", {}).get("conditions", [])
    condition = next((each for each in conditions if each["type"] == kind), None)
    if condition is None:
        return f"{name} has no condition {kind}"
    return None if condition["status"] == "True" else f"{name}: {condition.get('message') or condition['status']}"


def _field(lab: Lab, namespace: str, name: str, wanted: object, *path: str) -> str | None:
    value: Any = get(lab, name, "--namespace", namespace)
    for key in path:
        value = value.get(key, {})
    return None if value == wanted else f"{name}: {'.'.join(path)} is {value}"


def _replicas(lab: Lab, namespace: str, wanted: int) -> str | None:
    pods = get(lab, "pods", "--namespace", namespace, "--selector=serving.knative.dev/service=echo")["items"]
    return None if len(pods) == wanted else f"{len(pods)} pods"


def _said(lab: Lab, namespace: str) -> str:
    return kubectl(lab, "logs", "--namespace", namespace, "--selector=serving.knative.dev/service=echo",
                   "--container=user-container", "--tail=-1")  # fmt: skip


def _address(lab: Lab, name: str, namespace: str) -> str:
    address: str = get(lab, "service", name, "--namespace", namespace)["spec"]["clusterIP"]
    return address


def _call(address: str, method: str, path: str, headers: dict[str, str], body: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, 80, timeout=120)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def _ask(lab: Lab, host: str) -> tuple[int, str]:
    address = _address(lab, f"envoy-{GATEWAY['name']}", GATEWAY["namespace"])
    return _call(address, "GET", "/", {"Host": host})


def _publish(lab: Lab, namespace: str, identifier: str, kind: str) -> int:
    address = _address(lab, "broker-ingress", "knative-eventing")
    headers = {
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-source": "/smoke",
        "ce-id": identifier,
        "ce-type": kind,
    }
    return _call(address, "POST", f"/{namespace}/default", headers, json.dumps({"n": 1}))[0]
