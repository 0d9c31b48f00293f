"""The JSON of notebooks: upstream's fields, and those that say more."""

from __future__ import annotations

from typing import Any

from llmariner.notebooks.access import SCOPE
from llmariner.notebooks.notebook import Notebook
from llmariner.platform.notebooks import base_url_of
from llmariner.tenancy.principal import Caller

__all__ = ["notebook_object"]


def notebook_object(notebook: Notebook, reader: Caller) -> dict[str, Any]:
    """The JSON object of a notebook. Times are whole Unix seconds; 0 where there is none, as upstream has it.

    Its variables, which may be secrets, are shown to those alone who may use it: not to who may only read notebooks.
    Its token and its key are in no response: the platform adds the one, and the other is in its environment.
    """
    may_use = SCOPE in reader.scopes and (notebook.shared or notebook.user_id == reader.user_id)
    error = {"code": notebook.error_code, "message": notebook.error_message} if notebook.error_code else None
    amounts = {
        "cpu_milicore": notebook.millicores,
        "memory_megabytes": notebook.memory_megabytes,
        "storage_megabytes": notebook.storage_megabytes,
    }
    return {
        "id": notebook.id,
        "object": "notebook",
        "name": notebook.name,
        "status": notebook.status.value,
        "status_reason": notebook.reason or None,
        "error": error,
        "created_at": notebook.created_at,
        "started_at": int(notebook.started_at or 0),
        "stopped_at": int(notebook.stopped_at or 0),
        "image": {"type": notebook.image_type, "uri": ""},
        "resources": {
            **{name: {"requests": amount, "limits": amount} for name, amount in amounts.items()},
            "gpu_count": notebook.gpu_count,
        },
        "envs": dict(notebook.envs) if may_use else {},
        "additional_exposed_ports": list(notebook.ports),
        "shared": notebook.shared,
        "path": base_url_of(notebook.id),
        "user_id": notebook.user_id,
        "project_id": notebook.project_id,
        "organization_id": notebook.organization_id,
        "kubernetes_namespace": "",
        "cluster_id": "",
        "cluster_name": "",
    }
