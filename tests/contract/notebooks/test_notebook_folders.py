"""The folders of notebooks on one machine: one user each, and no notebook waits for the folder of another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmariner.platform.jobs.local_processes.job_folder import JobFolder
from llmariner.platform.notebooks import NotebookServer, ServerPhase
from llmariner.platform.notebooks.local_processes import ProcessNotebooks, ProcessNotebookSettings, user_id_of


class NoRoom:
    """A NotebookMemory in which nothing has room."""

    def reserve(self, owner: str, project_id: str, amounts: tuple[int, int]) -> str:
        return "It waits for memory."

    def release(self, owner: str) -> None: ...

    def refusal(self, size_bytes: int) -> str:
        return ""


@pytest.fixture
def servers(tmp_path: Path) -> ProcessNotebooks:
    settings = ProcessNotebookSettings(
        folder=tmp_path,
        python=tmp_path / "bin" / "python",
        platform="",
        readable=(),
        hidden=(),
        idle_seconds=60,
        seconds=60.0,
        free_disk_bytes=0,
    )
    return ProcessNotebooks(settings, NoRoom(), lambda: None)


def folder_of(parent: Path, name: str) -> JobFolder:
    folder = JobFolder(parent / name)
    folder.path.mkdir(mode=0o700)
    return folder


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_notebooks_that_start_at_once_have_users_of_their_own(tmp_path: Path) -> None:
    folders = [folder_of(tmp_path, f"nb-{number}") for number in range(8)]
    chosen: list[int] = []
    together = threading.Barrier(len(folders))

    def choose(folder: JobFolder) -> None:
        together.wait()
        chosen.append(user_id_of(tmp_path, folder))

    threads = [in_thread(lambda folder=each: choose(folder)) for each in folders]  # type: ignore[misc]
    for each in threads:
        each.join()
    assert len(set(chosen)) == len(folders)
    assert user_id_of(tmp_path, folders[0]) in chosen  # and it keeps it
    assert len(set(chosen)) == len({user_id_of(tmp_path, each) for each in folders})


def test_a_notebook_whose_folder_is_in_use_holds_up_no_other(servers: ProcessNotebooks, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "nb-a")
    server = NotebookServer("nb-a", 1, "proj", "token", 1000, 1, 1)
    with folder.lock(seconds=1):  # as a process of a platform that was killed does
        servers.start(server)
        began = time.monotonic()
        while time.monotonic() - began < 0.2:
            assert servers.status("nb-b") is None
        assert time.monotonic() - began < 10
    servers.stop("nb-a")
    deadline = time.monotonic() + 30
    while (status := servers.status("nb-a")) is not None and not status.phase.is_final:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert status is not None
    assert status.phase is ServerPhase.STOPPED


def test_a_folder_that_is_deleted_holds_up_no_other(servers: ProcessNotebooks, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "nb-a")
    for _ in range(10):  # of which one is not held up by the machine
        with folder.lock(seconds=1):
            removing = in_thread(lambda: servers.remove("nb-a"))
            began = time.monotonic()
            while time.monotonic() - began < 0.1:
                assert servers.status("nb-b") is None
            was_free = removing.is_alive()
            removing.join()
        if was_free:
            break
    assert was_free
    assert servers.remove("nb-a")
    assert not folder.path.exists()
