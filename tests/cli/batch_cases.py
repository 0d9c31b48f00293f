"""Cases of `llma batch`, as those of `storage_cases`."""

from __future__ import annotations

from typing import Any

__all__ = ["JOB", "ROWS"]

JOB: dict[str, Any] = {
    "id": "bj-1",
    "object": "batch.job",
    "created_at": 1_760_000_000,
    "started_at": 0,
    "finished_at": 0,
    "cancel_requested_at": 0,
    "status": "queued",
    "queue": {"place": 2, "reason": "Jobs run before it."},
    "error": None,
    "image": "pytorch-2.1",
    "command": "python scripts/train.py",
    "scripts": ["train.py"],
    "envs": {"LR": "0.1"},
    "data_files": ["file-1"],
    "environment": "A process here.",
}
FAILED = {
    **JOB,
    "status": "failed",
    "queue": None,
    "finished_at": 1_760_000_100,
    "error": {"code": "exit_code", "message": "The command ended with exit code 3."},
}


def row(line: str, route: str, answer: dict[str, Any], shows: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """The fields of a case."""
    return {"line": f"batch {line}", "route": route, "answer": answer, "shows": shows, **more}


ROWS = [
    row(
        "jobs list --limit 7",
        "GET /batch/jobs",
        {"object": "list", "jobs": [JOB, FAILED], "has_more": False, "total_items": 2},
        ("bj-1", "queued (2)", "failed", "exit code 3", "2025-10-09"),
        query={"limit": "7"},
    ),
    row("job get bj-1", "GET /batch/jobs/bj-1", JOB, ("bj-1", "queued", "2", "Jobs run before it.", "A process here.")),
    row("jobs get bj-1", "GET /batch/jobs/bj-1", FAILED, ("The command ended with exit code 3. (exit_code)",)),
    row("jobs output download bj-1", "GET /batch/jobs/bj-1", FAILED, ("bj-1 left no files",)),
    row("jobs output download bj-1", "GET /batch/jobs/bj-1", JOB, ("bj-1 has not ended",)),
    row(
        "jobs get bj-1",
        "GET /batch/jobs/bj-1",
        {**FAILED, "result_files": [{"id": "file-2", "name": "a/b.csv", "bytes": 3}], "results_error": "Not kept: c."},
        ("a/b.csv", "Not kept: c."),
    ),
    row("jobs pause bj-1", "POST /batch/jobs/bj-1/pause", JOB, ("bj-1 pauses.",), body={}),
    row("jobs pause bj-1", "POST /batch/jobs/bj-1/pause", {**JOB, "status": "paused"}, ("bj-1 is paused.",), body={}),
    row("jobs resume bj-1", "POST /batch/jobs/bj-1/resume", JOB, ("bj-1 continues: queued.",), body={}),
    row("jobs get bj-1", "GET /batch/jobs/bj-1", {**JOB, "backoff_limit": 3, "restarts": 1}, ("1 of 3 times",)),
    row(
        "jobs cancel bj-1",
        "POST /batch/jobs/bj-1/cancel",
        {**JOB, "cancel_requested_at": 1_760_000_050},
        ("bj-1 ends.",),
        body={},
    ),
    row("jobs cancel bj-1", "POST /batch/jobs/bj-1/cancel", FAILED, ("bj-1 has ended: failed.",), body={}),
    row("jobs delete bj-1 --force", "DELETE /batch/jobs/bj-1", JOB, ("Deleted bj-1.",)),
    row(
        "jobs delete bj-1",
        "DELETE /batch/jobs/bj-1",
        FAILED,
        ("Deleted bj-1.",),
        before={"GET /batch/jobs/bj-1": FAILED},
    ),
]
