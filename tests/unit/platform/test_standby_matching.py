"""Which standby pod a model may use: one that is warm, complete and unclaimed."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.kserve.objects import INFERENCE_SERVICE_LABEL, engine_spec
from llmariner.platform.serving.kserve.standby_matching import Match, match
from llmariner.settings import KServeSettings

MODEL = EngineModel("small", "pvc://models/small", "generate", 0)
RUNTIME = {"spec": {"containers": [{"name": "kserve-container", "args": ["--port=8080"]}]}}
POD: dict[str, Any] = {
    "metadata": {"name": "standby-1", "namespace": "llmariner-models", "labels": {"llmariner.ai/standby": "vllm-cpu"}},
    "spec": {
        "containers": [
            {
                "name": "kserve-container",
                "resources": {"limits": {"cpu": "4", "memory": "8Gi"}},
                "volumeMounts": [{"name": "models", "mountPath": "/mnt/pvc/models"}],
            }
        ],
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
    },
    "status": {"podIP": "10.0.0.1", "containerStatuses": [{"started": True, "restartCount": 0}]},
}


def fitted(pod: dict[str, Any]) -> Match | None:
    return match(pod, MODEL, (), engine_spec(MODEL, (), KServeSettings()), RUNTIME)


def test_a_standby_pod_with_the_models_volume_claim_matches() -> None:
    found = fitted(POD)
    assert found is not None
    assert found.arguments[:3] == ["serve", "/mnt/pvc/models/small", "--port=8080"]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("status", "containerStatuses", 0, "restartCount"), 1),
        (("status", "containerStatuses", 0, "started"), False),
        (("status", "containerStatuses"), []),
        (("status", "podIP"), ""),
        (("metadata", "deletionTimestamp"), "2026-01-01T00:00:00Z"),
        (("metadata", "labels", INFERENCE_SERVICE_LABEL), "theirs"),
        (("spec", "containers", 0, "name"), "another"),
        (("spec", "containers", 0, "volumeMounts", 0, "subPath"), "theirs"),
        (("spec", "volumes", 0, "persistentVolumeClaim", "claimName"), "others"),
    ],
    ids=lambda each: str(each[-1]) if isinstance(each, tuple) else "",
)
def test_an_incomplete_or_claimed_standby_pod_does_not_match(place: tuple[Any, ...], value: Any) -> None:
    pod = copy.deepcopy(POD)
    *way, last = place
    inside = pod
    for step in way:
        inside = inside[step]
    inside[last] = value
    assert fitted(pod) is None
