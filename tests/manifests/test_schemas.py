"""The schema validator accepts upstream's objects, and reports what upstream would reject."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

SERVICE: dict[str, Any] = {
    "apiVersion": "serving.knative.dev/v1",
    "kind": "Service",
    "metadata": {"name": "echo", "labels": {"app": "echo"}},
    "spec": {
        "template": {
            "spec": {
                "timeoutSeconds": 60,
                "containers": [
                    {
                        "image": "echo:1",
                        "resources": {"limits": {"memory": "64Mi"}},
                        "readinessProbe": {"httpGet": {"path": "/health/ready", "port": 0}},
                    }
                ],
            }
        }
    },
}

ROUTE: dict[str, Any] = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "echo"},
    "spec": {
        "parentRefs": [{"name": "public"}],
        "hostnames": ["api.example.com"],
        "rules": [
            {
                "matches": [{"path": {"type": "Exact", "value": "/v1/echo"}}],
                "filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "echo.example.com"}}],
                "timeouts": {"request": "0s"},
                "backendRefs": [{"name": "gateway", "port": 80}],
            }
        ],
    },
}


def container(service: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = service["spec"]["template"]["spec"]["containers"][0]
    return found


def revision(service: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = service["spec"]["template"]["spec"]
    return found


def path(route: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = rule(route)["matches"][0]["path"]
    return found


def rule(route: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = route["spec"]["rules"][0]
    return found


# What is sound, how it is spoilt, and what the validator says of it.
MISTAKES: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], Any], str]] = {
    "a misspelled field": (SERVICE, lambda s: container(s).update(imagePullPolice="Always"), "PullPolice"),
    "a field deep down": (SERVICE, lambda s: container(s)["resources"].update(limit={}), "'limit'"),
    "a field of metadata": (SERVICE, lambda s: s["metadata"].update(lables={}), "lables"),
    "a number as text": (SERVICE, lambda s: revision(s).update(timeoutSeconds="60"), "timeoutSeconds"),
    "no quantity": (SERVICE, lambda s: container(s)["resources"]["limits"].update(memory="6 MB"), "6 MB"),
    "a null": (SERVICE, lambda s: container(s).update(args=None), "args"),
    "a name in capitals": (SERVICE, lambda s: s["metadata"].update(name="Echo"), "DNS-1123"),
    "a label with a blank": (SERVICE, lambda s: s["metadata"]["labels"].update(app="my echo"), "no label"),
    "a label too long": (SERVICE, lambda s: s["metadata"]["labels"].update(app="e" * 64), "no label"),
    "a path without a slash": (ROUTE, lambda r: path(r).update(value="v1"), "must be an absolute path"),
    "an unknown match": (ROUTE, lambda r: path(r).update(type="Prefix"), "Prefix"),
    "a backend without a port": (ROUTE, lambda r: rule(r)["backendRefs"][0].pop("port"), "port"),
    "two parents that are one": (
        ROUTE,
        lambda r: r["spec"]["parentRefs"].append({"name": "public"}),
        "section",
    ),
    "a duration in days": (ROUTE, lambda r: rule(r)["timeouts"].update(request="1d"), "1d"),
    "timeouts the wrong way round": (
        ROUTE,
        lambda r: rule(r).update(timeouts={"request": "1s", "backendRequest": "2s"}),
        "backendRequest timeout cannot be longer",
    ),
    "one filter twice": (ROUTE, lambda r: rule(r)["filters"].append(rule(r)["filters"][0]), "repeated"),
    "seventeen rules": (ROUTE, lambda r: r["spec"].update(rules=[rule(r)] * 17), "16"),
    "one header twice": (
        ROUTE,
        lambda r: rule(r)["matches"][0].update(headers=[{"name": "a", "value": v} for v in "12"]),
        "duplicate name",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_validator_detects_a_deliberate_error(mistake: str, schemas: Schemas) -> None:
    sound, spoil, reason = MISTAKES[mistake]
    spoilt = copy.deepcopy(sound)
    spoil(spoilt)
    assert schemas.faults(sound) == []
    assert reason in " ".join(schemas.faults(spoilt))


def test_rules_apply_to_defaults(schemas: Schemas) -> None:
    """The group and kind of a parentRef are defaults; naming them does not make a second parent."""
    twin = copy.deepcopy(ROUTE)
    named = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public"}
    twin["spec"]["parentRefs"].append(named)
    assert schemas.faults(twin) != []


def test_an_unknown_kind_is_an_error(schemas: Schemas) -> None:
    with pytest.raises(LookupError, match="no schema"):
        schemas.faults({"apiVersion": "example.com/v1", "kind": "Service", "metadata": {"name": "a"}})


def test_a_version_that_is_not_served_is_an_error(schemas: Schemas) -> None:
    with pytest.raises(LookupError, match="is served as v1"):
        schemas.faults({**SERVICE, "apiVersion": "serving.knative.dev/v1alpha1"})


def test_core_kinds_are_validated_strictly(schemas: Schemas) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}}
    assert schemas.faults({**account, "automountServiceAccountToken": False}) == []
    assert schemas.faults({**account, "automountServiceAccountToken": None}) != []
    assert schemas.faults({**account, "automount": False}) != []


def test_upstreams_objects_are_valid(crds: Path, schemas: Schemas) -> None:
    shipped = [
        body
        for path in sorted(crds.glob("*/config/*.yaml"))
        for body in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader)
        if isinstance(body, dict) and "metadata" in body
    ]
    assert len(shipped) > 50
    assert {b["metadata"]["name"]: schemas.faults(b) for b in shipped if schemas.faults(b)} == {}
