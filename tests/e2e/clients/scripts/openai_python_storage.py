"""What the `openai` package for Python, 2.x and 3.x, can do with a server's files and vector stores: a line per capability.

    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sk-... python openai_python_storage.py

prints `ok NAME` or `failed NAME: why`, and ends with 1 when anything failed. It deletes what it creates.
"""

import asyncio
import hashlib
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
from capability_report import error_of, report  # type: ignore[import-not-found]
from openai import AsyncOpenAI, OpenAI

CLIENT = OpenAI(timeout=300)
# Contents of one project are stored once: each run has its own.
RUN = secrets.token_hex(4)
PUMP = f"# Pump\n\nThe red pump moves water out of the well. Run {RUN}.".encode()
CAT = f"# Cat\n\nA cat sleeps all day on the warm windowsill. Run {RUN}.".encode()
TAX = f"# Tax\n\nThe tax office closes at noon on Fridays. Run {RUN}.".encode()
PART_BYTES = 64 * 1024
POLL_MS = 300


@contextmanager
def file(content: bytes, name: str = "pump.md") -> Iterator[Any]:
    created = CLIENT.files.create(file=(name, content), purpose="assistants")
    try:
        yield created
    finally:
        CLIENT.files.delete(created.id)


@contextmanager
def store(**fields: Any) -> Iterator[Any]:
    """A vector store; it and the files in it are deleted."""
    created = CLIENT.vector_stores.create(name=f"client {RUN}", **fields)
    try:
        yield created
    finally:
        files = [each.id for each in CLIENT.vector_stores.files.list(created.id)]
        assert CLIENT.vector_stores.delete(created.id).deleted
        for each in files:
            CLIENT.files.delete(each)


def files_create() -> None:
    with file(PUMP) as created:
        assert (created.object, created.bytes, created.filename) == ("file", len(PUMP), "pump.md")
        assert created.purpose == "assistants"
        assert CLIENT.files.retrieve(created.id) == created
        assert CLIENT.files.wait_for_processing(created.id, poll_interval=0.2).status == "processed"


def files_content() -> None:
    with file(PUMP) as created:
        assert CLIENT.files.content(created.id).read() == PUMP
        with CLIENT.files.with_streaming_response.content(created.id) as response:
            assert b"".join(response.iter_bytes(16)) == PUMP


def files_list() -> None:
    with file(PUMP) as one, file(CAT, "cat.md") as other:
        listed = [each.id for each in CLIENT.files.list(purpose="assistants", order="asc", limit=1)]
        assert [each for each in listed if each in (one.id, other.id)] == [one.id, other.id]


def files_expiry() -> None:
    expiry: Any = {"anchor": "created_at", "seconds": 3600}
    created = CLIENT.files.create(file=("a.txt", PUMP), purpose="assistants", expires_after=expiry)
    try:
        assert created.expires_at == created.created_at + 3600
    finally:
        assert CLIENT.files.delete(created.id).deleted
    _refused(lambda: CLIENT.files.retrieve(created.id), openai.NotFoundError)


def files_refused() -> None:
    wrong: Any = "no-such-purpose"
    error = _refused(lambda: CLIENT.files.create(file=("a.txt", PUMP), purpose=wrong), openai.BadRequestError)
    assert error.param == "purpose", error.param
    lines = b'{"custom_id": "1"}\nnot JSON\n'
    error = _refused(lambda: CLIENT.files.create(file=("a.jsonl", lines), purpose="batch"), openai.BadRequestError)
    assert "line" in error.message.lower(), error.message


def uploads_chunked() -> None:
    content = (secrets.token_hex(32) + "\n").encode() * 3_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "long.txt")
        path.write_bytes(content)
        upload = CLIENT.uploads.upload_file_chunked(
            file=path,
            mime_type="text/plain",
            purpose="assistants",
            part_size=PART_BYTES,
            md5=hashlib.md5(content).hexdigest(),
        )
    assert upload.status == "completed"
    assert upload.file is not None
    try:
        assert (upload.file.bytes, upload.file.filename) == (len(content), "long.txt")
        assert CLIENT.files.content(upload.file.id).read() == content
    finally:
        CLIENT.files.delete(upload.file.id)


def uploads_cancel() -> None:
    upload = CLIENT.uploads.create(bytes=4, filename="a.txt", mime_type="text/plain", purpose="assistants")
    part = CLIENT.uploads.parts.create(upload.id, data=b"abcd")
    assert part.upload_id == upload.id
    assert CLIENT.uploads.cancel(upload.id).status == "cancelled"
    _refused(lambda: CLIENT.uploads.complete(upload.id, part_ids=[part.id]), openai.APIStatusError)


def stores_change() -> None:
    with store(metadata={"team": "a"}) as created:
        changed = CLIENT.vector_stores.update(created.id, name=f"renamed {RUN}", metadata={"team": "b"})
        assert (changed.name, changed.metadata) == (f"renamed {RUN}", {"team": "b"})
        assert CLIENT.vector_stores.retrieve(created.id).name == changed.name
        assert created.id in [each.id for each in CLIENT.vector_stores.list(limit=2)]


def store_files_create_and_poll() -> None:
    with file(PUMP) as created, store() as made:
        chunks: Any = {"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 50}}
        added = CLIENT.vector_stores.files.create_and_poll(
            created.id,
            vector_store_id=made.id,
            attributes={"topic": "pump", "year": 2026},
            chunking_strategy=chunks,
            poll_interval_ms=POLL_MS,
        )
        assert (added.status, added.last_error) == ("completed", None)
        assert added.attributes == {"topic": "pump", "year": 2026}
        content = list(CLIENT.vector_stores.files.content(created.id, vector_store_id=made.id))
        assert any("red pump" in (part.text or "") for part in content), content
        CLIENT.vector_stores.files.delete(created.id, vector_store_id=made.id)
        assert list(CLIENT.vector_stores.files.list(made.id)) == []


def store_files_upload_and_poll() -> None:
    with store() as made:
        added = CLIENT.vector_stores.files.upload_and_poll(
            vector_store_id=made.id, file=("pump.md", PUMP), poll_interval_ms=POLL_MS
        )
        assert added.status == "completed", added.last_error
        counts = CLIENT.vector_stores.retrieve(made.id).file_counts
        assert (counts.completed, counts.total) == (1, 1)


def store_files_failed() -> None:
    """A file that can't be read is an error of that file, with OpenAI's code."""
    with store() as made:
        added = CLIENT.vector_stores.files.upload_and_poll(
            vector_store_id=made.id, file=("a.pdf", f"%PDF-1.7 {RUN} no more".encode()), poll_interval_ms=POLL_MS
        )
        assert added.status == "failed"
        assert added.last_error is not None
        assert added.last_error.code == "invalid_file", added.last_error


def batches_upload_and_poll() -> None:
    with file(TAX, "tax.md") as created, store() as made:
        batch = CLIENT.vector_stores.file_batches.upload_and_poll(
            made.id, files=[("pump.md", PUMP), ("cat.md", CAT)], file_ids=[created.id], poll_interval_ms=POLL_MS
        )
        assert (batch.status, batch.file_counts.completed, batch.file_counts.failed) == ("completed", 3, 0)
        listed = list(CLIENT.vector_stores.file_batches.list_files(batch.id, vector_store_id=made.id))
        assert len({each.id for each in listed}) == 3
        assert CLIENT.vector_stores.search(made.id, query="sleeping animals").data[0].filename == "cat.md"
        CLIENT.vector_stores.files.delete(created.id, vector_store_id=made.id)


def search() -> None:
    with store() as made:
        for name, content, year in (("pump.md", PUMP, 2025), ("cat.md", CAT, 2026)):
            added = CLIENT.vector_stores.files.upload_and_poll(
                vector_store_id=made.id, file=(name, content), attributes={"year": year}, poll_interval_ms=POLL_MS
            )
            assert added.status == "completed", added.last_error
        ask: Any = CLIENT.vector_stores.search
        assert ask(made.id, query="pump for the well").data[0].filename == "pump.md"
        only_cats: Any = {"type": "and", "filters": [{"type": "gte", "key": "year", "value": 2026}]}
        found = ask(made.id, query="pump for the well", filters=only_cats, max_num_results=5).data
        assert [(each.filename, each.attributes) for each in found] == [("cat.md", {"year": 2026})]
        page = ask(made.id, query=["Where is the cat?", "What is a pump?"], rewrite_query=True)
        assert {each.filename for each in page.data} == {"pump.md", "cat.md"}
        assert all(0 <= each.score <= 1 and each.content[0].type == "text" for each in page.data)
        strict: Any = {"ranker": "auto", "score_threshold": 0.999}
        assert len(ask(made.id, query="red pump water well", ranking_options=strict).data) <= 1


def answers_from_documents() -> None:
    """The tool `file_search` in a chat: citations of what was found, in the message and in the last chunk of a stream."""
    with store() as made:
        added = CLIENT.vector_stores.files.upload_and_poll(
            vector_store_id=made.id, file=("pump.md", PUMP), poll_interval_ms=POLL_MS
        )
        fields: Any = {
            "model": "smollm2-135m-instruct",
            "messages": [{"role": "user", "content": "What does the red pump move?"}],
            "tools": [{"type": "file_search", "vector_store_ids": [made.id], "max_num_results": 2}],
            "max_completion_tokens": 40,
            "temperature": 0,
        }
        create: Any = CLIENT.chat.completions.create
        answer = create(**fields, extra_body={"include": ["file_search_call.results"]})
        [result] = answer.file_search_call["results"]
        assert (result["file_id"], result["vector_store_id"]) == (added.id, made.id)
        _check_citations(answer.choices[0].message.annotations, added.id, result["text"])
        *_, last = [chunk for chunk in create(**fields, stream=True) if chunk.choices]
        assert last.file_search_call["used"] == 1
        _check_citations(last.choices[0].delta.annotations, added.id, result["text"])
        fields["tools"][0]["vector_store_ids"] = ["vs_unknown"]
        assert _refused(lambda: create(**fields), openai.NotFoundError).param == "tools[0].vector_store_ids"


def _check_citations(citations: Any, file_id: str, text: str) -> None:
    for each in citations:
        cited = each if isinstance(each, dict) else each.model_dump()
        assert (cited["type"], cited["file_id"], cited["filename"]) == ("file_citation", file_id, "pump.md"), cited
        assert cited["quote"] in text, cited


def asynchronous() -> None:
    async def found() -> str:
        async with AsyncOpenAI(timeout=300) as client:
            made = await client.vector_stores.create(name=f"async {RUN}")
            added = await client.vector_stores.files.upload_and_poll(
                vector_store_id=made.id, file=("pump.md", PUMP), poll_interval_ms=POLL_MS
            )
            page = await client.vector_stores.search(made.id, query="pump")
            await client.vector_stores.delete(made.id)
            await client.files.delete(added.id)
            return page.data[0].content[0].text

    assert "red pump" in asyncio.run(found())


def unknown_ids() -> None:
    for ask in (
        lambda: CLIENT.files.content("file-unknown"),
        lambda: CLIENT.files.delete("file-unknown"),
        lambda: CLIENT.vector_stores.retrieve("vs_unknown"),
        lambda: CLIENT.vector_stores.search("vs_unknown", query="pump"),
        lambda: CLIENT.uploads.cancel("upload_unknown"),
    ):
        assert _refused(ask, openai.NotFoundError).request_id


def _refused(ask: Callable[[], Any], kind: type[openai.APIStatusError]) -> Any:
    """The error, once it is known to be the right one."""
    error = error_of(ask)
    assert isinstance(error, kind), f"{error!r} instead of {kind.__name__}"
    assert error.message
    return error


CAPABILITIES = (
    files_create,
    files_content,
    files_list,
    files_expiry,
    files_refused,
    uploads_chunked,
    uploads_cancel,
    stores_change,
    store_files_create_and_poll,
    store_files_upload_and_poll,
    store_files_failed,
    batches_upload_and_poll,
    search,
    answers_from_documents,
    asynchronous,
    unknown_ids,
)


if __name__ == "__main__":
    sys.exit(report(CAPABILITIES))
