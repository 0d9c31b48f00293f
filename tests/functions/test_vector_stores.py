"""/v1/vector_stores by OpenAI's client, and the errors of requests."""

from __future__ import annotations

import io
from collections.abc import Callable, Coroutine
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from sqlalchemy import select, update

from llmariner.files.tables import files
from llmariner.vector_stores.tables import vector_store_chunks, vector_store_files

from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, InProcessClient, assert_error
from .installation import Installation
from .test_organization_sdk import openai_client

Do = Callable[[Callable[[AsyncOpenAI], Coroutine[Any, Any, Any]]], Any]
Call = Callable[..., HttpResponse]


@pytest.fixture
def do(router: Any, installation: Installation, in_process: InProcessClient) -> Do:
    """`do(lambda client: …)`: run a coroutine with OpenAI's client."""
    client = openai_client(router, "unused")
    client.api_key = installation.keys.admin
    return lambda work: in_process.runner.run(work(client))


@pytest.fixture
def call(ask: Ask, admin: dict[str, str]) -> Call:
    """`call("POST", "/vs_1", body)`: a request below /v1/vector_stores."""

    def called(method: str, path: str, body: Any = None, query: str = "", **headers: str) -> HttpResponse:
        request = HttpRequest(method, f"/v1/vector_stores{path}", body, {**admin, **headers}, query)
        return ask("vector_stores", request)

    return called


def ingest(installation: Installation, file_id: str, *texts: str, **values: Any) -> None:
    """What ingestion writes to the rows of a file in all stores: by default, that it is completed with these chunks."""
    done = {"status": "completed", "step": "done", "usage_bytes": 10, "chunk_count": len(texts), **values}
    c = vector_store_files.c
    with installation.context.database.write() as session:
        session.run(update(vector_store_files).where(c.file_id == file_id).values(**done))
        for row in session.rows(select(vector_store_files).where(c.file_id == file_id)):
            for index, text in enumerate(texts):
                session.add(
                    vector_store_chunks,
                    id=f"{row.id}-{index}",
                    organization_id=row.organization_id,
                    project_id=row.project_id,
                    vector_store_id=row.vector_store_id,
                    vector_store_file_id=row.id,
                    chunk_index=index,
                    text=text,
                    tokens=1,
                    start_offset=0,
                    end_offset=1,
                    headings="[]",
                )


async def upload(client: AsyncOpenAI, name: str = "a.txt") -> str:
    return (await client.files.create(file=(name, io.BytesIO(name.encode())), purpose="assistants")).id


def test_the_sdk_manages_vector_stores(do: Do) -> None:
    async def work(client: AsyncOpenAI) -> None:
        stores, file_id = client.vector_stores, await upload(client)
        made = await stores.create(
            name="Handbücher",
            description="of pumps",
            metadata={"team": "é"},
            expires_after={"anchor": "last_active_at", "days": 7},
            file_ids=[file_id],
            chunking_strategy={"type": "static", "static": {"max_chunk_size_tokens": 300, "chunk_overlap_tokens": 10}},
        )
        assert (made.name, made.metadata, made.status, made.usage_bytes) == (
            "Handbücher",
            {"team": "é"},
            "in_progress",
            0,
        )
        assert made.expires_after is not None
        assert (made.expires_after.days, made.expires_at) == (7, made.created_at + 7 * 86400)
        assert (made.file_counts.in_progress, made.file_counts.total) == (1, 1)
        assert await stores.retrieve(made.id) == made
        changed = await stores.update(made.id, name="books", metadata={})
        assert (changed.name, changed.metadata, changed.expires_after) == ("books", {}, made.expires_after)
        changed = await stores.update(made.id, expires_after=None)
        assert (changed.name, changed.expires_at) == ("books", None)
        more = [(await stores.create()).id for _ in range(3)]
        listed = [store.id async for store in stores.list(limit=2)]
        assert listed[:4] == [*more[::-1], made.id]
        before = await stores.list(before=more[1], limit=1)
        assert [store.id for store in before.data] == [more[2]]
        by_name = await stores.list(extra_query={"name": "books"})
        assert [store.id for store in by_name.data] == [made.id]
        deleted = await stores.delete(made.id)
        assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "vector_store.deleted")
        with pytest.raises(openai.NotFoundError):
            await stores.retrieve(made.id)
        assert (await client.files.retrieve(file_id)).id == file_id

    do(work)


def test_the_sdk_manages_files_of_a_store(do: Do, installation: Installation) -> None:
    async def work(client: AsyncOpenAI) -> None:
        store, file_id = await client.vector_stores.create(name="x"), await upload(client)
        below = client.vector_stores.files
        attributes: dict[str, str | float | bool] = {"year": 2026, "draft": True, "team": "a", "score": 0.5}
        made = await below.create(vector_store_id=store.id, file_id=file_id, attributes=attributes)
        assert (made.id, made.vector_store_id, made.status, made.last_error) == (
            file_id,
            store.id,
            "in_progress",
            None,
        )
        assert made.attributes == attributes
        assert made.chunking_strategy is not None
        assert made.chunking_strategy.type == "static"
        assert made.chunking_strategy.static.max_chunk_size_tokens == 800
        ingest(installation, file_id, "first", "zwe\N{LATIN SMALL LETTER I WITH DIAERESIS}tens", 'quo"ted\n')
        assert (await below.poll(file_id, vector_store_id=store.id)).status == "completed"
        content = await below.content(file_id, vector_store_id=store.id)
        assert [part.text for part in content.data] == ["first", "zweïtens", 'quo"ted\n']
        changed = await below.update(file_id, vector_store_id=store.id, attributes={"b": "2"})
        assert changed.attributes == {"b": "2"}
        other = await upload(client, "b.txt")
        await below.create(vector_store_id=store.id, file_id=other)
        assert [file.id async for file in below.list(store.id, limit=1, order="asc")] == [file_id, other]
        assert [file.id async for file in below.list(store.id, filter="completed")] == [file_id]
        counts = (await client.vector_stores.retrieve(store.id)).file_counts
        assert (counts.completed, counts.in_progress, counts.total) == (1, 1, 2)
        removed = await below.delete(file_id, vector_store_id=store.id)
        assert (removed.id, removed.deleted, removed.object) == (file_id, True, "vector_store.file.deleted")
        assert [file.id async for file in below.list(store.id)] == [other]
        await client.files.delete(other)
        assert [file.id async for file in below.list(store.id)] == []

    do(work)


def test_the_sdk_sees_why_a_file_failed(do: Do, installation: Installation) -> None:
    async def work(client: AsyncOpenAI) -> None:
        store, file_id = await client.vector_stores.create(), await upload(client)
        await client.vector_stores.files.create(store.id, file_id=file_id)
        ingest(installation, file_id, status="failed", error_code="unsupported_file", error_message="No text in it.")
        found = await client.vector_stores.files.poll(file_id, vector_store_id=store.id)
        assert found.last_error is not None
        assert (found.status, found.last_error.code, found.last_error.message) == (
            "failed",
            "unsupported_file",
            "No text in it.",
        )

    do(work)


def test_the_sdk_manages_batches(do: Do, installation: Installation) -> None:
    async def work(client: AsyncOpenAI) -> None:
        store = await client.vector_stores.create()
        ids = [await upload(client, f"{n}.txt") for n in range(3)]
        batches = client.vector_stores.file_batches
        made = await batches.create(store.id, file_ids=ids[:2], attributes={"a": 1})
        assert (made.status, made.file_counts.in_progress, made.vector_store_id) == ("in_progress", 2, store.id)
        ingest(installation, ids[0])
        assert [file.id async for file in batches.list_files(made.id, vector_store_id=store.id, limit=1)] == [
            ids[1],
            ids[0],
        ]
        listed = batches.list_files(made.id, vector_store_id=store.id, filter="in_progress")
        assert [file.id async for file in listed] == [ids[1]]
        cancelled = await batches.cancel(made.id, vector_store_id=store.id)
        assert (cancelled.status, cancelled.file_counts.cancelled, cancelled.file_counts.completed) == (
            "cancelled",
            1,
            1,
        )
        second = await batches.create(
            store.id,
            files=[
                {"file_id": ids[1], "attributes": {"n": "x"}},
                {"file_id": ids[2], "chunking_strategy": {"type": "auto"}},
            ],
        )
        for file_id in ids[1:]:
            ingest(installation, file_id)
        done = await batches.poll(second.id, vector_store_id=store.id)
        assert (done.status, done.file_counts.completed) == ("completed", 2)
        assert await batches.retrieve(second.id, vector_store_id=store.id) == done
        assert (await client.vector_stores.files.retrieve(ids[1], vector_store_id=store.id)).attributes == {"n": "x"}

    do(work)


CHUNKING = {"type": "static", "static": {"max_chunk_size_tokens": 99, "chunk_overlap_tokens": 0}}
INVALID: list[tuple[str, dict[str, Any], str]] = [
    ("", {"name": 7}, "name"),
    ("", {"name": "a\0b"}, "name"),
    ("", {"name": "x" * 257}, "name"),
    ("", {"description": ["x"]}, "description"),
    ("", {"metadata": []}, "metadata"),
    ("", {"metadata": {"k": 1}}, "metadata.k"),
    ("", {"metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ("", {"expires_after": {"anchor": "created_at", "days": 1}}, "expires_after.anchor"),
    ("", {"expires_after": {"anchor": "last_active_at"}}, "expires_after.days"),
    ("", {"expires_after": {"anchor": "last_active_at", "days": 0}}, "expires_after.days"),
    ("", {"expires_after": {"anchor": "last_active_at", "days": 1.5}}, "expires_after.days"),
    ("", {"expires_after": {"anchor": "last_active_at", "days": True}}, "expires_after.days"),
    ("", {"expires_after": {"anchor": "last_active_at", "days": 10**30}}, "expires_after.days"),
    ("", {"file_ids": "file-1"}, "file_ids"),
    ("", {"file_ids": [7]}, "file_ids.0"),
    ("", {"file_ids": ["a", "a"]}, "file_ids"),
    ("", {"file_ids": [f"file-{n}" for n in range(2001)]}, "file_ids"),
    ("", {"chunking_strategy": {"type": "semantic"}}, "chunking_strategy.type"),
    ("", {"chunking_strategy": {"type": "static"}}, "chunking_strategy.static"),
    ("", {"chunking_strategy": {"type": "auto", "static": CHUNKING["static"]}}, "chunking_strategy.static"),
    ("", {"chunking_strategy": CHUNKING}, "chunking_strategy.static.max_chunk_size_tokens"),
    ("/STORE", {"name": []}, "name"),
    ("/STORE", {"file_ids": []}, "file_ids"),
    ("/STORE", {"expires_after": {"anchor": "last_active_at", "days": 366}}, "expires_after.days"),
    ("/STORE/files", {}, "file_id"),
    ("/STORE/files", {"file_id": 7}, "file_id"),
    ("/STORE/files", {"file_id": "FILE", "attributes": {"k": None}}, "attributes.k"),
    ("/STORE/files", {"file_id": "FILE", "attributes": {"k": []}}, "attributes.k"),
    ("/STORE/files", {"file_id": "FILE", "attributes": {"k": "x" * 513}}, "attributes.k"),
    ("/STORE/files", {"file_id": "FILE", "attributes": {"k": 10**17}}, "attributes.k"),
    ("/STORE/file_batches", {}, "file_ids"),
    ("/STORE/file_batches", {"file_ids": []}, "file_ids"),
    ("/STORE/file_batches", {"files": []}, "file_ids"),
    ("/STORE/file_batches", {"file_ids": ["FILE"], "files": [{"file_id": "FILE"}]}, "file_ids"),
    ("/STORE/file_batches", {"files": [{"file_id": "FILE"}], "attributes": {"a": 1}}, "attributes"),
    ("/STORE/file_batches", {"files": [{"file_id": "FILE"}], "chunking_strategy": CHUNKING}, "chunking_strategy"),
    ("/STORE/file_batches", {"files": [{}]}, "files.0.file_id"),
    ("/STORE/file_batches", {"files": [{"file_id": "FILE", "attributes": {"k": {}}}]}, "files.0.attributes.k"),
    ("/STORE/file_batches", {"files": [{"file_id": "FILE", "file": "x"}]}, "files.0.file"),
    (
        "/STORE/file_batches",
        {"files": [{"file_id": "FILE", "chunking_strategy": CHUNKING}]},
        "files.0.chunking_strategy.static.max_chunk_size_tokens",
    ),
]


@pytest.fixture(scope="module")
def file_id(installation: Installation) -> str:
    """The id of a file of the administrator's project."""
    owner = installation.owner
    row = {"filename": "a", "purpose": "assistants", "size_bytes": 1, "content_type": "text/plain", "created_at": 1}
    with installation.context.database.write() as session:
        place = {"organization_id": owner.organization_id, "project_id": owner.project_id}
        session.add(files, id="file-stores", **place, **row)
    return "file-stores"


@pytest.mark.parametrize(("path", "body", "param"), INVALID)
def test_an_invalid_body_is_refused_and_changes_nothing(
    path: str, body: dict[str, Any], param: str, call: Call, file_id: str
) -> None:
    before = call("POST", "", {"name": "before"}).json
    known = call("GET", "", query="limit=100").json
    sent = json_with(body, FILE=file_id)
    answer = call("POST", path.replace("STORE", before["id"]), sent)
    assert answer.status == 400, answer.body
    assert (answer.error["type"], answer.error["param"]) == ("invalid_request_error", param)
    assert call("GET", "", query="limit=100").json == known


def json_with(value: Any, **names: str) -> Any:
    """The value with these names replaced."""
    if isinstance(value, dict):
        return {key: json_with(each, **names) for key, each in value.items()}
    if isinstance(value, list):
        return [json_with(each, **names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        ("", "limit=101", "limit"),
        ("", "order=random", "order"),
        ("", "after=file-1", "after"),
        ("", "before=nobody", "before"),
        ("", f"name={'x' * 257}", "name"),
        ("/STORE/files", "filter=done", "filter"),
        ("/STORE/files", "limit=-1", "limit"),
        ("/STORE/files", "after=file-unknown", "after"),
        ("/STORE/files", f"before={'x' * 65}", "before"),
    ],
)
def test_an_invalid_query_is_refused(path: str, query: str, param: str, call: Call) -> None:
    store = call("POST", "", {}).json["id"]
    answer = call("GET", path.replace("STORE", store), query=query)
    assert answer.status == 400, answer.body
    assert answer.error["param"] == param


def test_an_empty_list_has_strings_as_ids(call: Call) -> None:
    store = call("POST", "", {}).json["id"]
    empty = {"object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False}
    assert call("GET", f"/{store}/files").json == empty
    assert call("GET", "", query="name=nobodys").json == empty
    assert call("GET", f"/{store}/files", query="limit=0&after=&before=").json == empty


def test_errors_of_a_wrong_state_are_not_retried(call: Call, file_id: str) -> None:
    store = call("POST", "", {"file_ids": [file_id]}).json["id"]
    for answer, code in (
        (call("POST", f"/{store}/files", {"file_id": file_id}), "file_in_store"),
        (call("GET", f"/{store}/files/{file_id}/content"), "file_not_completed"),
    ):
        assert_error(answer, 409, code)
        assert answer.headers["x-should-retry"] == "false"


def test_another_organizations_store_and_file_are_unknown(
    call: Call, outsider: dict[str, str], file_id: str, installation: Installation
) -> None:
    store = call("POST", "", {"file_ids": [file_id]}).json["id"]
    theirs = call("POST", "", {}, **outsider).json["id"]
    for answer in (
        call("GET", f"/{store}", **outsider),
        call("POST", f"/{store}", {"name": "x"}, **outsider),
        call("DELETE", f"/{store}", **outsider),
        call("GET", f"/{store}/files/{file_id}/content", **outsider),
        call("POST", f"/{theirs}/files", {"file_id": file_id}, **outsider),
        call("POST", f"/{theirs}/file_batches", {"file_ids": [file_id]}, **outsider),
        call("POST", "", {"file_ids": [file_id]}, **outsider),
    ):
        assert_error(answer, 404, "not_found")
    assert [each["id"] for each in call("GET", "", **outsider).json["data"]] == [theirs]


def test_null_removes_and_absence_keeps(call: Call) -> None:
    sent = {
        "name": "x",
        "description": "y",
        "metadata": {"a": "b"},
        "expires_after": {"anchor": "last_active_at", "days": 3},
    }
    made = call("POST", "", sent).json
    assert {name: made[name] for name in sent} == sent
    assert {**call("POST", f"/{made['id']}", {}).json, "last_active_at": 0, "expires_at": 0} == {
        **made,
        "last_active_at": 0,
        "expires_at": 0,
    }
    cleared = call("POST", f"/{made['id']}", dict.fromkeys(sent)).json
    assert {name: cleared[name] for name in sent} == {
        "name": "",
        "description": "",
        "metadata": {},
        "expires_after": None,
    }
