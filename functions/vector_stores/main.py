"""/v1/vector_stores: vector stores, their files and batches of files, in OpenAI's format."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import StreamingResponse

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.resources.vector_store_search import (
    SearchBody,
    SearchStoresBody,
    SearchThreads,
    counted_as_request,
    search_page_object,
)
from llmariner.http.resources.vector_stores import (
    AddFile,
    AttributesBody,
    CreateFileBatch,
    CreateVectorStore,
    UpdateVectorStore,
)
from llmariner.http.schemas.lists import Cursor, Limit, Order, VectorStoreCursor, list_response
from llmariner.tenancy.principal import Caller
from llmariner.vector_stores.embedding_models import embedding_model_id
from llmariner.vector_stores.ingest.rebuild import request_rebuild
from llmariner.vector_stores.pages import Paging
from llmariner.vector_stores.representation import file_batch_object, store_file_object, vector_store_object
from llmariner.vector_stores.store import FileStatus

Reader = Annotated[Caller, require_scope("api.vector-stores.read")]
Writer = Annotated[Caller, require_scope("api.vector-stores.write")]
_STORE = "/v1/vector_stores/{vector_store_id}"
_FILE = f"{_STORE}/files/{{file_id}}"
_BATCH = f"{_STORE}/file_batches/{{batch_id}}"


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("vector_stores", context)
    app.state.searches = SearchThreads()
    app.get("/v1/vector_stores")(list_stores)
    app.post("/v1/vector_stores")(create_store)
    app.post("/v1/vector_stores/search")(search_stores)
    app.get(_STORE)(get_store)
    app.post(_STORE)(update_store)
    app.delete(_STORE)(delete_store)
    app.post(f"{_STORE}/search")(search)
    app.post(f"{_STORE}/rebuild")(rebuild_index)
    app.get(f"{_STORE}/files")(list_files)
    app.post(f"{_STORE}/files")(add_file)
    app.get(_FILE)(get_file)
    app.post(_FILE)(update_file)
    app.delete(_FILE)(remove_file)
    app.get(f"{_FILE}/content")(get_content)
    app.post(f"{_STORE}/file_batches")(create_batch)
    app.get(_BATCH)(get_batch)
    app.post(f"{_BATCH}/cancel")(cancel_batch)
    app.get(f"{_BATCH}/files")(list_batch_files)
    return app


def list_stores(
    request: Request,
    caller: Reader,
    name: Annotated[str | None, Query(max_length=256)] = None,
    after: VectorStoreCursor = None,
    before: VectorStoreCursor = None,
    limit: Limit = 20,
    order: Order = "desc",
) -> dict[str, Any]:
    """The project's vector stores, newest first; `name` selects those with that name."""
    stores = context_of(request).vector_stores
    found, more = stores.page(caller.key_owner.project_id, Paging(after, before, limit, order), name)
    return list_response([vector_store_object(store) for store in found], has_more=more)


def create_store(request: Request, caller: Writer, body: CreateVectorStore) -> dict[str, Any]:
    """Create a vector store; its files are ingested in the background."""
    context, model = context_of(request), body.embedding_model
    if model is not None:
        model = embedding_model_id(context.database, context.registry, caller, model)
    return vector_store_object(context.vector_stores.create(caller, body.to_new(model)))


def get_store(request: Request, caller: Reader, vector_store_id: str) -> dict[str, Any]:
    """One vector store."""
    return vector_store_object(context_of(request).vector_stores.get(caller.key_owner.project_id, vector_store_id))


def update_store(request: Request, caller: Writer, vector_store_id: str, body: UpdateVectorStore) -> dict[str, Any]:
    """Change a vector store."""
    return vector_store_object(context_of(request).vector_stores.update(caller, vector_store_id, body.change))


def delete_store(request: Request, caller: Writer, vector_store_id: str) -> dict[str, Any]:
    """Delete a vector store; its files remain files of the project."""
    context_of(request).vector_stores.delete(caller, vector_store_id)
    return {"id": vector_store_id, "object": "vector_store.deleted", "deleted": True}


async def search(request: Request, caller: Reader, vector_store_id: str, body: SearchBody) -> dict[str, Any]:
    """The chunks that answer a query best. Embedding the query counts to the caller."""
    context, query, project_id = context_of(request), body.to_query(), caller.key_owner.project_id
    searches: SearchThreads = request.app.state.searches
    find = context.vector_store_search.search
    async with counted_as_request(context, caller, query):
        page = await searches.run(project_id, lambda: find(caller, [vector_store_id], query))
    return search_page_object(page)


async def search_stores(request: Request, caller: Reader, body: SearchStoresBody) -> dict[str, Any]:
    """The chunks of several stores that answer a query best, in one ranking."""
    context, query, project_id = context_of(request), body.to_query(), caller.key_owner.project_id
    ids, find = body.store_ids(), context.vector_store_search.search
    searches: SearchThreads = request.app.state.searches
    async with counted_as_request(context, caller, query):
        page = await searches.run(project_id, lambda: find(caller, ids, query, param="vector_store_ids"))
    return search_page_object(page)


def rebuild_index(request: Request, caller: Writer, vector_store_id: str) -> dict[str, Any]:
    """Let the completed files of a vector store be embedded and indexed again; it is in progress until then."""
    context = context_of(request)
    _ = context.required_vectors  # Unavailable where there is no index: nobody would continue the rebuild
    request_rebuild(context.database, caller, vector_store_id)
    return vector_store_object(context.vector_stores.get(caller.key_owner.project_id, vector_store_id))


def list_files(
    request: Request,
    caller: Reader,
    vector_store_id: str,
    filter: FileStatus | None = None,
    after: Cursor = None,
    before: Cursor = None,
    limit: Limit = 20,
    order: Order = "desc",
) -> dict[str, Any]:
    """The files of a vector store, the last added first; `filter` selects those with a status."""
    files = context_of(request).vector_store_files
    paging = Paging(after or None, before or None, limit, order)
    found, more = files.page(caller.key_owner.project_id, vector_store_id, paging, status=filter)
    return list_response([store_file_object(file) for file in found], has_more=more)


def add_file(request: Request, caller: Writer, vector_store_id: str, body: AddFile) -> dict[str, Any]:
    """Add a file of the project, which is ingested in the background."""
    return store_file_object(context_of(request).vector_store_files.add(caller, vector_store_id, body.to_new()))


def get_file(request: Request, caller: Reader, vector_store_id: str, file_id: str) -> dict[str, Any]:
    """One file of a vector store."""
    files = context_of(request).vector_store_files
    return store_file_object(files.get(caller.key_owner.project_id, vector_store_id, file_id))


def update_file(
    request: Request, caller: Writer, vector_store_id: str, file_id: str, body: AttributesBody
) -> dict[str, Any]:
    """Replace the attributes of a file."""
    files = context_of(request).vector_store_files
    return store_file_object(files.set_attributes(caller, vector_store_id, file_id, body.attributes or {}))


def remove_file(request: Request, caller: Writer, vector_store_id: str, file_id: str) -> dict[str, Any]:
    """Remove a file from a vector store; it remains a file of the project."""
    context_of(request).vector_store_files.remove(caller, vector_store_id, file_id)
    return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}


def get_content(request: Request, caller: Reader, vector_store_id: str, file_id: str) -> StreamingResponse:
    """The text of a file as it was parsed, chunk by chunk; streamed, since it may be long."""
    texts = context_of(request).vector_store_files.texts(caller.key_owner.project_id, vector_store_id, file_id)
    return StreamingResponse(_content_page(texts), media_type="application/json")


def _content_page(texts: Iterator[str]) -> Iterator[str]:
    yield '{"object":"vector_store.file_content.page","data":['
    for index, text in enumerate(texts):
        yield ("," if index else "") + json.dumps({"type": "text", "text": text})
    yield '],"has_more":false,"next_page":null}'


def create_batch(request: Request, caller: Writer, vector_store_id: str, body: CreateFileBatch) -> dict[str, Any]:
    """Add several files of the project: all, or none if one can't be added."""
    batches = context_of(request).vector_store_file_batches
    return file_batch_object(batches.create(caller, vector_store_id, body.to_new()))


def get_batch(request: Request, caller: Reader, vector_store_id: str, batch_id: str) -> dict[str, Any]:
    """One batch."""
    batches = context_of(request).vector_store_file_batches
    return file_batch_object(batches.get(caller.key_owner.project_id, vector_store_id, batch_id))


def cancel_batch(request: Request, caller: Writer, vector_store_id: str, batch_id: str) -> dict[str, Any]:
    """Cancel the files of a batch that are in progress."""
    return file_batch_object(context_of(request).vector_store_file_batches.cancel(caller, vector_store_id, batch_id))


def list_batch_files(
    request: Request,
    caller: Reader,
    vector_store_id: str,
    batch_id: str,
    filter: FileStatus | None = None,
    after: Cursor = None,
    before: Cursor = None,
    limit: Limit = 20,
    order: Order = "desc",
) -> dict[str, Any]:
    """The files of a batch, the last added first; `filter` selects those with a status."""
    context, project_id = context_of(request), caller.key_owner.project_id
    context.vector_store_file_batches.get(project_id, vector_store_id, batch_id)
    paging = Paging(after or None, before or None, limit, order)
    found, more = context.vector_store_files.page(project_id, vector_store_id, paging, status=filter, batch_id=batch_id)
    return list_response([store_file_object(file) for file in found], has_more=more)


handle = http_function(build)
