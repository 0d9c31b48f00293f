"""`llma batch jobs`: what a new job is made of, what is refused before a request, and output."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from .batch_cases import JOB
from .conftest import FakePlatform, Llma

NEW = ["batch", "jobs", "create", "--image", "pytorch-2.1", "--command", "python scripts/train.py"]


def test_a_new_job_has_all_that_was_said(llma: Llma, platform: FakePlatform, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_bytes(b"print(1)\xff")
    platform.respond("POST /batch/jobs", JOB)
    options = ["--env", "LR=0.1", "--env", "A=b=c", "--file-id", "file-1", "--gpu", "2", "--workers", "3"]
    options += ["--backoff-limit", "4"]
    done = llma(*NEW, "--from-file", str(tmp_path / "train.py"), *options)
    assert done.code == 0, done.err
    assert "Queued bj-1. A process here." in done.out
    assert platform.requests[-1].body == {
        "image": "pytorch-2.1",
        "command": "python scripts/train.py",
        "scripts": {"train.py": base64.b64encode(b"print(1)\xff").decode()},
        "envs": {"LR": "0.1", "A": "b=c"},
        "data_files": ["file-1"],
        "resources": {"gpu_count": 2},
        "kind": {"pytorch": {"worker_count": 3}},
        "backoff_limit": 4,
    }


def test_scripts_of_one_name_and_malformed_variables_are_refused(llma: Llma, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.py").touch()
    scripts = [part for folder in ("a", "b") for part in ("--from-file", str(tmp_path / folder / "x.py"))]
    done = llma(*NEW, *scripts)
    assert (done.code, "Two scripts are called x.py" in done.err) == (2, True)
    done = llma(*NEW, *scripts[:2], "--env", "LR")
    assert (done.code, "'LR' is not NAME=VALUE" in done.err) == (2, True)


def test_a_job_that_runs_is_deleted_by_force_only(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("GET /batch/jobs/bj-1", JOB)
    done = llma("batch", "jobs", "delete", "bj-1")
    assert (done.code, "--force" in done.err) == (2, True)
    assert [each.method for each in platform.requests] == ["GET"]


@pytest.mark.parametrize("follow", [False, True])
def test_output_is_printed_as_it_is(llma: Llma, platform: FakePlatform, follow: bool) -> None:
    platform.respond_with("GET /batch/jobs/bj-1/logs", raw=b"step 1\nstep 2\n", headers={"content-type": "text/plain"})
    done = llma("batch", "jobs", "logs", "bj-1", *(["-f"] if follow else []))
    assert (done.code, done.out) == (0, "step 1\nstep 2\n")
    assert platform.requests[-1].query == ({"follow": "true"} if follow else {})


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def test_a_program_in_a_job_writes_here_and_gives_its_exit_code(llma: Llma, platform: FakePlatform) -> None:
    path, headers = "POST /batch/jobs/bj-1/exec", {"content-type": "text/event-stream"}
    written = [
        event(type="output", stream=name, data=base64.b64encode(data).decode())
        for name, data in (("stdout", b"out\n"), ("stderr", b"err\n"))
    ]
    ends: dict[bytes, tuple[int, str]] = {
        event(type="exit", exit_code=3): (3, ""),
        event(type="exit", exit_code=0): (0, ""),
        event(type="exit", exit_code=None): (1, "the job ended before the program"),
        event(type="error", message="Your key was revoked."): (1, "Your key was revoked."),
        b"": (5, "ended before the program"),
    }
    for end, (code, said) in ends.items():
        platform.respond_with(path, raw=written[0] + b": running\n\n" + written[1] + end, headers=headers)
        done = llma("batch", "jobs", "exec", "bj-1", "--", "ls", "-l", "--all")
        assert (done.code, done.out) == (code, "out\n"), done.err
        assert done.err.startswith("err\n")
        assert said in done.err
    assert platform.requests[-1].body == {"command": ["ls", "-l", "--all"]}


def test_a_list_as_json_has_the_jobs_of_all_pages(llma: Llma, platform: FakePlatform) -> None:
    pages = [{"jobs": [{**JOB, "id": f"bj-{number}"}], "has_more": number == 2} for number in (2, 1)]
    platform.respond("GET /batch/jobs", *pages)
    done = llma("batch", "jobs", "list", "-o", "json")
    assert [job["id"] for job in done.json["jobs"]] == ["bj-2", "bj-1"]
    assert platform.requests[-1].query["after"] == "bj-2"


def test_result_files_are_downloaded_below_a_folder_and_nowhere_else(
    llma: Llma, platform: FakePlatform, tmp_path: Path
) -> None:
    left = [{"id": "file-2", "name": "model/loss.csv", "bytes": 3}]
    platform.respond("GET /batch/jobs/bj-1", {**JOB, "result_files": left, "results_error": "Not kept: 'pipe'."})
    platform.respond("GET /files/file-2", {"id": "file-2", "filename": "loss.csv", "bytes": 3})
    platform.respond_with("GET /files/file-2/content", raw=b"0.1", headers={"content-type": "text/csv"})
    done = llma("batch", "jobs", "output", "download", "bj-1", "--folder", str(tmp_path / "here"))
    assert (done.code, "Not kept: 'pipe'." in done.err) == (0, True), done.err
    assert (tmp_path / "here/model/loss.csv").read_bytes() == b"0.1"
    again = llma("batch", "jobs", "output", "download", "bj-1", "--folder", str(tmp_path / "here"))
    assert again.code == 2, "it replaces nothing by itself"
    for name in ("../x", "/etc/x", "a//b", "a/../../x"):
        platform.respond("GET /batch/jobs/bj-1", {**JOB, "result_files": [{"id": "file-2", "name": name, "bytes": 3}]})
        refused = llma("batch", "jobs", "output", "download", "bj-1", "--folder", str(tmp_path / "there"))
        assert (refused.code, "leads out of the folder" in refused.err) == (2, True), name
    assert not (tmp_path / "there").exists()
