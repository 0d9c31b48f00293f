"""Kubernetes' changes reach the registry: an event as an ApiServerSource sends it, the consumer, the control function."""

from __future__ import annotations

import importlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from llmariner.context import Context
from llmariner.models.model import ActivationStatus, Model
from llmariner.models.queries import ModelSelector
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.kube.resources import INFERENCE_SERVICES, NAMESPACES

if TYPE_CHECKING:
    from kubernetes_api.caller import Caller

# For a type checker the packages of `tests` are top-level: a relative import cannot name another one.
_caller = importlib.import_module("..kubernetes_api.caller", __package__)
_server = importlib.import_module("..kubernetes_api.server", __package__)
_schemas = importlib.import_module("..kubernetes_api.schemas", __package__)
_http_calls = importlib.import_module("..functions.http_calls", __package__)
_processes = importlib.import_module("..functions.processes", __package__)

CHECKOUT = Path(__file__).resolve().parents[2]
NAMESPACE = "llmariner-models"
ADDED, UPDATED, DELETED = (f"dev.knative.apiserver.ref.{what}" for what in ("add", "update", "delete"))


@dataclass
class Platform:
    """The consumer and the control function as processes, the registry, and a cluster's API."""

    consumer: int
    context: Context
    cluster: Caller

    def made(self, name: str, **labels: str) -> None:
        body = {"apiVersion": INFERENCE_SERVICES.api_version, "kind": INFERENCE_SERVICES.kind}
        metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
        self.cluster.make(INFERENCE_SERVICES, {**body, "metadata": metadata, "spec": {"predictor": {}}})

    def deleted(self, name: str) -> None:
        self.cluster.done("DELETE", INFERENCE_SERVICES.path(NAMESPACE, name))

    def deliver(self, type_: str, data: Any) -> int:
        """What the consumer answers to an event with this data."""
        said = {**attributes(type_), "content-type": "application/json"}
        headers = {(key if key == "content-type" else f"ce-{key}"): value for key, value in said.items()}
        question = _http_calls.HttpRequest("POST", "/", json.dumps(data).encode(), headers)
        status: int = _http_calls.send_over_http(self.consumer, question).status
        return status

    def models(self) -> dict[str, Model]:
        registry = self.context.registry
        page = registry.page(ModelSelector(None), after=None, limit=100)
        return {model.id: model for model in page}


def attributes(type_: str, kind: str = "InferenceService") -> dict[str, str]:
    """As knative.dev/eventing's pkg/adapter/apiserver/events sets them."""
    plain = {"specversion": "1.0", "id": uuid.uuid4().hex, "source": "https://10.96.0.1:443", "type": type_}
    plain["subject"] = f"/apis/serving.kserve.io/v1beta1/namespaces/{NAMESPACE}/inferenceservices/x"
    return {**plain, "kind": kind, "apiversion": "serving.kserve.io/v1beta1", "namespace": NAMESPACE, "name": "x"}


def reference(name: str) -> dict[str, str]:
    kind = {"apiVersion": INFERENCE_SERVICES.api_version, "kind": INFERENCE_SERVICES.kind}
    return {**kind, "name": name, "namespace": NAMESPACE}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    place = _schemas.folder()
    folder = tmp_path_factory.mktemp("adoption")
    with _server.ApiServer(_schemas.Schemas(place), place) as server:
        kubeconfig = server.kubeconfig(folder / "kubeconfig")
        caller = _caller.Caller(kubeconfig, agent="kubectl")
        caller.make(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        environment = {
            "LLMARINER_DATABASE_URL": f"sqlite:///{folder / 'platform.db'}",
            "LLMARINER_PEPPER": "0123456789abcdef" * 4,
            "LLMARINER_SERVICE_SECRET": "fedcba9876543210" * 4,
        }
        context = Context(environment)
        upgrade(context.database)
        serving = {**environment, "LLMARINER_SERVING": "kserve", "LLMARINER_KUBECONFIG": str(kubeconfig)}
        control_function = _processes.boot_command(CHECKOUT / "functions/internal_gateway")
        with _processes.process(control_function, serving, folder / "control.log") as control:
            consumer_environment = {**environment, "LLMARINER_CONTROL_URL": f"http://127.0.0.1:{control}"}
            consumer = _processes.boot_command(CHECKOUT / "eventing/model_adoption")
            with _processes.process(consumer, consumer_environment, folder / "consumer.log") as port:
                yield Platform(port, context, caller)
        context.database.close()


def test_an_external_service_is_imported_once_for_repeated_events(platform: Platform) -> None:
    platform.made("theirs")
    for _ in range(3):
        assert platform.deliver(ADDED, reference("theirs")) == 204
    assert platform.models()["theirs"].model_file_location == "theirs"
    revision = platform.models()["theirs"].revision
    assert platform.deliver(ADDED, reference("theirs")) == 204
    assert platform.models()["theirs"].revision == revision, "delivered again, it changes nothing"


def test_a_deleted_service_is_removed_in_any_phase_and_others_remain(platform: Platform) -> None:
    for name in ("stays", "awake", "new"):
        platform.made(name)
        assert platform.deliver(ADDED, reference(name)) == 204
    platform.context.registry.mark_loaded(
        "awake", folder="kserve://awake", size_bytes=0, task=platform.models()["awake"].task
    )
    platform.context.registry.activate("awake", ActivationStatus.ACTIVE, project_id=None)
    for name in ("awake", "new"):
        platform.deleted(name)
        assert platform.deliver(DELETED, reference(name)) == 204
        assert platform.deliver(DELETED, reference(name)) == 204
    assert {"awake", "new"} & platform.models().keys() == set()
    assert "stays" in platform.models()


def test_the_clusters_state_overrides_an_old_event(platform: Platform) -> None:
    platform.made("again")
    assert platform.deliver(DELETED, reference("again")) == 204
    assert "again" in platform.models()
    platform.deleted("again")
    assert platform.deliver(ADDED, reference("again")) == 204
    assert "again" not in platform.models()


def test_a_service_of_the_platform_is_not_imported(platform: Platform) -> None:
    platform.made("m-small-1", **{"app.kubernetes.io/managed-by": "llmariner"})
    assert platform.deliver(ADDED, reference("m-small-1")) == 204
    assert "m-small-1" not in platform.models()


@pytest.mark.parametrize("data", [{}, {"name": 3}, {"name": ""}])
def test_an_event_without_a_service_is_rejected_permanently(data: dict[str, Any], platform: Platform) -> None:
    assert platform.deliver(ADDED, data) == 400


def test_the_trigger_selects_creation_and_deletion_but_not_updates() -> None:
    """Filters as Knative reads them: all of a list must hold; `any` and `exact` are what they say."""
    trigger = yaml.safe_load((CHECKOUT / "eventing/model_adoption/trigger.yaml").read_text())

    def holds(each: dict[str, Any], event: dict[str, str]) -> bool:
        ((dialect, said),) = each.items()
        if dialect == "any":
            return any(holds(one, event) for one in said)
        assert dialect == "exact", dialect
        return all(event.get(name) == value for name, value in said.items())

    def through(event: dict[str, str]) -> bool:
        return all(holds(each, event) for each in trigger["spec"]["filters"])

    assert [through(attributes(type_)) for type_ in (ADDED, DELETED, UPDATED)] == [True, True, False]
    assert not through(attributes(ADDED, kind="Job"))
    assert not through({**attributes("ai.llmariner.model.created.v1"), "kind": "InferenceService"})
