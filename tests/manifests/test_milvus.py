"""The credentials of Milvus reach the functions that use the vector index, and no other."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from llmariner.manifests.declarations import read_declarations
from llmariner.settings import VectorSettings

from .kustomize import Rendered

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

CHECKOUT = Path(__file__).parents[2]


def speakers() -> set[str]:
    """Those that use the index."""
    workloads = [each for kind in read_declarations(CHECKOUT) for each in kind]
    return {each.name for each in workloads if "vectors" in each.extras}


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The production overlay with the components added, as its administrator would."""
    place = tmp_path_factory.mktemp("indexed")
    for folder in ("manifests", "kserve"):
        shutil.copytree(CHECKOUT / folder, place / folder)
    overlay = place / "manifests/overlays/production/kustomization.yaml"
    body = yaml.safe_load(overlay.read_text())
    body["components"] += ["../../components/milvus", "../../components/milvus/network-policy"]
    overlay.write_text(yaml.safe_dump(body))
    return Rendered(overlay.parent)


def test_every_object_is_admitted(indexed: Rendered, schemas: Schemas) -> None:
    assert {(o["kind"], o["metadata"]["name"]): f for o in indexed.objects if (f := schemas.faults(o))} == {}


def test_workloads_with_the_extra_have_the_token_and_no_other_has(indexed: Rendered) -> None:
    having = set()
    for service in indexed.services():
        spec = service["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        variables = {each["name"]: each.get("value") for each in container["env"]}
        secrets = {each["name"]: each["secret"]["secretName"] for each in spec["volumes"] if "secret" in each}
        if "llmariner-milvus" in secrets.values():
            (mount,) = [each for each in container["volumeMounts"] if secrets.get(each["name"]) == "llmariner-milvus"]
            assert variables["LLMARINER_MILVUS_TOKEN_FILE"] == f"{mount['mountPath']}/token"
            assert mount["readOnly"] is True
            having.add(service["metadata"]["name"])
        else:
            assert "MILVUS" not in str(service)
    assert having == speakers() != set()


def test_settings_of_the_overlay_are_valid_once_they_are_uncommented(tmp_path: Path) -> None:
    lines = (CHECKOUT / "manifests/overlays/production/settings.env").read_text().splitlines()
    settings = dict(line[1:].split("=", 1) for line in lines if line.startswith("#LLMARINER_MILVUS_"))
    loaded = VectorSettings.load(settings)
    assert loaded.uri.startswith("https://")
    assert loaded.ca_file == "/var/run/llmariner/milvus/ca.crt"


def test_workloads_with_the_extra_reach_milvus_with_network_policy_and_no_other_does(indexed: Rendered) -> None:
    policies = {each["metadata"]["name"]: each for each in indexed.objects_of("networking.k8s.io", "NetworkPolicy")}
    (chosen,) = policies["functions-to-milvus"]["spec"]["podSelector"]["matchExpressions"]
    assert (chosen["key"], chosen["operator"]) == ("serving.knative.dev/service", "In")
    assert set(chosen["values"]) == speakers() != set()
    (egress,) = policies["functions-to-milvus"]["spec"]["egress"]
    assert egress["ports"] == [{"port": 19530, "protocol": "TCP"}]
