"""/v1/clusters and /v1/clusters/agent, as owners of organizations and agents use them."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from llmariner.batch_jobs.tables import batch_jobs
from llmariner.clusters.cluster import LOCAL_CLUSTER_ID
from llmariner.clusters.tables import cluster_statuses
from llmariner.platform.events.tables import events
from llmariner.showback import utilization
from llmariner.showback.exporters import HourOfUse, NodeUse
from llmariner.showback.utilization import store_hour
from llmariner.tenancy.organizations.projects import Assignment

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


def test_a_job_that_its_agent_names_is_looked_at(
    company: Company, report: Any, ask: Ask, installation: Installation
) -> None:
    made = company.ask("POST /v1/clusters", {"name": "names-jobs"}).json
    new = {"image": "pytorch-2.1", "command": "sh scripts/run.sh", "scripts": {"run.sh": "ZWNobyBoaQ=="}}
    headers = {"authorization": f"Bearer {company.secrets['sam']}"}
    job_id = ask("batch_jobs", HttpRequest("POST", "/v1/batch/jobs", new, headers)).json["id"]

    def named() -> tuple[bool, int]:
        at_once = update(cluster_statuses).where(cluster_statuses.c.cluster_id == made["id"]).values(heartbeat_at=0.0)
        reported = select(events).where(events.c.subject == f"batch_jobs/{job_id}", events.c.data.contains("reported"))
        with installation.context.database.write() as session:
            session.run(at_once)
        answer = report(made["registration_key"], changed_jobs=[job_id, "bj-none", "ftjob-none-1"]).json
        with installation.context.database.read() as session:
            return answer["changed_jobs_taken"], len(session.rows(reported))

    assert named() == (True, 0)  # it runs at home
    with installation.context.database.write() as session:
        session.run(update(batch_jobs).where(batch_jobs.c.id == job_id).values(cluster_id=made["id"]))
    assert named() == (True, 1)
    with installation.context.database.write() as session:
        session.run(delete(batch_jobs).where(batch_jobs.c.id == job_id))


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
        ({"kubernetes_version": "v1\x9b2J"}, "kubernetes_version"),
        ({"inventory": {"nodes": [{**NODE, "name": "a\u202eb"}]}}, "inventory.nodes.0.name"),
        ({"components": [{"name": "a", "is_healthy": True}] * 33}, "components"),
        ({"inventory": {"nodes": [NODE] * 1001}}, "inventory.nodes"),
        ({"inventory": {"products": [{**PRODUCT, "gpus": 10**9}]}}, "inventory.products.0.gpus"),
        ({"inventory": {"products": [{**PRODUCT, "gpus": -1}]}}, "inventory.products.0.gpus"),
        ({"changed_jobs": ["bj-1"] * 201}, "changed_jobs"),
        ({"changed_jobs": "bj-1"}, "changed_jobs"),
        ({"changed_jobs": ["bj-1", "a\nb"]}, "changed_jobs.1"),
        ({"changed_jobs": [1]}, "changed_jobs.0"),
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


def test_telemetry_and_the_clusters_of_jobs(company: Company, report: Any) -> None:
    made = company.ask("POST /v1/clusters", {"name": "measured"}).json
    pod = {"namespace": "jobs", "name": "train-0", "gpu_resource": "nvidia.com/gpu", "gpus": 3, "node": "gpu-1"}
    node = {**NODE, "gpu_resource": "nvidia.com/gpu"}
    inventory = {"products": [PRODUCT], "nodes": [node], "gpu_pods": [pod], "workloads": 0}
    assert report(made["registration_key"], inventory=inventory).status == 200
    path = "GET /v1/clustertelemetry/clustersnapshots"
    answer = company.ask(path, query="group_by=GROUP_BY_CLUSTER").json
    [value] = [each for each in answer["datapoints"][-1]["values"] if each["grouping_value"] == "measured"]
    assert (value["node_count"], value["gpu_capacity"], value["gpu_occupancy"]) == (1, 8, 3)
    assert len(answer["datapoints"]) == 25
    by_product = company.ask(path, query="group_by=GROUP_BY_PRODUCT").json["datapoints"][-1]["values"]
    assert PRODUCT["product"] in [each["grouping_value"] for each in by_product]
    assert_error(company.ask(path, query="filter.end_timestamp=9"), 404, "no_snapshots")
    for name, pods in (("boss", 1), ("mia", 0)):
        seen = {each["name"]: each for each in company.ask("GET /v1/jobs/clusters", by=name).json["clusters"]}
        assert seen["measured"]["summary"] == {"gpu_capacity": 8, "gpu_allocated": 3, "gpu_pod_count": 1}
        assert seen["measured"]["status"]["gpu_nodes"] == [{"resource_name": "nvidia.com/gpu", "allocatable_count": 8}]
        assert len(seen["measured"]["status"]["gpu_pods"]) == pods
    company.projects.assign(company.founder, company.speech, [Assignment("speech", cluster_id=made["id"])])
    assert [each["id"] for each in company.ask("GET /v1/jobs/clusters", by="sam").json["clusters"]] == [made["id"]]
    company.projects.assign(company.founder, company.speech, [])


def test_the_use_of_gpus_is_shown_by_node_and_hour(company: Company, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "GET /v1/clustertelemetry/gpu-usages"
    assert_error(company.ask(path, query="filter.end_timestamp=9"), 404, "no_gpu_usages")
    made = company.ask("POST /v1/clusters", {"name": "with-gpus"}).json
    hour = int(time.time()) // 3600 * 3600
    nodes = {(cluster, "node-1"): NodeUse(1.5, 0.75, 2048, 1024) for cluster in (made["id"], "cluster-unknown")}
    store_hour(company.context.database, hour, HourOfUse({}, nodes), ())
    with monkeypatch.context() as limited:
        limited.setattr(utilization, "_MAX_VALUES", 23)
        assert_error(company.ask(path), 400, "too_many_values")
    datapoints = company.ask(path).json["datapoints"]
    assert len(datapoints) == 25
    assert datapoints[-1]["values"] == [
        {
            "cluster_name": "with-gpus",
            "node_name": "node-1",
            "max_gpu_used": 1.5,
            "avg_gpu_used": 0.75,
            "max_gpu_memory_used_gb": 2.0,
            "avg_gpu_memory_used_gb": 1.0,
        }
    ]
    assert set(datapoints[0]["values"][0].values()) == {"with-gpus", "node-1", 0}


def test_jobs_are_summed_up_by_the_interval_of_their_creation(company: Company, ask: Ask) -> None:
    def on_jobs(method: str, path: str = "", body: Any = None) -> Any:
        headers = {"authorization": f"Bearer {company.secrets['sam']}"}
        return ask("batch_jobs", HttpRequest(method, f"/v1/batch/jobs{path}", body, headers)).json

    new = {"image": "pytorch-2.1", "command": "sh scripts/run.sh", "scripts": {"run.sh": "ZWNobyBoaQ=="}}
    jobs = [on_jobs("POST", body=new)["id"] for _ in range(3)]
    on_jobs("DELETE", f"/{jobs[1]}")
    [week] = company.ask("GET /v1/jobs/summaries", by="sam").json["datapoints"]
    values = {each.pop("job_type"): each for each in week["values"]}
    counts = {name.removeprefix("total_"): number for name, number in values["JOB_TYPE_BATCH"].items() if number}
    assert counts == {"created": 3, "queued": 2, "deleted": 1, "unfinished": 2}
    assert not any(values["JOB_TYPE_FINE_TUNING"].values())
    days = company.ask("GET /v1/jobs/summaries", by="sam", query="filter.duration=86400s").json["datapoints"]
    assert sum(each["values"][0]["total_created"] for each in days) == 3
    assert company.ask("GET /v1/jobs/summaries", by="mia").json["datapoints"][0]["values"][0]["total_created"] == 0


def test_members_of_projects_see_no_clusters(company: Company) -> None:
    for name in ("lead", "mia", "vic", "rob"):
        assert company.ask("GET /v1/clusters", by=name).status == 403
