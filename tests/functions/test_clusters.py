"""/v1/clusters and /v1/clusters/agent, as owners of organizations and agents use them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from llmariner.clusters.cluster import LOCAL_CLUSTER_ID

from .company import Company
from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, assert_error
from .installation import Installation

HEARTBEATS = "/v1/clusters/agent/heartbeats"
PRODUCT = {"product": "NVIDIA-A100-SXM4-80GB", "nodes": 1, "ready_nodes": 1, "gpus": 8, "allocated_gpus": 3}
NODE = {"name": "gpu-1", "gpus": 8, "a_later_field": [1]}


@pytest.fixture(scope="module")
def company(installation: Installation, ask: Ask) -> Company:
    return Company(installation, ask)


@pytest.fixture
def report(ask: Ask) -> Any:
    """Send a heartbeat with a registration key."""

    def send(key: str, **fields: Any) -> HttpResponse:
        body = {"protocol_version": 1, "agent_version": "0.4.0", "sent_at": time.time(), **fields}
        return ask("clusters_agent", HttpRequest("POST", HEARTBEATS, body, {"authorization": f"Bearer {key}"}))

    return send


def test_a_cluster_is_registered_reports_and_is_unregistered(company: Company, report: Any) -> None:
    made = company.ask("POST /v1/clusters", {"name": "gpu-west"}).json
    key, path = made["registration_key"], f"/v1/clusters/{made['id']}"
    assert (made["object"], made["name"], made["status"]) == ("cluster", "gpu-west", "pending")
    assert_error(company.ask("POST /v1/clusters", {"name": "gpu-west"}), 409, "cluster_exists")
    shown = company.ask(f"GET {path}").json
    assert "registration_key" not in shown
    assert shown["key"]["prefix"].startswith("clusterkey-")
    assert key not in str(company.ask("GET /v1/clusters").json)
    inventory = {"products": [PRODUCT], "nodes": [NODE], "gpu_pods": [], "workloads": 0}
    components = [{"name": "kueue", "is_healthy": True, "message": "", "version": "v0.19.2"}]
    answer = report(key, kubernetes_version="v1.34.1", inventory=inventory, components=components, later={"x": 1})
    assert answer.status == 200, answer.body
    assert (answer.json["cluster_id"], answer.json["heartbeat_interval_seconds"]) == (made["id"], 15.0)
    shown = company.ask(f"GET {path}").json
    assert (shown["status"], shown["summary"]["gpu_capacity"], shown["summary"]["gpu_allocated"]) == ("connected", 8, 3)
    assert shown["component_statuses"] == {"kueue": {"is_healthy": True, "message": "", "version": "v0.19.2"}}
    assert shown["inventory"]["nodes"][0]["name"] == "gpu-1"
    rotated = company.ask(f"POST {path}:rotateKey", {"overlap_seconds": 60}).json["registration_key"]
    assert [report(each).status for each in (key, rotated)] == [200, 200]
    assert company.ask(f"POST {path}:revokeKey").json["key"] is None
    for each in (key, rotated, "clusterkey-x", ""):
        assert_error(report(each), 401, "invalid_registration_key")
    assert company.ask(f"DELETE {path}").json == {"id": made["id"], "object": "cluster", "deleted": True}
    assert_error(company.ask(f"GET {path}"), 404, "not_found")


def test_a_registration_key_opens_no_route_of_people(company: Company, ask: Ask) -> None:
    made = company.ask("POST /v1/clusters", {"name": "nosy"}).json
    headers = {"authorization": f"Bearer {made['registration_key']}"}
    assert ask("clusters", HttpRequest("GET", "/v1/clusters", None, headers)).status == 401
    assert ask("models", HttpRequest("GET", "/v1/models", None, headers)).status == 401


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"protocol_version": -1}, "protocol_version"),
        ({"sent_at": 1e12}, "sent_at"),
        ({"agent_version": "v" * 65}, "agent_version"),
        ({"kubernetes_version": "v1\nv2"}, "kubernetes_version"),
        ({"components": [{"name": "a", "is_healthy": True}] * 33}, "components"),
        ({"inventory": {"nodes": [NODE] * 1001}}, "inventory.nodes"),
        ({"inventory": {"products": [{**PRODUCT, "gpus": 10**9}]}}, "inventory.products.0.gpus"),
        ({"inventory": {"products": [{**PRODUCT, "gpus": -1}]}}, "inventory.products.0.gpus"),
        ({"config": {"generation": "1", "applied": True}}, "config.generation"),
    ],
)
def test_what_an_agent_reports_is_bounded(
    installation: Installation, report: Any, fields: dict[str, Any], param: str
) -> None:
    key = installation.registration_key
    answer = report(key, **fields)
    assert answer.status == 400
    assert answer.error["param"] == param


def test_sharing_of_gpus_is_changed_field_by_field(company: Company, report: Any) -> None:
    made = company.ask("POST /v1/clusters", {"name": "shared-gpus"}).json
    path = f"/v1/clusters/{made['id']}/config"
    assert_error(company.ask(f"GET {path}"), 404, "not_configured")
    assert_error(company.ask(f"PATCH {path}", {"device_plugin_config": {"mps": {"gpus": 2}}}), 404, "not_configured")
    for wrong in ({}, {"time_slicing": {"gpus": 1}}, {"time_slicing": {"gpus": 2}, "mps": {"gpus": 2}}):
        assert company.ask(f"POST {path}", {"device_plugin_config": wrong}).status == 400
    slicing = {"time_slicing": {"gpus": 4}}
    config = company.ask(f"POST {path}", {"device_plugin_config": slicing}).json
    assert (config["device_plugin_config"], config["status"]) == (slicing, "pending")
    assert_error(company.ask(f"POST {path}", {"device_plugin_config": slicing}), 409, "config_exists")
    both = {**slicing, "mig": {"strategy": "single"}}
    assert (
        company.ask(f"PATCH {path}", {"device_plugin_config": {"mig": both["mig"]}}).json["device_plugin_config"]
        == both
    )
    mps = {"time_slicing": None, "mig": None, "mps": {"gpus": 3}}
    changed = company.ask(f"PATCH {path}", {"device_plugin_config": mps}).json
    assert (changed["device_plugin_config"], changed["generation"]) == ({"mps": {"gpus": 3}}, 3)
    answer = report(made["registration_key"], config={"generation": 3, "applied": True}).json["device_plugin_config"]
    assert answer == {"generation": 3, "config": {"mps": {"gpus": 3}}}
    assert company.ask(f"GET {path}").json["status"] == "applied"
    assert company.ask(f"DELETE {path}").json == {}
    assert company.ask(f"DELETE {path}").status == 404


def test_the_cluster_of_the_control_plane_is_listed_last_and_stays(company: Company) -> None:
    last = company.ask("GET /v1/clusters", query="limit=100").json["data"][-1]
    assert (last["id"], last["name"], last["status"], last["is_local"]) == (
        LOCAL_CLUSTER_ID,
        "default",
        "connected",
        True,
    )
    assert_error(company.ask(f"DELETE /v1/clusters/{LOCAL_CLUSTER_ID}", by="admin"), 409, "local_cluster")


def test_members_of_projects_see_no_clusters(company: Company) -> None:
    for name in ("lead", "mia", "vic", "rob"):
        assert company.ask("GET /v1/clusters", by=name).status == 403
