"""Network policies: each selects existing pods, and exactly the intended connections are open."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .kustomize import Object, Rendered

CHECKOUT = Path(__file__).parents[2]
# Pods that others make in our namespaces, by the labels that their makers give them.
THIRD_PARTY_PODS: list[tuple[str, dict[str, str]]] = [
    ("llmariner", {"eventing.knative.dev/sourceName": "kubernetes-changes"}),
    ("llmariner-models", {"serving.kserve.io/inferenceservice": "tiny"}),
    ("llmariner-jobs", {"batch.kubernetes.io/job-name": "bj-1"}),
    ("llmariner-jobs", {"llmariner.ai/notebook": "nb-1"}),
]
OTHER_NAMESPACES = {"knative-serving", "knative-eventing", "kourier-system", "kube-system", "llmariner-gateway"}


@pytest.fixture(scope="module")
def production() -> Rendered:
    return Rendered(CHECKOUT / "manifests/overlays/production")


def pods(rendered: Rendered) -> Iterator[tuple[str, dict[str, str]]]:
    """(namespace, labels) of every pod; Knative adds the name of its Service."""
    for owner, template in rendered.pods():
        labels = dict(template["metadata"]["labels"])
        if owner["apiVersion"].startswith("serving.knative.dev"):
            labels["serving.knative.dev/service"] = owner["metadata"]["name"]
        yield owner["metadata"]["namespace"], labels
    yield from THIRD_PARTY_PODS


def selects(selector: Object, labels: dict[str, str]) -> bool:
    for each in selector.get("matchExpressions", []):
        assert each["operator"] in ("Exists", "In")
        if each["key"] not in labels or labels[each["key"]] not in each.get("values", [labels[each["key"]]]):
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def policies(rendered: Rendered) -> list[Object]:
    return rendered.objects_of("networking.k8s.io", "NetworkPolicy")


def chosen(policy: Object, namespace: str, labels: dict[str, str]) -> bool:
    return policy["metadata"]["namespace"] == namespace and selects(policy["spec"]["podSelector"], labels)


def peers(policy: Object, direction: str) -> Iterator[tuple[Object, list[int]]]:
    for rule in policy["spec"].get(direction, []):
        ports = [each["port"] for each in rule.get("ports", [])]
        yield from ((peer, ports) for peer in rule.get("from" if direction == "ingress" else "to", [{}]))


def admits(rendered: Rendered, to: tuple[str, dict[str, str]], source: tuple[str, dict[str, str]], port: int) -> bool:
    """Whether the pod `to` takes a connection of the pod `source`, by ingress policies alone."""
    mine = [p for p in policies(rendered) if chosen(p, *to) and "Ingress" in p["spec"]["policyTypes"]]
    assert mine, "a pod that no policy chooses is open to all"
    return any(
        (not ports or port in ports) and matches(peer, source, p["metadata"]["namespace"])
        for p in mine
        for peer, ports in peers(p, "ingress")
    )


def matches(peer: Object, pod: tuple[str, dict[str, str]], home: str) -> bool:
    namespace, labels = pod
    if "ipBlock" in peer:
        return False
    place = {"kubernetes.io/metadata.name": namespace}
    here = selects(peer["namespaceSelector"], place) if "namespaceSelector" in peer else namespace == home
    return here and selects(peer.get("podSelector", {}), labels)


def test_every_pod_denies_connections_by_default(production: Rendered) -> None:
    for namespace, labels in pods(production):
        for direction in ("Ingress", "Egress"):
            assert [
                p
                for p in policies(production)
                if chosen(p, namespace, labels) and direction in p["spec"]["policyTypes"]
            ]


def test_every_policy_and_peer_selects_a_pod(production: Rendered) -> None:
    there = [
        *pods(production),
        ("llmariner", {"app.kubernetes.io/name": "postgres"}),
        ("monitoring", {"app.kubernetes.io/name": "prometheus"}),
    ]
    there += [(place, {}) for place in OTHER_NAMESPACES]
    for policy in policies(production):
        assert any(chosen(policy, *pod) for pod in there), policy["metadata"]["name"]
        for direction in ("ingress", "egress"):
            for peer, _ in peers(policy, direction):
                reached = not peer or "ipBlock" in peer
                assert reached or any(matches(peer, pod, policy["metadata"]["namespace"]) for pod in there), peer


FUNCTION = ("llmariner", {"serving.knative.dev/service": "chat-completions"})
NOTEBOOK = ("llmariner-jobs", {"llmariner.ai/notebook": "nb-1"})
NOTEBOOK_PROXY = ("llmariner", {"serving.knative.dev/service": "services-notebooks"})
CONNECTIONS: dict[str, tuple[Any, Any, int, bool]] = {
    "the activator to a function": (("knative-serving", {}), FUNCTION, 8012, True),
    "the local gateway to a function": (("kourier-system", {}), FUNCTION, 8012, True),
    "an outsider to a function": (("default", {}), FUNCTION, 8012, False),
    "the activator past a function's sidecar": (("knative-serving", {}), FUNCTION, 8080, False),
    "a model to a function": (("llmariner-models", {}), FUNCTION, 8012, False),
    "a function to a model": (FUNCTION, ("llmariner-models", {}), 8080, True),
    "an outsider to a model": (("default", {}), ("llmariner-models", {}), 8080, False),
    "an outsider that calls itself a function": (("default", FUNCTION[1]), ("llmariner-models", {}), 8080, False),
    "PgBouncer to a model": (
        ("llmariner", {"app.kubernetes.io/name": "pgbouncer"}),
        ("llmariner-models", {}),
        8080,
        False,
    ),
    "a function to a job": (FUNCTION, ("llmariner-jobs", {}), 8080, False),
    "the proxy to a notebook": (NOTEBOOK_PROXY, NOTEBOOK, 8888, True),
    "the proxy to another port of a notebook": (NOTEBOOK_PROXY, NOTEBOOK, 8000, False),
    "another function to a notebook": (FUNCTION, NOTEBOOK, 8888, False),
    "an outsider that calls itself the proxy to a notebook": (("default", NOTEBOOK_PROXY[1]), NOTEBOOK, 8888, False),
    "a notebook to another": (NOTEBOOK, NOTEBOOK, 8888, False),
    "a job to a notebook": (("llmariner-jobs", {}), NOTEBOOK, 8888, False),
    "a notebook to a function": (NOTEBOOK, FUNCTION, 8012, False),
    "a job to another": (("llmariner-jobs", {}), ("llmariner-jobs", {}), 8080, False),
    "a job to a model": (("llmariner-jobs", {}), ("llmariner-models", {}), 8080, False),
    "a job to a function": (("llmariner-jobs", {}), FUNCTION, 8012, False),
    "a function to PgBouncer": (FUNCTION, ("llmariner", {"app.kubernetes.io/name": "pgbouncer"}), 6432, True),
    "migrations to PgBouncer": (
        ("llmariner", {"app.kubernetes.io/name": "migrations"}),
        ("llmariner", {"app.kubernetes.io/name": "pgbouncer"}),
        6432,
        True,
    ),
    "a function past PgBouncer": (FUNCTION, ("llmariner", {"app.kubernetes.io/name": "postgres"}), 5432, False),
    "a model to PgBouncer": (
        ("llmariner-models", {}),
        ("llmariner", {"app.kubernetes.io/name": "pgbouncer"}),
        6432,
        False,
    ),
    "Prometheus to a function": (("monitoring", {"app.kubernetes.io/name": "prometheus"}), FUNCTION, 8080, True),
    "an outsider that calls itself Prometheus to a function": (
        ("default", {"app.kubernetes.io/name": "prometheus"}),
        FUNCTION,
        8080,
        False,
    ),
    "an outsider that calls itself Prometheus to a model": (
        ("default", {"app.kubernetes.io/name": "prometheus"}),
        ("llmariner-models", {}),
        8080,
        False,
    ),
    "Prometheus to a model": (
        ("monitoring", {"app.kubernetes.io/name": "prometheus"}),
        ("llmariner-models", {}),
        8080,
        True,
    ),
}


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_a_connection_is_allowed_or_denied(connection: str, production: Rendered) -> None:
    source, to, port, opened = CONNECTIONS[connection]
    assert admits(production, to, source, port) is opened


def test_only_permitted_functions_and_the_secrets_job_reach_the_api_server(production: Rendered) -> None:
    reaching = set()
    for namespace, labels in pods(production):
        for policy in policies(production):
            if chosen(policy, namespace, labels) and namespace == "llmariner":
                anywhere = [ports for peer, ports in peers(policy, "egress") if not peer]
                if any(6443 in ports for ports in anywhere):
                    reaching.add(
                        labels.get("llmariner.ai/kubernetes") or labels.get("app.kubernetes.io/name") or "source"
                    )
    of_jobs = {"jobs", "jobs-reader", "jobs-status", "jobs-exec"}
    assert reaching == {*of_jobs, "serving", "quotas", "allocations", "secrets", "source"}


def test_an_engine_cannot_reach_its_nodes_metadata_server(production: Rendered) -> None:
    (policy,) = [p for p in policies(production) if p["metadata"]["name"] == "models"]
    blocks = [peer["ipBlock"] for peer, _ in peers(policy, "egress") if "ipBlock" in peer]
    assert blocks
    assert all("169.254.169.254/32" in block["except"] for block in blocks)


def test_a_job_reaches_no_address_inside(production: Rendered) -> None:
    (policy,) = [p for p in policies(production) if p["metadata"]["name"] == "jobs"]
    (block,) = [peer["ipBlock"] for peer, _ in peers(policy, "egress") if "ipBlock" in peer]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(block["except"])


def open_ports(rendered: Rendered, pod: tuple[str, dict[str, str]]) -> set[int | str]:
    """The ports at which a pod may ask any address, in the cluster or outside."""
    found: set[int | str] = set()
    for policy in policies(rendered):
        if chosen(policy, *pod):
            for peer, ports in peers(policy, "egress"):
                if not peer or "ipBlock" in peer:
                    found |= set(ports) or {"all"}
    return found


@pytest.mark.parametrize(
    ("pod", "ports"),
    [
        (("llmariner-models", {}), {443}),
        (("llmariner-jobs", {}), {443}),
        (NOTEBOOK, {443}),
        (("llmariner", {"app.kubernetes.io/name": "pgbouncer"}), {5432}),
        (("llmariner", {"app.kubernetes.io/name": "postgres"}), set()),
        (("llmariner", {"app.kubernetes.io/name": "migrations"}), set()),
        (("llmariner", {"app.kubernetes.io/name": "secrets"}), {443, 6443}),
        (FUNCTION, set()),
        (("llmariner", {"llmariner.ai/kubernetes": "serving"}), {443, 6443}),
    ],
    ids=["engine", "job", "notebook", "pgbouncer", "postgres", "migrations", "secrets", "function", "internal-gateway"],
)
def test_other_connections_are_limited_to_few_ports(
    pod: tuple[str, dict[str, str]], ports: set[int], production: Rendered
) -> None:
    assert open_ports(production, pod) == ports


def changed_settings(place: Path, before: str, after: str, *components: str) -> Rendered:
    """The production overlay as an administrator changes it: its settings, and more components."""
    for folder in ("manifests", "kserve"):
        shutil.copytree(CHECKOUT / folder, place / folder)
    overlay = place / "manifests/overlays/production"
    settings = overlay / "settings.env"
    settings.write_text(settings.read_text().replace(before, after))
    body = yaml.safe_load((overlay / "kustomization.yaml").read_text())
    body["components"] += [f"../../components/{each}" for each in components]
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(body))
    return Rendered(overlay)


def asks_prometheus(rendered: Rendered, namespace: str) -> set[str]:
    """The functions whose egress policies let them reach Prometheus in a namespace."""
    to = (namespace, {"app.kubernetes.io/name": "prometheus"})
    return {
        labels.get("serving.knative.dev/service", "")
        for place, labels in pods(rendered)
        for policy in policies(rendered)
        if chosen(policy, place, labels)
        for peer, ports in peers(policy, "egress")
        if peer and 9090 in ports and matches(peer, to, place)
    }


def test_the_sweep_alone_asks_prometheus(production: Rendered) -> None:
    assert asks_prometheus(production, "monitoring") == {"sweep"}


def test_prometheus_is_where_the_settings_say(tmp_path: Path) -> None:
    after = "PROMETHEUS_NAMESPACE=observability"
    changed = changed_settings(tmp_path, "PROMETHEUS_NAMESPACE=monitoring", after, "standby-engine")
    label = {"app.kubernetes.io/name": "prometheus"}
    standby = ("llmariner-models", {"app.kubernetes.io/name": "standby-engine"})
    for to in (FUNCTION, ("llmariner-models", {}), standby):
        assert admits(changed, to, ("observability", label), 8080)
        assert not admits(changed, to, ("monitoring", label), 8080)
    assert not admits(changed, standby, ("observability", label), 8090)
    assert (asks_prometheus(changed, "observability"), asks_prometheus(changed, "monitoring")) == ({"sweep"}, set())
    assert admits(changed, standby, ("llmariner", {"serving.knative.dev/service": "internal-gateway"}), 8090)
    assert not admits(changed, standby, FUNCTION, 8090)


def test_the_local_gateway_matches_the_settings(tmp_path: Path) -> None:
    changed = changed_settings(
        tmp_path, "LOCAL_GATEWAY_NAMESPACE=kourier-system", "LOCAL_GATEWAY_NAMESPACE=contour-internal"
    )
    assert admits(changed, FUNCTION, ("contour-internal", {}), 8012)
    assert not admits(changed, FUNCTION, ("kourier-system", {}), 8012)
    assert "kourier-system" not in str(changed.objects)
