"""Hosts of notebooks: a listener and a route of their own, by which a browser's host reaches the function unforged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from .kustomize import Object, Rendered

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

CHECKOUT = Path(__file__).parents[2]
GATEWAY_API = "gateway.networking.k8s.io"
COMPONENTS = ("notebook-hosts", "notebook-hosts/certificate")


@pytest.fixture(scope="module", params=["first", "last"])
def production(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The production overlay with the components, wherever its administrator lists them."""
    place = tmp_path_factory.mktemp("hosts")
    for folder in ("manifests", "kserve"):
        shutil.copytree(CHECKOUT / folder, place / folder)
    overlay = place / "manifests/overlays/production"
    body = yaml.safe_load((overlay / "kustomization.yaml").read_text())
    added = [f"../../components/{name}" for name in COMPONENTS]
    body["components"] = [*added, *body["components"]] if request.param == "first" else [*body["components"], *added]
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(body))
    with (overlay / "settings.env").open("a") as settings:
        settings.write("LLMARINER_NOTEBOOK_URL=https://*.nb.example.net\n")
    changed = (overlay / "settings.env").read_text().replace("=kourier-system", "=contour-internal")
    (overlay / "settings.env").write_text(changed)
    return Rendered(overlay)


def route(rendered: Rendered, name: str) -> Object:
    (found,) = [each for each in rendered.routes() if each["metadata"]["name"] == name]
    spec: Object = found["spec"]
    return spec


def test_the_wildcard_is_that_of_the_settings(production: Rendered, schemas: Schemas) -> None:
    (gateway,) = production.objects_of(GATEWAY_API, "Gateway")
    api, notebooks = gateway["spec"]["listeners"]
    assert (api["hostname"], notebooks["hostname"]) == ("api.llmariner.example", "*.nb.example.net")
    assert route(production, "notebook-hosts")["hostnames"] == ["*.nb.example.net"]
    certificates = {
        each["spec"]["secretName"]: each["spec"]["dnsNames"]
        for each in production.objects_of("cert-manager.io", "Certificate")
    }
    assert certificates["llmariner-notebooks-tls"] == ["*.nb.example.net"]
    assert notebooks["tls"]["certificateRefs"] == [{"name": "llmariner-notebooks-tls"}]
    assert schemas.faults(gateway) == []


def test_only_notebooks_answer_at_their_hosts(production: Rendered) -> None:
    own = route(production, "notebook-hosts")
    (rule,) = own["rules"]
    assert [each["path"]["value"] for each in rule["matches"]] == ["/v1/services/notebooks"]
    assert own["parentRefs"] == [
        {"name": "llmariner", "namespace": "llmariner-gateway", "sectionName": "notebooks"},
    ]
    others = [name for each in production.routes() for name in each["spec"]["hostnames"] if "nb.example" in name]
    assert others == ["*.nb.example.net"]
    (at_api,) = route(production, "services-notebooks")["rules"]
    assert rule["filters"][0] == at_api["filters"][0]
    assert rule["backendRefs"] == at_api["backendRefs"]
    assert rule["backendRefs"][0]["namespace"] == "contour-internal"


def test_the_gateway_says_which_host_it_was(production: Rendered) -> None:
    def said(name: str) -> str:
        (rule,) = route(production, name)["rules"]
        (field,) = rule["filters"][1]["requestHeaderModifier"]["set"]
        assert field["name"] == "X-Forwarded-Host"
        return str(field["value"])

    assert said("notebook-hosts") == "%REQ(:AUTHORITY)%"
    assert said("services-notebooks") == "api.llmariner.example"
