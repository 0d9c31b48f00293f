"""The clients' own environments: made by their usual tools, kept in the user's cache under a hash of their pins."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmariner.settings import StandaloneSettings, environment

__all__ = ["NODE", "PINS", "InstallationError", "node_modules", "python"]

PINS = Path(__file__).parent / "pins"
INSTALL_SECONDS = 600
# Read by `npm ci` from a package.json and a lock with hashes and no addresses.
NODE = PINS / "openai-node"


class InstallationError(RuntimeError):
    """A client could not be installed; the message is the installer's last word."""


def python(name: str) -> Path:
    """The interpreter of the environment that `pins/NAME.txt` describes."""
    pins = PINS / f"{name}.txt"
    uv, interpreter = str(Path(sys.executable).with_name("uv")), "bin/python"
    folder = _folder(name, pins.read_bytes() + f"{sys.version_info[:2]}".encode())
    if not (folder / "whole").exists():
        with _AtomicFolder(folder) as part:
            _run([uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(part)])
            install = [uv, "pip", "install", "--quiet", "--python", str(part / interpreter)]
            _run([*install, "--require-hashes", "-r", str(pins)])
    return folder / interpreter


def node_modules(pins: Path = NODE) -> Path:
    """The folder of packages that a package.json and its lock describe. Skips the test on a machine without Node."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    files = [pins / "package.json", pins / "package-lock.json"]
    folder = _folder(pins.name, b"".join(file.read_bytes() for file in files))
    if not (folder / "whole").exists():
        with _AtomicFolder(folder) as part:
            for file in files:
                shutil.copy(file, part)
            _run(["npm", "ci", "--silent", "--no-audit", "--no-fund", "--prefix", str(part)])
    return folder / "node_modules"


def _folder(name: str, pins: bytes) -> Path:
    cache = StandaloneSettings.load(environment()).cache
    return cache / "clients" / f"{name}-{hashlib.sha256(pins).hexdigest()[:12]}"


class _AtomicFolder:
    """A folder made under another name and renamed when whole, so that a test cut short leaves none that looks whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._part = folder.with_name(f"{folder.name}.{os.getpid()}")

    def __enter__(self) -> Path:
        self._part.mkdir(parents=True)
        return self._part

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            (self._part / "whole").touch()
            if not self._folder.exists():
                self._part.rename(self._folder)
        shutil.rmtree(self._part, ignore_errors=True)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    if done.returncode:
        last = " ".join((done.stderr or done.stdout).split())[-300:]
        raise InstallationError(f"{Path(command[0]).name} ended with {done.returncode}: {last}")
