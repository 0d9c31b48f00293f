"""Cases of `llma admin clusters`, as in `admin_cases`."""

from __future__ import annotations

from typing import Any

__all__ = ["ROWS"]

COMPONENTS = {"kueue": {"is_healthy": False, "message": "None of its 1 replicas is available.", "version": None}}
SUMMARY: dict[str, Any] = {"node_count": 2, "gpu_capacity": 16, "gpu_allocated": 3, "cpu": 64, "cpu_allocated": 1.5}
SUMMARY |= {"memory_bytes": 2**34}
PRODUCT: dict[str, Any] = {"product": "A100", "nodes": 2, "ready_nodes": 1, "gpus": 16, "allocated_gpus": 3, "pods": 9}
WEST: dict[str, Any] = {
    "id": "cluster-1",
    "name": "gpu-west",
    "status": "connected",
    "draining": True,
    "created_at": 1_760_000_000,
    "agent": {"version": "0.4.0", "kubernetes_version": "v1.34.4", "last_heartbeat_at": 1_760_000_000},
    "key": {"prefix": "clusterkey-abcd…yz"},
    "component_statuses": COMPONENTS,
    "summary": SUMMARY,
}
CLUSTERS = {"object": "list", "data": [WEST], "has_more": False}
LOOKUP = {"GET /clusters": CLUSTERS}
CONFIG: dict[str, Any] = {
    "device_plugin_config": {"time_slicing": {"gpus": 4}},
    "status": "failed",
    "message": "No namespace.",
}
CONFIG |= {"updated_at": 1_760_000_000}
SLICED = {"device_plugin_config": {"time_slicing": {"gpus": 4}}}


def row(
    line: str, route: str, answer: dict[str, Any], shows: tuple[str, ...], body: Any = None, **rest: Any
) -> dict[str, Any]:
    """One row; every cluster is looked up by its name first."""
    return {"line": line, "route": route, "answer": answer, "shows": shows, "body": body, "before": LOOKUP, **rest}


ROWS = [
    row(
        "admin clusters list",
        "GET /clusters",
        CLUSTERS,
        ("cluster-1", "gpu-west", "connected, draining", "16", "failed, kueue", "0.4.0"),
        query={"limit": "100"},
        before={},
    ),
    row(
        "admin clusters status gpu-west",
        "GET /clusters/cluster-1",
        {**WEST, "inventory": {"products": [PRODUCT]}},
        ("reported last: 2025-10-09", "kueue", "failed", "None of its 1 replicas", "A100"),
    ),
    row(
        "admin clusters register gpu-east",
        "POST /clusters",
        {**WEST, "registration_key": "clusterkey-abc"},
        ("Registered gpu-west (cluster-1)", "clusterkey-abc"),
        {"name": "gpu-east"},
        before={},
    ),
    row(
        "admin clusters unregister gpu-west",
        "DELETE /clusters/cluster-1",
        {"id": "cluster-1", "deleted": True},
        ("Unregistered gpu-west.",),
    ),
    row(
        "admin cluster unregister cluster-1 --drain",
        "DELETE /clusters/cluster-1",
        {"id": "cluster-1", "deleted": False},
        ("gpu-west is unregistered once no work runs there.",),
        query={"drain": "true"},
    ),
    row("admin clusters drain gpu-west", "POST /clusters/cluster-1:drain", WEST, ("No new work is placed",), {}),
    row("admin clusters drain gpu-west --undo", "POST /clusters/cluster-1:undrain", WEST, ("again",), {}),
    row(
        "admin clusters rotate-key gpu-west --overlap 60",
        "POST /clusters/cluster-1:rotateKey",
        {**WEST, "registration_key": "clusterkey-new"},
        ("works for 60 s more", "clusterkey-new"),
        {"overlap_seconds": 60},
    ),
    row("admin clusters revoke-key gpu-west", "POST /clusters/cluster-1:revokeKey", WEST, ("no valid",), {}),
    row(
        "admin clusters config create gpu-west --time-slicing-gpus 4",
        "POST /clusters/cluster-1/config",
        CONFIG,
        ("Stored", "llma admin clusters config get gpu-west"),
        SLICED,
    ),
    row(
        "admin clusters config create gpu-west --mps-gpus 3 --update",
        "PATCH /clusters/cluster-1/config",
        CONFIG,
        ("Stored",),
        {"device_plugin_config": {"mps": {"gpus": 3}}},
    ),
    row(
        "admin clusters config get gpu-west",
        "GET /clusters/cluster-1/config",
        CONFIG,
        ("time slicing", "4", "failed", "No namespace."),
    ),
    row("admin clusters config delete gpu-west", "DELETE /clusters/cluster-1/config", {}, ("not shared any more",)),
]
