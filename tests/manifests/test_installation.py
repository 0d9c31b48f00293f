"""What `kubectl apply -k` would send: rendered by kubectl itself, admitted object by object, and true to itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from llmariner.manifests.tree import stale

if TYPE_CHECKING:
    from kubernetes.schemas import Schemas

CHECKOUT = Path(__file__).parents[2]
KUBECTL = Path(sys.executable).with_name("kubectl")


class Rendered:
    """The objects of one kustomization."""

    def __init__(self, folder: Path) -> None:
        shown = subprocess.run([KUBECTL, "kustomize", folder], check=True, capture_output=True, text=True)
        self.objects: list[dict[str, Any]] = list(yaml.load_all(shown.stdout, Loader=yaml.CSafeLoader))

    def of(self, group: str, kind: str) -> list[dict[str, Any]]:
        return [o for o in self.objects if o["kind"] == kind and o["apiVersion"].rpartition("/")[0] == group]

    def services(self) -> list[dict[str, Any]]:
        return self.of("serving.knative.dev", "Service")

    def routes(self) -> list[dict[str, Any]]:
        return self.of("gateway.networking.k8s.io", "HTTPRoute")


def names(objects: list[dict[str, Any]]) -> set[str]:
    return {each["metadata"]["name"] for each in objects}


def containers(rendered: Rendered) -> list[dict[str, Any]]:
    return [c for s in rendered.services() for c in s["spec"]["template"]["spec"]["containers"]]


@pytest.fixture(scope="module", params=["in miniature", "of this checkout"])
def installed(request: pytest.FixtureRequest, miniature: Path) -> Rendered:
    """The overlay for test clusters, of a platform in miniature and of this one."""
    place = miniature if request.param == "in miniature" else CHECKOUT
    return Rendered(place / "manifests/overlays/test")


def test_the_files_of_this_checkout_say_what_its_declarations_say() -> None:
    assert list(stale(CHECKOUT)) == []


@pytest.mark.parametrize("folder", ["base", "overlays/test"])
def test_every_object_of_this_checkout_is_admitted(folder: str, schemas: Schemas) -> None:
    rendered = Rendered(CHECKOUT / "manifests" / folder)
    assert {o["kind"]: schemas.faults(o) for o in rendered.objects if schemas.faults(o)} == {}


def test_every_object_of_the_miniature_is_admitted(miniature: Path, schemas: Schemas) -> None:
    rendered = Rendered(miniature / "manifests/overlays/test")
    kinds = {each["kind"] for each in rendered.objects}
    assert {"Service", "HTTPRoute", "Trigger", "PingSource", "Broker", "ReferenceGrant", "Gateway"} <= kinds
    assert {o["kind"]: schemas.faults(o) for o in rendered.objects if schemas.faults(o)} == {}


def test_the_prerequisites_are_admitted(schemas: Schemas) -> None:
    body = yaml.safe_load((CHECKOUT / "manifests/prerequisites/config-defaults.yaml").read_text())
    assert schemas.faults(body) == []


@pytest.mark.parametrize("place", ["in miniature", "of this checkout"])
def test_knative_will_not_refuse_a_timeout(place: str, miniature: Path) -> None:
    manifests = (miniature if place == "in miniature" else CHECKOUT) / "manifests"
    limits = yaml.safe_load((manifests / "prerequisites/config-defaults.yaml").read_text())["data"]
    asked = [
        service["spec"]["template"]["spec"]["timeoutSeconds"] for service in Rendered(manifests / "base").services()
    ]
    assert max(asked, default=0) <= int(limits["max-revision-timeout-seconds"])


def test_the_name_of_every_revision_is_a_dns_label(installed: Rendered) -> None:
    for name in names(installed.services()):
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
        assert len(f"{name}-00001") <= 63


def test_no_function_has_rights_in_the_cluster(installed: Rendered) -> None:
    assert not [o for o in installed.objects if o["apiVersion"].startswith("rbac.")]
    accounts = installed.of("", "ServiceAccount")
    assert all(each["automountServiceAccountToken"] is False for each in accounts)
    used = [s["spec"]["template"]["spec"]["serviceAccountName"] for s in installed.services()]
    assert sorted(used) == sorted(names(accounts))


def test_no_secret_is_written_down(installed: Rendered) -> None:
    assert installed.of("", "Secret") == []
    (settings,) = installed.of("", "ConfigMap")
    spelt = {**settings["data"]}
    for container in containers(installed):
        spelt |= {each["name"]: each["value"] for each in container["env"] if "value" in each}
    assert not [name for name in spelt if re.search("PEPPER|SECRET|PASSWORD|TOKEN|DATABASE_URL", name)]


def test_secrets_and_settings_come_from_the_objects_that_are_documented(installed: Rendered) -> None:
    for container in containers(installed):
        referred = [each["valueFrom"] for each in container["env"] if "valueFrom" in each]
        assert {ref["secretKeyRef"]["name"] for ref in referred if "secretKeyRef" in ref} <= {"llmariner-secrets"}
        assert {"configMapRef": {"name": "llmariner-settings"}} in container["envFrom"]


def test_every_setting_is_one_that_the_platform_reads(installed: Rendered) -> None:
    read = (CHECKOUT / "shared/llmariner/settings.py").read_text()
    (settings,) = installed.of("", "ConfigMap")
    assert [name for name in settings["data"] if f"`{name}`" not in read] == []


def test_the_control_url_is_that_of_a_function(installed: Rendered) -> None:
    (settings,) = installed.of("", "ConfigMap")
    host = settings["data"]["LLMARINER_CONTROL_URL"].removeprefix("http://")
    assert host.split(".")[0] in names(installed.services())


def test_a_route_leads_to_a_function_through_a_gateway_that_may_be_used(installed: Rendered) -> None:
    (grant,) = installed.of("gateway.networking.k8s.io", "ReferenceGrant")
    (gateway,) = installed.of("gateway.networking.k8s.io", "Gateway")
    granted = (grant["spec"]["to"][0]["name"], grant["metadata"]["namespace"])
    host = gateway["spec"]["listeners"][0]["hostname"]
    for route in installed.routes():
        assert route["spec"]["parentRefs"] == [{"name": gateway["metadata"]["name"]}]
        assert route["spec"]["hostnames"] == [host]
        for rule in route["spec"]["rules"]:
            (backend,), (rewrite, header) = rule["backendRefs"], rule["filters"]
            assert (backend["name"], backend["namespace"]) == granted
            assert rewrite["urlRewrite"]["hostname"].split(".")[0] in names(installed.services())
            assert header["requestHeaderModifier"]["set"][0]["value"] == host


def test_a_trigger_leads_from_the_broker_to_a_function(installed: Rendered) -> None:
    brokers = names(installed.of("eventing.knative.dev", "Broker"))
    for trigger in installed.of("eventing.knative.dev", "Trigger"):
        assert trigger["spec"]["broker"] in brokers
        assert "brokerRef" not in trigger["spec"]
        assert trigger["spec"]["subscriber"]["ref"]["name"] in names(installed.services())


def test_a_test_cluster_pulls_no_image_of_ours(installed: Rendered) -> None:
    assert [c["image"] for c in containers(installed) if not c["image"].startswith("dev.local/")] == []


def test_every_kserve_object_of_ours_is_in_the_base() -> None:
    rendered = Rendered(CHECKOUT / "manifests/base").of("serving.kserve.io", "ClusterServingRuntime")
    assert names(rendered) == {path.stem for path in (CHECKOUT / "kserve").glob("vllm-*.yaml")}
