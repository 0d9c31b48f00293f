"""Which Secret of an engine's adapters goes when another one takes its place. tests/kubernetes_api makes them."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest

from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.kserve.adapter_secret import AdapterSecrets
from llmariner.platform.serving.kserve.model_lookup import ServedEngine
from llmariner.platform.serving.kserve.objects import inference_service
from llmariner.settings import KServeSettings

SETTINGS = KServeSettings(adapter_image="engine:1", adapter_url="http://platform/adapters")
BASE = EngineModel("base", "hf://org/base", "generate", 0)
TUNED = EngineModel("ft:base", "llmariner-file://1", "generate", 0, base="base", weights_token="token")


class Secrets:
    """The part of `Cluster` that makes and deletes them."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.deleted: list[tuple[str, str]] = []

    def create(self, body: dict[str, Any]) -> None:
        self.made.append(body["metadata"]["name"])

    def delete(self, _: object, namespace: str, name: str) -> None:
        self.deleted.append((namespace, name))


@pytest.mark.parametrize(
    ("volume", "goes"),
    [
        ({"secret": {"secretName": "NAME-adapters-0123"}}, True),
        ({"secret": {"secretName": "password-of-a-database"}}, False),
        ({"secret": {"secretName": "other-adapters-0123"}}, False),
        ({"secret": {}}, False),
        ({"configMap": {"name": "NAME-adapters-0123"}}, False),
    ],
)
def test_the_secret_of_before_goes_and_nothing_else_that_somebody_names(volume: dict[str, Any], goes: bool) -> None:
    service = inference_service(BASE, (TUNED,), SETTINGS)
    service["metadata"]["uid"] = "1"
    name, before = service["metadata"]["name"], deepcopy(service)
    named = json.loads(json.dumps(volume).replace("NAME", name))
    before["spec"]["predictor"]["volumes"] = [{"name": "adapter-tokens", **named}]
    cluster = Secrets()
    AdapterSecrets(cluster).make(service, ServedEngine(BASE, (TUNED,)), before)  # type: ignore[arg-type]
    assert [each.startswith(f"{name}-adapters-") for each in cluster.made] == [True]
    assert cluster.deleted == ([(SETTINGS.namespace, f"{name}-adapters-0123")] if goes else [])
