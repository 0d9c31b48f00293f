"""The object store: functions that need it, and no others, get its credentials and reach it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from llmariner.manifests.declarations import read_declarations
from llmariner.platform.model_files.copy_scheme import COPY_SCHEME
from llmariner.settings import ObjectSettings

from .kustomize import Rendered

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The production overlay with the component added, as its administrator would."""
    place = tmp_path_factory.mktemp("stored")
    for folder in ("manifests", "kserve"):
        shutil.copytree(CHECKOUT / folder, place / folder)
    overlay = place / "manifests/overlays/production/kustomization.yaml"
    body = yaml.safe_load(overlay.read_text())
    body["components"] += ["../../components/object-store", "../../components/object-store/network-policy"]
    # Before the component that prefixes the names of images.
    body["components"].insert(0, "../../components/model-copies")
    overlay.write_text(yaml.safe_dump(body))
    settings = overlay.with_name("settings.env")
    settings.write_text(settings.read_text().replace("#LLMARINER_S3_", "LLMARINER_S3_"))
    return Rendered(overlay.parent)


@pytest.fixture(scope="module")
def users() -> set[str]:
    """The workloads that read or write the content of files."""
    return {each.name for kind in read_declarations(CHECKOUT) for each in kind if "objects" in each.extras}


def test_every_object_is_admitted(stored: Rendered, schemas: Schemas) -> None:
    assert {(o["kind"], o["metadata"]["name"]): f for o in stored.objects if (f := schemas.faults(o))} == {}


def test_the_settings_choose_the_store(stored: Rendered) -> None:
    loaded = ObjectSettings.load(stored.settings())
    assert (loaded.adapter, loaded.s3.bucket, loaded.s3.endpoint) == ("s3", "llmariner", "https://s3.example")


def test_the_functions_that_need_it_have_its_credentials_and_authorities(stored: Rendered, users: set[str]) -> None:
    having = set()
    for service in stored.services():
        spec = service["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        for volume in spec["volumes"]:
            if volume.get("secret", {}).get("secretName") != "llmariner-object-store":
                continue
            assert volume["secret"]["optional"] is True
            assert [item["key"] for item in volume["secret"]["items"]] == ["ca.crt"]
            (mount,) = [each for each in container["volumeMounts"] if each["name"] == volume["name"]]
            assert mount["mountPath"] == "/var/run/llmariner/object-store"
            having.add(service["metadata"]["name"])
        references = {
            each["name"]: each["valueFrom"]["secretKeyRef"]
            for each in container["env"]
            if each["name"].startswith(("LLMARINER_S3_", "LLMARINER_PREVIOUS_"))
        }
        if service["metadata"]["name"] in users:
            assert references == {
                "LLMARINER_S3_ACCESS_KEY": {"name": "llmariner-object-store", "key": "access-key", "optional": True},
                "LLMARINER_S3_SECRET_KEY": {"name": "llmariner-object-store", "key": "secret-key", "optional": True},
                "LLMARINER_PREVIOUS_SERVICE_SECRET": {
                    "name": "llmariner-secrets",
                    "key": "LLMARINER_PREVIOUS_SERVICE_SECRET",
                    "optional": True,
                },
            }
        else:
            assert references == {}
    assert having == users
    assert {"files", "sweep"} <= users


def test_only_they_reach_it(stored: Rendered, users: set[str]) -> None:
    policies = stored.objects_of("networking.k8s.io", "NetworkPolicy")
    (policy,) = [each for each in policies if each["metadata"]["name"] == "functions-to-object-store"]
    (chosen,) = policy["spec"]["podSelector"]["matchExpressions"]
    assert (chosen["key"], chosen["operator"]) == ("serving.knative.dev/service", "In")
    assert set(chosen["values"]) == users
    (rule,) = policy["spec"]["egress"]
    assert rule["to"] == [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}}]
    assert [port["port"] for port in rule["ports"]] == [443]


def test_without_the_component_there_is_no_store() -> None:
    production = Rendered(CHECKOUT / "manifests/overlays/production")
    assert not ObjectSettings.load(production.settings()).is_configured
    assert "llmariner-object-store" not in str(production.objects)


def test_copies_of_models_are_fetched_by_the_platforms_image(stored: Rendered) -> None:
    """In place of KServe's own container, which does not know their URIs."""
    (container,) = stored.objects_of("serving.kserve.io", "ClusterStorageContainer")
    image = container["spec"]["container"]["image"]
    assert image in {each["spec"]["template"]["spec"]["containers"][0]["image"] for each in stored.services()}
    assert not image.startswith("llmariner/")
    assert container["spec"]["supportedUriFormats"] == [{"prefix": COPY_SCHEME}]
    # It has credentials of its own, in the models' namespace: those of functions may write.
    assert container["spec"]["container"]["envFrom"] == [{"secretRef": {"name": "llmariner-model-store"}}]
    assert stored.settings()["LLMARINER_MODEL_COPIES"] == "1"
