"""Peers' own Python environments, kept in the user's cache under a hash of their pins.

A peer's pins exclude ours and each other's, and installing one takes longer than measuring it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

INSTALL_SECONDS = 600


class UnavailableError(RuntimeError):
    """Something cannot be measured here; the text is the reason that the report prints."""


def cache() -> Path:
    home = (
        os.environ.get("LLMARINER_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmariner"
    )
    return Path(home) / "bench"


def environment(*pins: str) -> Path:
    """The `bin` folder of an environment that holds these pins; made on first use."""
    digest = hashlib.sha256("\n".join((sys.version, *pins)).encode()).hexdigest()[:12]
    folder = cache() / digest
    whole = folder / "whole"
    if not whole.exists():
        _make(folder, pins)
        whole.write_text("\n".join(pins) + "\n")
    return folder / "bin"


def _make(folder: Path, pins: tuple[str, ...]) -> None:
    """An environment cut short by an earlier end lacks the file `whole` and is made again over the old one."""
    print(f"installing {', '.join(pins)} into {folder} (once)", file=sys.stderr, flush=True)
    python = folder / "bin" / "python"
    if importlib.util.find_spec("uv"):
        installer = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python)]
    else:
        installer = [str(python), "-m", "pip", "install", "--quiet"]
    try:
        for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], [*installer, *pins]):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:] or ["no word why"]
        raise UnavailableError(f"{', '.join(pins)} cannot be installed: {last[0][:200]}") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{', '.join(pins)} took over {INSTALL_SECONDS} s to install") from error
