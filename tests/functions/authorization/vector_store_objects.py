"""For every route of vector stores, a call of it, as in `objects`."""

from __future__ import annotations

from typing import Any

from llmariner.files.tables import files
from llmariner.vector_stores.tables import vector_store_file_batches, vector_store_files, vector_stores

from .objects import list_of_100
from .route_calls import CallFactory, RouteCall
from .world import Tenant, World

__all__ = ["VECTOR_STORE_OBJECTS", "vector_store"]


def vector_store(world: World, tenant: Tenant) -> str:
    """The id of a new vector store of the tenant's project."""
    id_ = f"vs_{tenant.tag}-{world.number()}"
    world.add(
        vector_stores,
        **_owned(tenant, id_),
        name=id_,
        description="",
        metadata="{}",
        created_at=1,
        last_active_at=1,
        embedding_model="tiny",
    )
    return id_


def _file(world: World, tenant: Tenant) -> str:
    """The id of a new file of the tenant's project."""
    id_ = f"file-{tenant.tag}-{world.number()}"
    row = {"filename": id_, "purpose": "assistants", "size_bytes": 1, "content_type": "text/plain", "created_at": 1}
    world.add(files, **_owned(tenant, id_), **row)
    return id_


def _add(world: World, tenant: Tenant, store_id: str, **values: Any) -> str:
    """Add a new file to a vector store, completed unless `values` say otherwise; returns its id."""
    file_id = _file(world, tenant)
    row = {"vector_store_id": store_id, "file_id": file_id, "user_id": tenant.user_id, "status": "completed"}
    row |= {"attributes": "{}", "chunking_strategy": "{}", "step": "done", **values}
    numbers = dict.fromkeys(("usage_bytes", "next_chunk", "attempts", "created_at"), 1)
    world.add(vector_store_files, **_owned(tenant, f"vsf_{tenant.tag}-{world.number()}"), **row, **numbers)
    return file_id


def _owned(tenant: Tenant, id_: str) -> dict[str, str]:
    return {"id": id_, "organization_id": tenant.organization_id, "project_id": tenant.project_id}


def a_store(body: Any = None) -> CallFactory:
    """A vector store of the tenant."""
    return lambda world, tenant: RouteCall({"id": vector_store(world, tenant)}, body)


def new_file(world: World, tenant: Tenant) -> RouteCall:
    """A vector store, and a file to add to it."""
    return RouteCall({"id": vector_store(world, tenant)}, {"file_id": _file(world, tenant)})


def new_batch(world: World, tenant: Tenant) -> RouteCall:
    """A vector store, and files to add to it."""
    return RouteCall({"id": vector_store(world, tenant)}, {"file_ids": [_file(world, tenant)]})


def stores_in_body(world: World, tenant: Tenant) -> RouteCall:
    """A search in two vector stores."""
    ids = [vector_store(world, tenant) for _ in range(2)]
    return RouteCall(body={"query": "pumps", "vector_store_ids": ids})


def a_file(body: Any = None) -> CallFactory:
    """A file of a vector store."""

    def call(world: World, tenant: Tenant) -> RouteCall:
        store_id = vector_store(world, tenant)
        return RouteCall({"id": store_id, "file_id": _add(world, tenant, store_id)}, body)

    return call


def a_batch(world: World, tenant: Tenant) -> RouteCall:
    """A batch with a file in progress."""
    store_id, batch_id = vector_store(world, tenant), f"vsfb_{tenant.tag}-{world.number()}"
    world.add(vector_store_file_batches, **_owned(tenant, batch_id), vector_store_id=store_id, created_at=1)
    _add(world, tenant, store_id, batch_id=batch_id, status="in_progress")
    return RouteCall({"id": store_id, "batch_id": batch_id})


_STORE = "/v1/vector_stores/{id}"
VECTOR_STORE_OBJECTS: dict[str, CallFactory] = {
    "GET /v1/vector_stores": list_of_100,
    "POST /v1/vector_stores": lambda world, _tenant: RouteCall(body={"name": f"made {world.number()}"}),
    f"GET {_STORE}": a_store(),
    f"POST {_STORE}": a_store({"name": "renamed"}),
    f"DELETE {_STORE}": a_store(),
    f"POST {_STORE}/search": a_store({"query": "pumps"}),
    "POST /v1/vector_stores/search": stores_in_body,
    f"POST {_STORE}/rebuild": a_store(),
    f"GET {_STORE}/files": a_store(),
    f"POST {_STORE}/files": new_file,
    f"GET {_STORE}/files/{{file_id}}": a_file(),
    f"POST {_STORE}/files/{{file_id}}": a_file({"attributes": {"year": 2026}}),
    f"DELETE {_STORE}/files/{{file_id}}": a_file(),
    f"GET {_STORE}/files/{{file_id}}/content": a_file(),
    f"POST {_STORE}/file_batches": new_batch,
    f"GET {_STORE}/file_batches/{{batch_id}}": a_batch,
    f"POST {_STORE}/file_batches/{{batch_id}}/cancel": a_batch,
    f"GET {_STORE}/file_batches/{{batch_id}}/files": a_batch,
}
