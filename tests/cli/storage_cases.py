"""Cases of `llma storage`: command line, expected request, response, and words of the output.

Rows are the fields of `test_commands.Case`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["FILE", "LOOKUP", "RESULT", "ROWS", "STORE", "STORE_FILE"]

FILE: dict[str, Any] = {
    "id": "file-1",
    "object": "file",
    "bytes": 1536,
    "created_at": 1_760_000_000,
    "expires_at": None,
    "filename": "Ärger.pdf",
    "purpose": "assistants",
    "status": "processed",
    "status_details": None,
    "object_store_path": "",
}
LINK: dict[str, Any] = {
    "id": "link_1",
    "object": "file.link",
    "file_id": "file-1",
    "created_at": 1_760_000_000,
    "expires_at": 1_760_043_200,
    "url": "https://platform.example/v1/files/file-1/content?link=a.b.c",
}
STORE: dict[str, Any] = {
    "id": "vs_1",
    "object": "vector_store",
    "created_at": 1_760_000_000,
    "name": "handbook",
    "description": "How we work.",
    "usage_bytes": 2048,
    "file_counts": {"in_progress": 1, "completed": 3, "failed": 1, "cancelled": 0, "total": 5},
    "status": "in_progress",
    "expires_after": {"anchor": "last_active_at", "days": 7},
    "expires_at": 1_790_000_000,
    "last_active_at": 1_780_000_000,
    "metadata": {"team": "search"},
}
STORE_FILE: dict[str, Any] = {
    "id": "file-1",
    "object": "vector_store.file",
    "usage_bytes": 2048,
    "created_at": 1_760_000_000,
    "vector_store_id": "vs_1",
    "status": "in_progress",
    "last_error": {"code": "server_error", "message": "The budget is used up."},
    "attributes": {"year": 2026},
    "progress": {"step": "embed", "chunks_indexed": 4, "chunks": 12},
}
RESULT: dict[str, Any] = {
    "file_id": "file-1",
    "filename": "Ärger.pdf",
    "score": 0.87654,
    "attributes": {},
    "content": [{"type": "text", "text": "It takes\n three weeks."}],
    "chunk": {"id": "vsf_1-0", "page": 17, "start": 0, "end": 22, "headings": []},
    "found_by": {"vector": {"rank": 1, "score": 0.8}, "text": {"rank": 3, "score": 2.5}},
}
STORES: dict[str, Any] = {"object": "list", "data": [STORE], "has_more": False}
LOOKUP: dict[str, Any] = {"GET /vector_stores": STORES}
_TWO_LOOKUPS: dict[str, Any] = {**LOOKUP, "GET /vector_stores/vs_2": {**STORE, "id": "vs_2", "name": "wiki"}}


def row(
    line: str,
    route: str,
    answer: dict[str, Any],
    shows: tuple[str, ...],
    *,
    body: Any = None,
    query: dict[str, str] | None = None,
    before: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The fields of one case."""
    return {
        "line": f"storage {line}",
        "route": route,
        "answer": answer,
        "shows": shows,
        "body": body,
        "query": query or {},
        "before": before or {},
    }


ROWS = [
    row(
        "files list --purpose assistants --limit 7",
        "GET /files",
        {"object": "list", "data": [FILE], "has_more": False},
        ("file-1", "Ärger.pdf", "1.5 KiB", "assistants", "2025-10-09", "never"),
        query={"purpose": "assistants", "limit": "7"},
    ),
    row("files get file-1", "GET /files/file-1", FILE, ("Ärger.pdf", "1.5 KiB", "processed", "never")),
    row("files delete file-1", "DELETE /files/file-1", {"id": "file-1", "deleted": True}, ("Deleted file-1.",)),
    row(
        "files url file-1 --expires-in 0.5",
        "POST /files/file-1/links",
        LINK,
        ("https://platform.example/v1/files/file-1/content?link=a.b.c",),
        body={"expires_in_seconds": 43_200},
    ),
    row(
        "files upload-url results.jsonl --purpose user_data --max-bytes 5 --expires-in 2",
        "POST /files:createUploadLink",
        {**LINK, "object": "upload.link", "url": "https://platform.example/v1/files:upload?link=a.b.c"},
        ("https://platform.example/v1/files:upload?link=a.b.c",),
        body={"filename": "results.jsonl", "purpose": "user_data", "max_bytes": 5, "expires_in_seconds": 172_800},
    ),
    row(
        "files create-link --object-path s3://bucket/key --purpose fine-tune",
        "POST /files:createFromObjectPath",
        {**FILE, "object_store_path": "s3://bucket/key"},
        ("Linked s3://bucket/key as file-1.",),
        body={"object_path": "s3://bucket/key", "purpose": "fine-tune"},
    ),
    row(
        "vector-stores create handbook --description D --file-id file-1 --file-id file-2 --expires-after-days 7"
        " --metadata team=search --metadata note=a=b --embedding-model bge-m3 --chunk-tokens 200 --overlap-tokens 50",
        "POST /vector_stores",
        STORE,
        ("Created handbook (vs_1).",),
        body={
            "name": "handbook",
            "description": "D",
            "file_ids": ["file-1", "file-2"],
            "expires_after": {"anchor": "last_active_at", "days": 7},
            "metadata": {"team": "search", "note": "a=b"},
            "embedding_model": "bge-m3",
            "chunking_strategy": {
                "type": "static",
                "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 50},
            },
        },
    ),
    row(
        "vector-stores list --limit 3",
        "GET /vector_stores",
        STORES,
        ("vs_1", "handbook", "in_progress", "3 of 5, 1 failed", "2.0 KiB", "2025-10-09"),
        query={"limit": "3"},
    ),
    row(
        "vector-stores get vs_1",
        "GET /vector_stores/vs_1",
        STORE,
        ("handbook", "How we work.", "3 of 5, 1 failed", "team=search", "2026-09-21"),
    ),
    row(
        "vector-stores delete handbook",
        "DELETE /vector_stores/vs_1",
        {"id": "vs_1", "deleted": True},
        ("Deleted handbook.",),
        before=LOOKUP,
    ),
    row(
        "vector-stores rebuild handbook",
        "POST /vector_stores/vs_1/rebuild",
        STORE,
        ("handbook is being indexed again.",),
        body={},
        before=LOOKUP,
    ),
    row(
        "vector-stores files handbook --status in_progress",
        "GET /vector_stores/vs_1/files",
        {"object": "list", "data": [STORE_FILE], "has_more": False},
        ("file-1", "in_progress", "4 of 12", "2.0 KiB", "year=2026", "The budget is used up."),
        query={"filter": "in_progress"},
        before=LOOKUP,
    ),
    row(
        "vector-stores delete-file handbook -f file-1",
        "DELETE /vector_stores/vs_1/files/file-1",
        {"id": "file-1", "deleted": True},
        ("Took file-1 out of handbook.",),
        before=LOOKUP,
    ),
    row(
        "vector-stores search handbook leave --max-results 3 --score-threshold 0.5 --rewrite-query"
        ' --filter {"type":"eq","key":"year","value":2026}',
        "POST /vector_stores/vs_1/search",
        {"object": "vector_store.search_results.page", "search_query": ["leave"], "data": [RESULT], "has_more": False},
        ("0.877", "Ärger.pdf", "17", "similarity 1, words 3", "It takes three weeks."),
        body={
            "query": "leave",
            "max_num_results": 3,
            "ranking_options": {"score_threshold": 0.5},
            "filters": {"type": "eq", "key": "year", "value": 2026},
            "rewrite_query": True,
        },
        before=LOOKUP,
    ),
    row(
        "vector-stores search handbook leave --also-in vs_2",
        "POST /vector_stores/search",
        {
            "object": "vector_store.search_results.page",
            "data": [{**RESULT, "vector_store_id": "vs_2"}],
            "has_more": False,
        },
        ("STORE", "wiki", "Ärger.pdf", "It takes three weeks."),
        body={"query": "leave", "vector_store_ids": ["vs_1", "vs_2"]},
        before=_TWO_LOOKUPS,
    ),
]
