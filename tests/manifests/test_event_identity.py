"""Event authentication: publishers have a token for the Broker, and the Broker accepts only the platform's accounts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from llmariner.manifests.declarations import read_declarations

from .kustomize import Rendered, names

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def identified(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The production overlay with the component added, as its administrator would."""
    place = tmp_path_factory.mktemp("identified")
    for folder in ("manifests", "kserve"):
        shutil.copytree(CHECKOUT / folder, place / folder)
    overlay = place / "manifests/overlays/production/kustomization.yaml"
    body = yaml.safe_load(overlay.read_text())
    body["components"].append("../../components/event-identity")
    overlay.write_text(yaml.safe_dump(body))
    return Rendered(overlay.parent)


def test_every_object_is_admitted(identified: Rendered, schemas: Schemas) -> None:
    assert {(o["kind"], o["metadata"]["name"]): f for o in identified.objects if (f := schemas.faults(o))} == {}


def test_publishers_have_a_token_for_the_broker_only(identified: Rendered) -> None:
    (broker,) = identified.objects_of("eventing.knative.dev", "Broker")
    where = broker["metadata"]
    publishing = set()
    for service in identified.services():
        spec = service["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        reported = {each["name"]: each.get("value") for each in container["env"]}
        for volume in [each for each in spec["volumes"] if "projected" in each]:
            (source,) = volume["projected"]["sources"]
            token = source["serviceAccountToken"]
            assert token["audience"] == f"eventing.knative.dev/broker/{where['namespace']}/{where['name']}"
            (mount,) = [each for each in container["volumeMounts"] if each["name"] == volume["name"]]
            assert reported["LLMARINER_BROKER_TOKEN_FILE"] == f"{mount['mountPath']}/{token['path']}"
            publishing.add(service["metadata"]["name"])
    workloads = [each for kind in read_declarations(CHECKOUT) for each in kind]
    assert publishing == {each.name for each in workloads if "database" in each.extras}


def test_the_broker_accepts_events_of_the_platforms_accounts_only(identified: Rendered) -> None:
    (policy,) = identified.objects_of("eventing.knative.dev", "EventPolicy")
    (to,), (source,) = policy["spec"]["to"], policy["spec"]["from"]
    assert to["ref"]["name"] in names(identified.objects_of("eventing.knative.dev", "Broker"))
    assert source == {"sub": "system:serviceaccount:llmariner:*"}
    assert {o["metadata"]["namespace"] for o in identified.objects_of("", "ServiceAccount")} == {"llmariner"}


def test_without_the_component_there_are_no_tokens() -> None:
    production = Rendered(CHECKOUT / "manifests/overlays/production")
    assert "projected" not in str(production.services())
