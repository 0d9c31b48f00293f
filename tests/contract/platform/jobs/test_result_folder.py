"""Files that jobs of one machine leave: which are results, and what a hostile command can make of that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmariner.platform.jobs import MAX_RESULT_FILES, Job, Phase, ResultFile
from llmariner.platform.jobs.local_processes.adapter import ProcessJobs
from llmariner.platform.jobs.local_processes.result_folder import keep_results, list_results

from .conftest import wait_for_end, wait_for_output

LEAVE = """\
mkdir -p output/model && echo weights > output/model/adapter.bin && echo 0.1 > output/loss
ln -s /etc/passwd output/passwd; ln -s / output/everything; mkfifo output/pipe; echo x > "output/a
b"; chmod 000 output/model
"""


def read(jobs: ProcessJobs, job_id: str, name: str) -> bytes:
    return b"".join(jobs.read_result(job_id, name))


@pytest.mark.parametrize(("end", "phase"), [("exit 0", Phase.SUCCEEDED), ("exit 3", Phase.FAILED)])
def test_regular_files_are_kept_however_the_command_ends(processes: ProcessJobs, end: str, phase: Phase) -> None:
    processes.submit(Job("bj-1", "proj_1", LEAVE + end))
    assert wait_for_end(processes, "bj-1").phase is phase
    found = processes.results("bj-1")
    assert found.files == (ResultFile("loss", 4), ResultFile("model/adapter.bin", 8))
    for each in ("'a\\nb'", "'everything'", "'passwd'", "'pipe'"):
        assert each in found.left_out
    assert read(processes, "bj-1", "model/adapter.bin") == b"weights\n"
    for _ in range(2):
        processes.delete_results("bj-1")
    assert processes.results("bj-1").files == ()


def test_only_the_last_attempt_and_no_canceled_job_leaves_files(processes: ProcessJobs) -> None:
    processes.submit(Job("bj-1", "proj_1", "ls output; echo $$ > output/n-$(date +%s%N); exit 1", backoff_limit=1))
    processes.submit(Job("bj-2", "proj_1", "echo x > output/x; echo began; sleep 1000"))
    assert wait_for_end(processes, "bj-1").restarts == 1
    assert len(processes.results("bj-1").files) == 1
    wait_for_output(processes, "bj-2", "began")
    assert processes.results("bj-2").files == (), "it has not ended"
    processes.cancel("bj-2")
    wait_for_end(processes, "bj-2")
    assert processes.results("bj-2").files == ()


def test_an_output_that_is_a_link_is_none(processes: ProcessJobs) -> None:
    processes.submit(Job("bj-1", "proj_1", "rmdir output; ln -s /etc output"))
    wait_for_end(processes, "bj-1")
    assert processes.results("bj-1").files == ()


def test_number_size_depth_and_names_are_bounded(tmp_path: Path) -> None:
    source = tmp_path / "output"
    deep = source / Path(*"abcdefghij")
    deep.mkdir(parents=True)
    (deep / "file").touch()
    (source / os.fsdecode(b"\xff")).touch()
    (source / ("n" * 200)).mkdir()
    (source / ("n" * 200) / ("m" * 200)).touch()
    with (source / "holes").open("wb") as file:
        file.truncate(1 << 30)
    os.mkfifo(source / "pipe")
    (source / "small").write_bytes(b"x" * 10)
    keep_results(source, tmp_path / "results")
    found = list_results(tmp_path / "results", max_bytes=10)
    assert found.files == (ResultFile("small", 10),)
    assert found.left_out.count(";") == 4
    for number in range(MAX_RESULT_FILES + 20):
        (tmp_path / "results" / f"f{number:03}").touch()
    found = list_results(tmp_path / "results", max_bytes=10)
    assert len(found.files) == MAX_RESULT_FILES
    assert "all after the first 100 files" in found.left_out


def test_a_job_without_a_folder_has_no_results(tmp_path: Path) -> None:
    keep_results(tmp_path / "none", tmp_path / "results")
    assert list_results(tmp_path / "results", max_bytes=10).files == ()
