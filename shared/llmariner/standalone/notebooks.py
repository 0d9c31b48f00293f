"""Notebooks of the standalone mode: JupyterLab in an environment of its own, with memory of the engines' budget."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from llmariner.context import Context
from llmariner.job_settings import JobSettings
from llmariner.platform.capacity import Kind
from llmariner.platform.jobs import Network
from llmariner.platform.jobs.local_processes.settings import readable_folders
from llmariner.platform.notebooks.local_processes import ProcessNotebooks, ProcessNotebookSettings
from llmariner.platform.serving.local_processes.adapter import ProcessServing

__all__ = ["NotebookEnvironment", "make_notebooks", "notebook_lock"]

_FREE_DISK_BYTES = 1024**3
_CALL_SECONDS = 120.0
_COMPLETE_MARKER = "complete"
_UV = str(Path(sys.executable).with_name("uv"))


def notebook_lock() -> Path:
    """The lock file in this checkout, from which the package is installed in place."""
    return Path(__file__).resolve().parents[3] / "locks" / "notebook.lock"


class NotebookEnvironment:
    """The virtual environment of JupyterLab below the cache folder: one per lock file and Python version."""

    def __init__(self, cache: Path, lock: Path) -> None:
        self._lock = lock
        pins = lock.read_bytes() + f"{sys.version_info[:2]}".encode()
        self.folder = cache / f"notebook-{hashlib.sha256(pins).hexdigest()[:16]}"
        self.python = self.folder / "venv" / "bin" / "python"

    def install(self) -> None:
        """Install it unless it is complete; 0.3 GB. Raises OSError if a step fails; the next call begins again."""
        if (self.folder / _COMPLETE_MARKER).is_file():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another platform or thread may install it
            if (self.folder / _COMPLETE_MARKER).is_file():
                return
            _run([_UV, "venv", "--quiet", "--clear", "--seed", "--python", sys.executable, str(self.python.parents[1])])
            install = [_UV, "pip", "install", "--quiet", "--python", str(self.python), "--no-deps", "--require-hashes"]
            _run([*install, "-r", str(self._lock)])
            (self.folder / _COMPLETE_MARKER).write_text("")


class NotebookShare:
    """A NotebookMemory of what the engines have; its methods are called in threads other than the loop's."""

    def __init__(self, serving: ProcessServing, loop: asyncio.AbstractEventLoop) -> None:
        self._serving = serving
        self._loop = loop

    def reserve(self, owner: str, project_id: str, amounts: tuple[int, int]) -> str:
        """See `NotebookMemory`."""
        size, millicores = amounts
        needed = self._serving.reserve_memory(
            owner, size, project=project_id, millicores=millicores, kind=Kind.NOTEBOOKS
        )
        reserving = asyncio.run_coroutine_threadsafe(needed, self._loop)
        try:
            return reserving.result(_CALL_SECONDS)
        except TimeoutError:
            # Else it reserves later, for a notebook that may be gone by then.
            reserving.cancel()
            self.release(owner)
            return "It waits for idle models to end."

    def release(self, owner: str) -> None:
        """See `NotebookMemory`."""
        releasing = self._serving.release_memory(owner)
        asyncio.run_coroutine_threadsafe(releasing, self._loop).result(_CALL_SECONDS)

    def refusal(self, size_bytes: int) -> str:
        """See `NotebookMemory`."""
        return self._serving.memory_refusal(size_bytes)


def make_notebooks(context: Context, serving: ProcessServing, *, home: Path, cache: Path, url: str) -> ProcessNotebooks:
    """The adapter. `url`: this platform's. Called in the loop that `serving` runs in.

    Notebooks reach the platform, and of the rest what jobs reach; but never the loopback addresses of the machine.
    """
    environment = NotebookEnvironment(cache, notebook_lock())
    settings, jobs = context.notebooks.settings, JobSettings.load(context.env)
    process_settings = ProcessNotebookSettings(
        folder=home / "notebooks",
        python=environment.python,
        platform=urlsplit(url).netloc,
        readable=readable_folders(environment.python),
        hidden=(str(home), context.env.get("LLMARINER_OBJECTS_FOLDER") or str(home)),
        idle_seconds=settings.idle_seconds,
        seconds=float(settings.seconds),
        free_disk_bytes=_FREE_DISK_BYTES,
        network=Network.NONE if jobs.network == Network.NONE else Network.INTERNET,
    )
    # Where commands of jobs can't be kept apart, those of notebooks can't either.
    problem = (
        (lambda: "jobs are turned off with LLMARINER_JOBS.")
        if jobs.adapter == "off"
        else (lambda: context.jobs.problem)
    )
    notebooks = ProcessNotebooks(
        process_settings,
        NotebookShare(serving, asyncio.get_running_loop()),
        environment.install,
        problem,
        serving.times,
    )
    notebooks.subscribe(context.notebooks.reconciler.reconcile)
    return notebooks


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode:
        raise OSError(f"{Path(command[0]).name} {command[1]} failed: {done.stderr.strip()[-2000:]}")
