"""The Knative Service of a function: bounded, unprivileged, cluster-local."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.manifests.declarations import Workload, read_declarations
from llmariner.manifests.services import knative_service, service_account, workload_image

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

Declare = Callable[..., None]


@pytest.fixture
def chat(checkout: Path, function: Declare) -> Workload:
    function("chat_completions", "POST /v1/chat/completions", timeout_seconds="3600")
    (found,), _ = read_declarations(checkout)
    return found


def revision(workload: Workload) -> dict[str, Any]:
    found: dict[str, Any] = knative_service(workload)["spec"]["template"]["spec"]
    return found


def container(workload: Workload) -> dict[str, Any]:
    (found,) = revision(workload)["containers"]
    assert isinstance(found, dict)
    return found


def test_service_and_account_are_admitted(chat: Workload, schemas: Schemas) -> None:
    assert schemas.faults(knative_service(chat)) == []
    assert schemas.faults(service_account(chat)) == []


def test_a_function_is_cluster_local(chat: Workload) -> None:
    assert knative_service(chat)["metadata"]["labels"]["networking.knative.dev/visibility"] == "cluster-local"


def test_no_cluster_default_cuts_a_long_request(chat: Workload) -> None:
    kinds = ("timeoutSeconds", "responseStartTimeoutSeconds", "idleTimeoutSeconds")
    assert {revision(chat)[kind] for kind in kinds} == {3600}


def test_the_process_is_unprivileged(chat: Workload) -> None:
    security = container(chat)["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}


def test_the_process_has_its_own_account_and_no_token(chat: Workload) -> None:
    assert revision(chat)["serviceAccountName"] == service_account(chat)["metadata"]["name"] == "chat-completions"
    assert revision(chat)["automountServiceAccountToken"] is False
    assert service_account(chat)["automountServiceAccountToken"] is False


def test_only_tmp_is_writable_and_limited(chat: Workload) -> None:
    assert container(chat)["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
    assert revision(chat)["volumes"] == [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}]
    parser = replace(chat, extras=("documents",))
    assert revision(parser)["volumes"] == [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]


def test_every_probe_uses_the_common_health_route(chat: Workload) -> None:
    paths = {kind: container(chat)[kind]["httpGet"]["path"] for kind in container(chat) if "Probe" in kind}
    assert paths == {
        "startupProbe": "/health/live",
        "livenessProbe": "/health/live",
        "readinessProbe": "/health/ready",
    }


def test_readiness_uses_knatives_fast_probe(chat: Workload) -> None:
    """Knative refuses a timeout or a threshold beside it, and with a period it would ask that seldom."""
    assert container(chat)["readinessProbe"].keys() == {"httpGet"}


def test_resources_are_requested_and_limited_if_one_is_declared(checkout: Path, function: Declare) -> None:
    function("models", "GET /v1/models", options={"resources": {"limits": {"memory": "1Gi"}}})
    (found,), _ = read_declarations(checkout)
    assert container(found)["resources"] == {
        "requests": {"cpu": "50m", "memory": "128Mi"},
        "limits": {"cpu": "1", "memory": "1Gi"},
    }


def test_the_function_of_its_folder_is_started(chat: Workload) -> None:
    assert container(chat)["command"] == ["python", "-m", "llmariner.boot", "functions/chat_completions"]


def test_scale_and_concurrency_are_limits(checkout: Path, function: Declare) -> None:
    scale = {"min": 1, "max": 5, "metric": "rps", "target": 50, "utilization": 80}
    resources = {"limits": {"cpu": "1", "memory": "1Gi", "concurrency": 7}}
    function("models", "GET /v1/models", options={"scale": scale, "resources": resources})
    (found,), _ = read_declarations(checkout)
    assert revision(found)["containerConcurrency"] == 7
    prefix = "autoscaling.knative.dev/"
    annotations = knative_service(found)["spec"]["template"]["metadata"]["annotations"]
    assert {key.removeprefix(prefix): value for key, value in annotations.items() if key.startswith(prefix)} == {
        "min-scale": "1",
        "max-scale": "5",
        "metric": "rps",
        "target": "50",
        "target-utilization-percentage": "80",
    }


def test_functions_with_the_same_extras_share_an_image(checkout: Path, function: Declare) -> None:
    function("models", "GET /v1/models", extras="database,api")
    function("usage", "GET /v1/usage", extras="api, database")
    function("chat_completions", "POST /v1/chat/completions")
    found = {each.name: workload_image(each) for each in read_declarations(checkout)[0]}
    assert found["models"] == found["usage"] != found["chat-completions"]
    assert found["models"].startswith("llmariner/function-api-database:")


def secret_keys(workload: Workload) -> list[str]:
    return [each["name"] for each in container(workload)["env"] if "secretKeyRef" in each.get("valueFrom", {})]


def test_a_function_without_a_database_has_no_database_secret(checkout: Path, function: Declare) -> None:
    function("chat_completions", "POST /v1/chat/completions")
    function("models", "GET /v1/models", extras="api,database")
    chat, models = read_declarations(checkout)[0]
    assert secret_keys(chat) == ["LLMARINER_PEPPER", "LLMARINER_SERVICE_SECRET"]
    assert "LLMARINER_DATABASE_URL" in secret_keys(models)


def test_declared_variables_are_set(checkout: Path, function: Declare, schemas: Schemas) -> None:
    envs = [
        {"name": "LLMARINER_WAIT_SECONDS", "value": "30"},
        {"name": "LLMARINER_PEPPER", "value": "{{ secret:other:pepper }}"},
        {"name": "LLMARINER_SERVING", "value": "{{ configMap:serving:adapter }}"},
        {"value": "{{ configMap:tuning }}"},
    ]
    function("models", "GET /v1/models", run={"envs": envs})
    (found,), _ = read_declarations(checkout)
    own = [each for each in container(found)["env"] if each["name"] != "LLMARINER_SERVICE_SECRET"]
    assert own == [
        {"name": "LLMARINER_WAIT_SECONDS", "value": "30"},
        {"name": "LLMARINER_PEPPER", "valueFrom": {"secretKeyRef": {"name": "other", "key": "pepper"}}},
        {
            "name": "LLMARINER_SERVING",
            "valueFrom": {"configMapKeyRef": {"name": "serving", "key": "adapter"}},
        },
    ]
    assert container(found)["envFrom"] == [
        {"configMapRef": {"name": "llmariner-settings"}},
        {"configMapRef": {"name": "tuning"}},
    ]
    assert schemas.faults(knative_service(found)) == []
