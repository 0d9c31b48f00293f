"""Dex in overlays that include it: reachable, bounded, and without secrets in manifests."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from llmariner.installation.__main__ import main
from llmariner.installation.dex import CONNECTORS_SECRET, PATH, render_configuration
from llmariner.installation.retry import RetryLater
from llmariner.installation.secret_objects import SecretObjects
from llmariner.installation.secrets import ensure_secrets

from .kustomize import Object, Rendered, names
from .test_network_policy import FUNCTION, admits, chosen, peers, policies

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

CHECKOUT = Path(__file__).parents[2]
ISSUER = f"https://llm.example.org{PATH}"
DEX = ("llmariner", {"app.kubernetes.io/name": "dex"})
SECRET = "pa$$word-of-the-directory"
CONNECTORS = f"""
- type: github
  id: github
  name: GitHub
  config: {{clientID: us, clientSecret: "{SECRET}"}}
- {{type: ldap, id: ldap, name: Directory, config: {{host: "ldap.example.org:636"}}}}
- {{type: oidc, id: ci, name: CI, config: {{issuer: "https://ci.example.org", redirectURI: "https://else.example/back"}}}}
"""


def overlay(place: Path, base: str, *components: str, first: bool = False) -> Rendered:
    """An overlay with components added, as its administrator would."""
    for folder in ("manifests", "kserve"):
        shutil.copytree(CHECKOUT / folder, place / folder)
    file = place / f"manifests/overlays/{base}/kustomization.yaml"
    body = yaml.safe_load(file.read_text())
    added = [f"../../components/{name}" for name in components]
    body["components"] = [*added, *body["components"]] if first else [*body["components"], *added]
    file.write_text(yaml.safe_dump(body))
    settings = file.with_name("settings.env")
    settings.write_text(settings.read_text().replace("api.llmariner.example", "llm.example.org"))
    return Rendered(file.parent)


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    return overlay(tmp_path_factory.mktemp("dex"), "production", "dex", "dex/network-policy")


def one(rendered: Rendered, group: str, kind: str, name: str) -> Object:
    (found,) = [each for each in rendered.objects_of(group, kind) if each["metadata"]["name"] == name]
    return found


def test_every_object_is_admitted(production: Rendered, schemas: Schemas) -> None:
    assert {(o["kind"], o["metadata"]["name"]): f for o in production.objects if (f := schemas.faults(o))} == {}


def test_dex_is_in_no_overlay_by_default() -> None:
    for name in ("production", "playground", "test"):
        rendered = Rendered(CHECKOUT / "manifests/overlays" / name)
        assert [
            each["metadata"]["name"] for each in rendered.objects if "dex" in each["metadata"]["name"].split("-")
        ] == []


@pytest.mark.parametrize("first", [True, False])
def test_requests_below_its_path_reach_it_for_any_order_of_components(first: bool, tmp_path: Path) -> None:
    rendered = overlay(tmp_path, "production", "dex", first=first)
    route = one(rendered, "gateway.networking.k8s.io", "HTTPRoute", "dex")
    assert route["spec"]["hostnames"] == ["llm.example.org"]
    (rule,) = route["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": "dex", "port": 5556}]
    # As in test_routing.py: of one kind with all that takes the path, and the longest of it.
    taking = {name: place for name, place in _places(rendered) if _takes(place, f"{PATH}/auth")}
    assert {place["type"] for place in taking.values()} == {"RegularExpression"}
    assert max(taking, key=lambda name: len(taking[name]["value"])) == "dex"
    assert len(taking) > 1, "there is a route for all the rest"


def _places(rendered: Rendered) -> Iterator[tuple[str, dict[str, str]]]:
    for route in rendered.objects_of("gateway.networking.k8s.io", "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            for match in rule["matches"]:
                yield route["metadata"]["name"], match["path"]


def _takes(place: dict[str, str], path: str) -> bool:
    kind, value = place["type"], place["value"]
    if kind == "RegularExpression":
        return re.fullmatch(value, path) is not None
    return path == value or (kind == "PathPrefix" and path.startswith(value.rstrip("/") + "/"))


def test_no_manifest_contains_a_secret(production: Rendered) -> None:
    ours = [each for each in production.objects if each["metadata"]["name"] == "dex"]
    assert {"Deployment", "HTTPRoute", "Role", "RoleBinding", "Service", "ServiceAccount"} <= {e["kind"] for e in ours}
    text = yaml.safe_dump_all(ours).lower()
    assert "clientsecret" not in text
    assert "hash" not in text
    assert production.objects_of("", "Secret") == []


def test_dex_runs_unprivileged_and_with_limits(production: Rendered) -> None:
    pod = one(production, "apps", "Deployment", "dex")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    security = container["securityContext"]
    assert (security["runAsNonRoot"], security["readOnlyRootFilesystem"]) == (True, True)
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
    assert {each["name"]: each.get("value") for each in container["env"]} == {"DEX_EXPAND_ENV": "false"}


def test_another_image_can_be_configured(tmp_path: Path) -> None:
    overlay(tmp_path, "production", "dex")
    file = tmp_path / "manifests/overlays/production/kustomization.yaml"
    body = yaml.safe_load(file.read_text())
    body["images"] = [{"name": "dexidp/dex", "newName": "registry.example/dex", "newTag": "next"}]
    file.write_text(yaml.safe_dump(body))
    pod = one(Rendered(file.parent), "apps", "Deployment", "dex")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "registry.example/dex:next"


def test_its_permissions_are_for_its_own_kinds_in_the_platforms_namespace(production: Rendered) -> None:
    rules = one(production, "rbac.authorization.k8s.io", "Role", "dex")["rules"]
    assert [rule["apiGroups"] for rule in rules] == [["dex.coreos.com"]]
    defined = production.objects_of("apiextensions.k8s.io", "CustomResourceDefinition")
    assert sorted(rules[0]["resources"]) == sorted(each["spec"]["names"]["plural"] for each in defined)
    assert not [r for r in production.objects_of("rbac.authorization.k8s.io", "ClusterRoleBinding") if "dex" in str(r)]


def test_the_secrets_job_creates_its_configuration_with_minimal_permissions(production: Rendered) -> None:
    (job,) = [each for each in production.objects_of("batch", "Job") if each["metadata"]["name"].startswith("secrets-")]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert "--dex" in container["command"]
    (variable,) = container["env"]
    assert variable["name"] == "LLMARINER_OIDC_ISSUER"
    rules = one(production, "rbac.authorization.k8s.io", "Role", "secrets")["rules"]
    allowed = {name: rule["verbs"] for rule in rules for name in rule.get("resourceNames", ())}
    assert (allowed["llmariner-dex"], allowed[CONNECTORS_SECRET]) == (["get", "patch"], ["get"])


def test_functions_have_its_internal_address(production: Rendered) -> None:
    where = production.settings()["LLMARINER_OIDC_INTERNAL_URL"]
    service = one(production, "", "Service", "dex")
    host, port = f"dex.{service['metadata']['namespace']}.svc.cluster.local", service["spec"]["ports"][0]["port"]
    assert where == f"http://{host}:{port}{PATH}"


def test_its_ports_and_peers(production: Rendered) -> None:
    everybody = one(production, "networking.k8s.io", "NetworkPolicy", "dex")["spec"]["ingress"]
    assert everybody == [{"ports": [{"port": 5556, "protocol": "TCP"}]}]
    assert not admits(production, DEX, ("default", {}), 5558)
    out = [
        (peer.get("podSelector"), ports)
        for policy in policies(production)
        if chosen(policy, *FUNCTION)
        for peer, ports in peers(policy, "egress")
    ]
    assert ({"matchLabels": DEX[1]}, [5556]) in out


def test_functions_reach_an_external_issuer_if_an_overlay_allows_it(tmp_path: Path) -> None:
    rendered = overlay(tmp_path, "production", "external-issuer")
    policy = one(rendered, "networking.k8s.io", "NetworkPolicy", "functions-to-issuer")
    assert chosen(policy, *FUNCTION)
    (rule,) = policy["spec"]["egress"]
    assert rule["ports"] == [{"port": 443, "protocol": "TCP"}]
    assert "169.254.169.254/32" in rule["to"][0]["ipBlock"]["except"]
    assert names(Rendered(CHECKOUT / "manifests/overlays/production").objects) & {"functions-to-issuer"} == set()


def brought(**files: str) -> dict[str, str]:
    return {"connectors.yaml": CONNECTORS, **{f"{name}.yaml": text for name, text in files.items()}}


def test_the_configuration_has_the_given_values_and_no_password() -> None:
    made = yaml.safe_load(render_configuration(ISSUER, brought())["config.yaml"])
    assert made["issuer"] == ISSUER
    assert made["staticClients"] == [{"id": "llmariner", "name": "LLMariner", "public": True}]
    assert not {"staticPasswords", "enablePasswordDB"} & made.keys()
    assert not [grant for grant in made["oauth2"]["grantTypes"] if "password" in grant or "exchange" in grant]
    github, ldap, ci = made["connectors"]
    assert github["config"] == {"clientID": "us", "clientSecret": SECRET, "redirectURI": f"{ISSUER}/callback"}
    assert ldap["config"] == {"host": "ldap.example.org:636"}
    assert ci["config"]["redirectURI"] == "https://else.example/back"


def test_additional_clients_can_be_configured() -> None:
    made = yaml.safe_load(render_configuration(ISSUER, brought(clients="[{id: console, public: true}]"))["config.yaml"])
    assert [each["id"] for each in made["staticClients"]] == ["llmariner", "console"]


def test_token_exchange_is_opt_in() -> None:
    made = yaml.safe_load(render_configuration(ISSUER, {**brought(), "token-exchange": "on\n"})["config.yaml"])
    assert "urn:ietf:params:oauth:grant-type:token-exchange" in made["oauth2"]["grantTypes"]


WRONG: dict[str, tuple[str, dict[str, str] | None, str]] = {
    "no issuer": ("", brought(), "LLMARINER_OIDC_ISSUER"),
    "an issuer elsewhere": ("https://llm.example.org/dex", brought(), "LLMARINER_OIDC_ISSUER"),
    "no connectors": (ISSUER, None, "create secret generic llmariner-dex-connectors"),
    "an empty list": (ISSUER, {"connectors.yaml": "[]"}, "list of at least 1"),
    "no list": (ISSUER, {"connectors.yaml": "type: github"}, "list of at least 1"),
    "no YAML": (ISSUER, {"connectors.yaml": f"[{SECRET}"}, "no YAML"),
    "an answer that is none": (ISSUER, {**brought(), "token-exchange": "maybe"}, "must be on or off"),
    "a nameless connector": (ISSUER, {"connectors.yaml": "[{type: github}]"}, "lacks id, name"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_missing_or_invalid_values_are_reported_without_secrets(fault: str) -> None:
    issuer, files, reason = WRONG[fault]
    with pytest.raises(RetryLater, match=reason) as waiting:
        render_configuration(issuer, files)
    assert SECRET not in str(waiting.value)


def test_the_job_creates_other_secrets_before_it_waits_and_applies_changes(secret_objects: SecretObjects) -> None:
    with pytest.raises(RetryLater, match=CONNECTORS_SECRET):
        ensure_secrets(secret_objects, postgres_host="postgres", dex_issuer=ISSUER)
    assert secret_objects.get("llmariner-database") is not None
    assert secret_objects.get("llmariner-dex") is None
    secret_objects.create(CONNECTORS_SECRET, brought())
    reported = ensure_secrets(secret_objects, postgres_host="postgres", dex_issuer=ISSUER)
    assert reported == ["llmariner-dex made."]
    assert ensure_secrets(secret_objects, postgres_host="postgres", dex_issuer=ISSUER) == ["All secrets are there."]
    secret_objects.replace(CONNECTORS_SECRET, brought(clients="[{id: console, public: true}]"))
    assert (
        "follows llmariner-dex-connectors"
        in ensure_secrets(secret_objects, postgres_host="postgres", dex_issuer=ISSUER)[0]
    )
    found = secret_objects.get("llmariner-dex")
    assert found is not None
    assert "console" in found.values["config.yaml"]


def test_the_job_is_configured_by_its_setting(
    secret_objects: SecretObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMARINER_KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("LLMARINER_OIDC_ISSUER", raising=False)
    arguments = ["secrets", "--postgres=postgres", "--dex"]
    assert main(arguments) == 1
    assert "LLMARINER_OIDC_ISSUER" in capsys.readouterr().err
    secret_objects.create(CONNECTORS_SECRET, brought())
    monkeypatch.setenv("LLMARINER_OIDC_ISSUER", ISSUER)
    assert main(arguments) == 0
    written: Any = capsys.readouterr()
    assert SECRET not in written.out + written.err
