"""Cases of `llma workspace`, as those of `storage_cases`."""

from __future__ import annotations

from typing import Any

__all__ = ["NOTEBOOK", "ROWS"]

NOTEBOOK: dict[str, Any] = {
    "id": "nb-1",
    "object": "notebook",
    "name": "explore",
    "status": "running",
    "status_reason": None,
    "error": None,
    "created_at": 1_760_000_000,
    "started_at": 1_760_000_020,
    "stopped_at": 0,
    "image": {"type": "jupyter-lab-base", "uri": ""},
    "resources": {
        "cpu_milicore": {"requests": 1500, "limits": 1500},
        "memory_megabytes": {"requests": 2048, "limits": 2048},
        "storage_megabytes": {"requests": 4096, "limits": 4096},
        "gpu_count": 0,
    },
    "envs": {"LR": "0.1"},
    "additional_exposed_ports": [8000],
    "shared": False,
}
FAILED = {**NOTEBOOK, "status": "failed", "error": {"code": "out_of_memory", "message": "It used too much."}}
_LISTED = {"object": "list", "notebooks": [NOTEBOOK], "has_more": False, "total_items": 1}
_FOUND = {"GET /workspaces/notebooks": _LISTED}
_ONE = "/workspaces/notebooks/nb-1"


def row(line: str, route: str, answer: dict[str, Any], shows: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """The fields of a case."""
    return {"line": f"workspace notebooks {line}", "route": route, "answer": answer, "shows": shows, **more}


ROWS = [
    row(
        "create explore --env LR=0.1 --port 8000 --cpu 1500",
        "POST /workspaces/notebooks",
        NOTEBOOK,
        ("explore starts (nb-1)", "open explore"),
        body={
            "name": "explore",
            "image": {"type": "jupyter-lab-base"},
            "resources": {"cpu_milicore": {"limits": 1500}, "gpu_count": 0},
            "envs": {"LR": "0.1"},
            "additional_exposed_ports": [8000],
            "shared": False,
        },
    ),
    row(
        "share explore",
        f"PATCH {_ONE}",
        {**NOTEBOOK, "shared": True},
        ("explore is used by members of the project.",),
        body={"shared": True},
        before=_FOUND,
    ),
    row(
        "list",
        "GET /workspaces/notebooks",
        {**_LISTED, "notebooks": [NOTEBOOK, FAILED], "total_items": 2},
        ("nb-1", "explore", "running", "failed", "It used too much."),
        query={"limit": "100"},
    ),
    row("get explore", f"GET {_ONE}", NOTEBOOK, ("nb-1", "running", "1.5", "8000", "its owner"), before=_FOUND),
    row("get nb-1", f"GET {_ONE}", FAILED, ("It used too much. (out_of_memory)",), before=_FOUND),
    row("start explore", f"POST {_ONE}/actions:start", NOTEBOOK, ("explore: running.",), body={}, before=_FOUND),
    row("stop explore", f"POST {_ONE}/actions:stop", NOTEBOOK, ("explore: running.",), body={}, before=_FOUND),
    row(
        "open explore --no-open --port 8000",
        f"POST {_ONE}/actions:open",
        {"id": "nb-1", "object": "notebook.link", "path": "/v1/services/notebooks/nb-1/lab?link=x"},
        ("nb-1.localhost", "/v1/services/notebooks/nb-1/lab?link=x&port=8000"),
        body={},
        before=_FOUND,
    ),
    row(
        "open nb-1 --no-open --port 8000",
        f"POST {_ONE}/actions:open",
        {
            "id": "nb-1",
            "object": "notebook.link",
            "path": "/v1/services/notebooks/nb-1/lab?link=x",
            "url": "https://nb-1.nb.example.org/v1/services/notebooks/nb-1/lab?link=x",
        },
        ("https://nb-1.nb.example.org/v1/services/notebooks/nb-1/lab?link=x&port=8000",),
        body={},
        before=_FOUND,
    ),
    row("delete explore --force", f"DELETE {_ONE}", {}, ("Deleted explore.",), before=_FOUND),
]
