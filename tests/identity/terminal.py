"""A terminal for `llma`: the installed program, with its own home folder and browser."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["RecordingBrowser", "Terminal"]

_SECONDS = 120


class Terminal:
    """`browser` as $BROWSER takes it; `key` goes before a sign-in."""

    def __init__(self, home: Path, base_url: str, browser: str = "", *, key: str = "") -> None:
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LLMARINER_BASE_URL": base_url,
            **({"BROWSER": browser} if browser else {}),
            **({"LLMARINER_API_KEY": key} if key else {}),
        }

    def starts(self, *words: str) -> subprocess.Popen[str]:
        """A command under way."""
        program = Path(sys.executable).with_name("llma")
        return subprocess.Popen(
            [program, *words], env=self._env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def says(self, *words: str, code: int = 0) -> str:
        """What a command prints, on both channels."""
        with self.starts(*words) as process:
            out, err = process.communicate(timeout=_SECONDS)
        assert process.returncode == code, out + err
        return out + err


class RecordingBrowser:
    """A $BROWSER that opens nothing and records the address."""

    def __init__(self, folder: Path) -> None:
        self._file, program = folder / "opened", folder / "open"
        program.write_text(f'#!/bin/sh\nprintf %s "$1" > {self._file}.part && mv {self._file}.part {self._file}\n')
        program.chmod(0o700)
        self.command = f"{program} %s"

    def address(self) -> str:
        """What is to be opened, as soon as it is known."""
        end = time.monotonic() + _SECONDS
        while not self._file.exists():
            assert time.monotonic() < end, "nothing was opened"
            time.sleep(0.05)
        found = self._file.read_text()
        self._file.unlink()
        return found
