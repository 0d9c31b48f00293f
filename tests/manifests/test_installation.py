"""The objects of `kubectl apply -k`: rendered by kubectl, valid, and consistent with each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from llmariner.installation.secret_objects import SecretObjects
from llmariner.installation.secrets import ensure_secrets
from llmariner.manifests import jobs
from llmariner.manifests.declarations import read_declarations
from llmariner.manifests.services import workload_image
from llmariner.manifests.tree import stale_files

from .kustomize import Object, Rendered, names

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

CHECKOUT = Path(__file__).parents[2]
OVERLAYS = ("playground", "production", "test")
# What the modules of settings read, or components copy into objects; nothing else may stand in the settings.
OF_OBJECTS = re.compile(r"fieldPath: data\.([A-Z_]+)")
# Brought by the cluster or its administrator.
PROVIDED = {"llmariner-tls", "llmariner-postgres"}


@pytest.fixture(scope="module", params=["small_checkout", *OVERLAYS])
def installed(request: pytest.FixtureRequest, small_checkout: Path) -> Rendered:
    """Every overlay, and that of test clusters of a small platform."""
    if request.param == "small_checkout":
        return Rendered(small_checkout / "manifests/overlays/test")
    return Rendered(CHECKOUT / "manifests/overlays" / request.param)


@pytest.fixture(scope="module")
def production() -> Rendered:
    return Rendered(CHECKOUT / "manifests/overlays/production")


def test_the_generated_files_are_current() -> None:
    assert list(stale_files(CHECKOUT)) == []


def test_every_overlay_is_tested() -> None:
    assert {path.name for path in (CHECKOUT / "manifests/overlays").iterdir()} == set(OVERLAYS)


def test_every_component_is_in_an_overlay() -> None:
    components = CHECKOUT / "manifests/components"
    used: set[Path] = set()
    for overlay in OVERLAYS:
        folder = CHECKOUT / "manifests/overlays" / overlay
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["components"]
        used |= {(folder / each).resolve() for each in listed}
    unasked = [
        "standby-engine",
        "dex",
        "dex/network-policy",
        "external-issuer",
        "event-identity",
        "milvus",
        "milvus/network-policy",
        "model-copies",
    ]
    unasked += ["object-store", "object-store/network-policy"]
    unasked += ["notebook-hosts", "notebook-hosts/certificate", "notebook-hosts/plain-http"]
    optional = {components / name for name in ("amd", "intel-gaudi", "kueue/amd", "kueue/intel-gaudi", *unasked)}
    assert {path.parent for path in components.rglob("kustomization.yaml")} == used | optional


def test_every_object_is_admitted(installed: Rendered, schemas: Schemas) -> None:
    assert {(o["kind"], o["metadata"]["name"]): f for o in installed.objects if (f := schemas.faults(o))} == {}


@pytest.mark.parametrize(
    "path", sorted((CHECKOUT / "manifests/prerequisites").iterdir()), ids=lambda path: str(path.stem)
)
def test_the_prerequisites_are_admitted(path: Path, schemas: Schemas) -> None:
    assert schemas.faults(yaml.safe_load(path.read_text())) == []


def test_no_object_is_duplicated(installed: Rendered) -> None:
    seen = [
        (o["apiVersion"], o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in installed.objects
    ]
    assert len(seen) == len(set(seen))


def test_namespaces_come_first_and_every_objects_namespace_exists(installed: Rendered) -> None:
    made = names(installed.objects_of("", "Namespace"))
    assert [o["kind"] for o in installed.objects[: len(made)]] == ["Namespace"] * len(made)
    used = {o["metadata"]["namespace"] for o in installed.objects if "namespace" in o["metadata"]}
    # The grant lies beside the service that it lets us use.
    assert used - made == {
        o["metadata"]["namespace"] for o in installed.objects_of("gateway.networking.k8s.io", "ReferenceGrant")
    }


@pytest.mark.parametrize("place", ["small_checkout", "checkout"])
def test_timeouts_are_within_knatives_maximum(place: str, small_checkout: Path) -> None:
    manifests = (small_checkout if place == "small_checkout" else CHECKOUT) / "manifests"
    limits = yaml.safe_load((manifests / "prerequisites/config-defaults.yaml").read_text())["data"]
    asked = [s["spec"]["template"]["spec"]["timeoutSeconds"] for s in Rendered(manifests / "base").services()]
    assert max(asked, default=0) <= int(limits["max-revision-timeout-seconds"])


def test_a_stream_may_last_for_hours(production: Rendered) -> None:
    asked = {s["metadata"]["name"]: s["spec"]["template"]["spec"]["timeoutSeconds"] for s in production.services()}
    assert min(asked["chat-completions"], asked["completions"]) >= 2 * 3600


def test_the_name_of_every_revision_is_a_dns_label(installed: Rendered) -> None:
    for name in names(installed.services()):
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
        assert len(f"{name}-00001") <= 63


def test_fields_that_knative_rejects_by_default_are_enabled_in_the_prerequisites(installed: Rendered) -> None:
    """Fields of a revision's pod beside those that Knative always takes (its fieldmask.go)."""
    always = {
        "serviceAccountName",
        "automountServiceAccountToken",
        "enableServiceLinks",
        "containerConcurrency",
        "timeoutSeconds",
        "responseStartTimeoutSeconds",
        "idleTimeoutSeconds",
        "containers",
        "volumes",
    }
    prerequisites = (CHECKOUT / "manifests/prerequisites/config-features.yaml").read_text()
    for service in installed.services():
        spec = service["spec"]["template"]["spec"]
        for field in spec.keys() - always:
            assert f"kubernetes.podspec-{field.lower()}: enabled" in prerequisites, field
        assert spec.get("automountServiceAccountToken") is not True


def test_functions_start_in_the_place_of_work_that_calls_them_and_of_nothing_else(installed: Rendered) -> None:
    """A class above 0 would let dozens of functions drive out the cluster's own controllers, whose pods have none."""
    listed = installed.objects_of("scheduling.k8s.io", "PriorityClass")
    classes = {each["metadata"]["name"]: each["value"] for each in listed}
    assert not any(each["globalDefault"] for each in listed)
    assert not any("priorityClassName" in each["spec"]["template"]["spec"] for each in installed.services())
    work = [installed.settings()[f"LLMARINER_{kind}_PRIORITY_CLASS"] for kind in ("NOTEBOOK", "JOB")]
    assert 0 > classes[work[0]] > classes[work[1]] >= -10  # below that, Cluster Autoscaler adds no node
    called = {
        owner["metadata"]["name"]: pod["spec"].get("priorityClassName")
        for owner, pod in installed.pods()
        if owner["metadata"]["namespace"] == "llmariner" and owner not in installed.services()
    }
    assert called
    assert {name: found for name, found in called.items() if classes.get(found, 0) <= 0} == {}


def test_every_pod_is_restricted(installed: Rendered) -> None:
    for owner, pod in installed.pods():
        for container in pod["spec"]["containers"]:
            security = {**pod["spec"].get("securityContext", {}), **container["securityContext"]}
            where = (owner["kind"], owner["metadata"]["name"])
            assert security["runAsNonRoot"] is True, where
            assert security["runAsUser"] > 0, where
            assert security["readOnlyRootFilesystem"] is True, where
            assert security["allowPrivilegeEscalation"] is False, where
            assert security["capabilities"] == {"drop": ["ALL"]}, where
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}, where
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, where
            assert container["resources"]["limits"].keys() == {"cpu", "memory"}, where


def test_every_account_exists_and_is_used(installed: Rendered) -> None:
    here = names(installed.objects_of("", "ServiceAccount"), "llmariner")
    used = {pod["spec"]["serviceAccountName"] for _, pod in installed.pods()}
    used |= {o["spec"]["serviceAccountName"] for o in installed.objects_of("sources.knative.dev", "ApiServerSource")}
    assert used == here


def test_settings_and_scripts_of_pods_exist(installed: Rendered) -> None:
    here = names(installed.objects_of("", "ConfigMap"), "llmariner")
    assert {name for kind, name in referred(installed) if kind == "configMap"} <= here


def test_every_secret_is_created_or_provided(installed: Rendered, secret_objects: SecretObjects) -> None:
    assert {name for kind, name in referred(installed) if kind == "secret"} <= {*jobs.MANAGED_SECRETS, *PROVIDED}
    (job,) = [o for o in installed.objects_of("batch", "Job") if o["metadata"]["name"].startswith("secrets-")]
    (container,) = containers_of(job)
    ours = [each for each in container["command"] if each.startswith("--postgres=")]
    assert bool(ours) == bool(installed.objects_of("apps", "StatefulSet"))
    if not ours:
        secret_objects.create("llmariner-postgres", {"host": "h", "user": "u", "password": "p", "database": "d"})
    ensure_secrets(secret_objects, postgres_host=ours[0].partition("=")[2] if ours else "")
    for name, key in keys_referred(installed):
        made = secret_objects.get(name)
        assert made is not None
        assert key in made.values, f"nobody makes {key} of {name}"


def referred(rendered: Rendered) -> Iterator[tuple[str, str]]:
    """("secret" or "configMap", name) of everything that a pod reads."""
    for _, pod in rendered.pods():
        for volume in pod["spec"].get("volumes", []):
            if "secret" in volume:
                yield "secret", volume["secret"]["secretName"]
            if "configMap" in volume:
                yield "configMap", volume["configMap"]["name"]
        for container in pod["spec"]["containers"]:
            yield from (
                (k.removesuffix("Ref"), v["name"]) for each in container.get("envFrom", []) for k, v in each.items()
            )
            for each in container.get("env", []):
                yield from ((k.removesuffix("KeyRef"), v["name"]) for k, v in each.get("valueFrom", {}).items())


def keys_referred(rendered: Rendered) -> Iterator[tuple[str, str]]:
    for container in rendered.containers():
        for each in container.get("env", []):
            if reference := each.get("valueFrom", {}).get("secretKeyRef"):
                yield reference["name"], reference["key"]


def test_no_manifest_contains_a_secret(installed: Rendered) -> None:
    assert installed.objects_of("", "Secret") == []
    spelled = dict(installed.settings())
    for container in installed.containers():
        spelled |= {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}
    assert not [name for name in spelled if re.search("PEPPER|SECRET|PASSWORD|TOKEN|DATABASE_URL", name)]


def test_every_setting_is_read_by_the_platform_or_copied_into_an_object(installed: Rendered) -> None:
    settings = "".join(path.read_text() for path in (CHECKOUT / "shared/llmariner").glob("*settings.py"))
    components = (CHECKOUT / "manifests/components").rglob("kustomization.yaml")
    copied = {name for path in components for name in OF_OBJECTS.findall(path.read_text())}
    assert [name for name in installed.settings() if f"`{name}`" not in settings and name not in copied] == []


def test_every_function_has_the_settings(installed: Rendered) -> None:
    assert all({"configMapRef": {"name": "llmariner-settings"}} in c["envFrom"] for c in installed.functions())


def test_the_control_url_is_that_of_a_function(installed: Rendered) -> None:
    host = installed.settings()["LLMARINER_CONTROL_URL"].removeprefix("http://")
    assert host.split(".")[0] in names(installed.services())


def test_models_are_created_where_functions_have_permissions(installed: Rendered) -> None:
    there = installed.settings()["LLMARINER_MODELS_NAMESPACE"]
    assert there in names(installed.objects_of("", "Namespace"))
    assert {"serving"} <= names(installed.objects_of("rbac.authorization.k8s.io", "Role"), there)


def test_a_route_leads_to_a_function_through_a_permitted_gateway(installed: Rendered) -> None:
    (grant,) = installed.objects_of("gateway.networking.k8s.io", "ReferenceGrant")
    (gateway,) = installed.objects_of("gateway.networking.k8s.io", "Gateway")
    granted = (grant["spec"]["to"][0]["name"], grant["metadata"]["namespace"])
    host = gateway["spec"]["listeners"][0]["hostname"]
    assert host == installed.settings()["PUBLIC_HOST"]
    assert granted == tuple(installed.settings()[f"LOCAL_GATEWAY_{each}"] for each in ("SERVICE", "NAMESPACE"))
    for route in installed.routes():
        (parent,) = route["spec"]["parentRefs"]
        assert parent == {name: gateway["metadata"][name] for name in ("name", "namespace")}
        assert route["spec"]["hostnames"] == [host]
        for rule in route["spec"]["rules"]:
            (backend,), (rewrite, header) = rule["backendRefs"], rule["filters"]
            assert (backend["name"], backend["namespace"]) == granted
            assert rewrite["urlRewrite"]["hostname"].split(".")[0] in names(installed.services())
            assert header["requestHeaderModifier"]["set"][0]["value"] == host
            assert rule["timeouts"] == {"request": "0s"}


def test_a_listener_has_tls_or_is_plain_http(installed: Rendered) -> None:
    (gateway,) = installed.objects_of("gateway.networking.k8s.io", "Gateway")
    (listener,) = gateway["spec"]["listeners"]
    allowed = listener["allowedRoutes"]["namespaces"]["selector"]["matchLabels"]
    assert {allowed["kubernetes.io/metadata.name"]} == {each["metadata"]["namespace"] for each in installed.routes()}
    assert (listener["protocol"], listener["port"], "tls" in listener) in (("HTTPS", 443, True), ("HTTP", 80, False))


def test_production_uses_tls_with_a_certificate_for_its_host(production: Rendered) -> None:
    (gateway,) = production.objects_of("gateway.networking.k8s.io", "Gateway")
    (certificate,) = production.objects_of("cert-manager.io", "Certificate")
    (listener,) = gateway["spec"]["listeners"]
    assert listener["tls"]["certificateRefs"] == [{"name": certificate["spec"]["secretName"]}]
    assert certificate["spec"]["dnsNames"] == [listener["hostname"]]
    assert certificate["metadata"]["namespace"] == gateway["metadata"]["namespace"]


def test_a_trigger_leads_from_the_broker_to_a_function(installed: Rendered) -> None:
    brokers = names(installed.objects_of("eventing.knative.dev", "Broker"))
    for trigger in installed.objects_of("eventing.knative.dev", "Trigger"):
        assert trigger["spec"]["broker"] in brokers
        assert "brokerRef" not in trigger["spec"]
        assert trigger["spec"]["subscriber"]["ref"]["name"] in names(installed.services())
        if sink := trigger["spec"]["delivery"].get("deadLetterSink"):
            assert sink["ref"]["name"] in names(installed.services())


def test_undeliverable_events_are_stored(production: Rendered) -> None:
    kept = {
        o["metadata"]["name"]: o["spec"]["delivery"].get("deadLetterSink", {}).get("uri")
        for o in production.objects_of("eventing.knative.dev", "Trigger")
    }
    ticked = names(production.objects_of("sources.knative.dev", "PingSource"))
    assert ticked
    assert {name: uri for name, uri in kept.items() if name not in ticked} == {
        name: f"/{name.replace('-', '_')}" for name in kept.keys() - ticked
    }
    assert {kept[name] for name in ticked} == {None}


def test_the_jobs_run_images_of_functions() -> None:
    used = {workload_image(each) for kind in read_declarations(CHECKOUT) for each in kind}
    assert {jobs.SECRETS_IMAGE, jobs.MIGRATIONS_IMAGE} <= used


def test_a_function_with_permissions_has_the_kubernetes_client() -> None:
    for each in [each for kind in read_declarations(CHECKOUT) for each in kind]:
        # One without permissions may share the image of one with them.
        assert "cluster" in each.extras or each.kubernetes_role is None, each.source


def test_a_test_cluster_pulls_no_platform_image() -> None:
    images = [container["image"] for container in Rendered(CHECKOUT / "manifests/overlays/test").containers()]
    assert [image for image in images if not image.startswith("dev.local/")] == []


@pytest.mark.parametrize("overlay", ["playground", "production"])
def test_platform_images_come_from_the_configured_registry(overlay: str) -> None:
    rendered = Rendered(CHECKOUT / "manifests/overlays" / overlay)
    registry = rendered.settings()["IMAGE_REGISTRY"]
    ours = [*rendered.functions(), *(c for o in rendered.objects_of("batch", "Job") for c in containers_of(o))]
    assert ours
    assert [c["image"] for c in ours if not c["image"].startswith(f"{registry}/llmariner/function")] == []


def containers_of(owner: Object) -> list[Any]:
    found: list[Any] = owner["spec"]["template"]["spec"]["containers"]
    return found


def test_production_has_durable_events_and_no_database_of_its_own(production: Rendered) -> None:
    (broker,) = production.objects_of("eventing.knative.dev", "Broker")
    assert broker["metadata"]["annotations"]["eventing.knative.dev/broker.class"] == "Kafka"
    assert broker["spec"]["config"]["name"].split("-")[0] in production.settings()["LLMARINER_BROKER_URL"]
    assert production.objects_of("apps", "StatefulSet") == []


def test_revision_timeouts_exceed_the_jobs_waiting_time(installed: Rendered) -> None:
    """Knative fails a revision for good that is not ready in time, and none is before its Secrets and its schema."""
    waiting = max(job["spec"]["activeDeadlineSeconds"] for job in installed.objects_of("batch", "Job"))
    for each in installed.services():
        said = each["spec"]["template"]["metadata"]["annotations"]["serving.knative.dev/progress-deadline"]
        assert said.endswith("s")
        assert int(said.removesuffix("s")) > waiting


def test_no_disruption_budget_blocks_a_drain_forever(production: Rendered) -> None:
    """One replica at a time may be evicted, also a single one; and an idle one always."""
    budgets = production.objects_of("policy", "PodDisruptionBudget")
    assert budgets
    for each in budgets:
        spec = each["spec"]
        assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow"), each["metadata"]
        assert "minAvailable" not in spec
