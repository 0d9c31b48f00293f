"""Progress of long steps on a terminal or in a log: title, amount, duration."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

__all__ = ["Step", "megabytes"]

_TERMINAL_SECONDS = 0.5
_LOG_SECONDS = 10.0


def megabytes(count: int) -> str:
    """Bytes as whole megabytes with a thousands separator."""
    return f"{count / 1_000_000:,.0f} MB"


class Step:
    """Context manager that shows a step while it runs: one changing line on a terminal, else a line every ten seconds.

    `measure` returns the current amount, such as "310 of 5,200 MB"; default: the attribute `note`.
    """

    def __init__(self, title: str, measure: Callable[[], str] | None = None, *, stream: TextIO = sys.stderr) -> None:
        self.note = ""
        self._title = title
        self._measure = measure or (lambda: self.note)
        self._stream = stream
        self._terminal = stream.isatty()
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Step:
        self._show()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        word = "done" if kind is None else "interrupted" if kind is KeyboardInterrupt else "failed"
        self._show(word)
        if self._terminal:
            self._stream.write("\n")
            self._stream.flush()

    def _run(self) -> None:
        while not self._ended.wait(_TERMINAL_SECONDS if self._terminal else _LOG_SECONDS):
            self._show()

    def _show(self, word: str = "") -> None:
        seconds = time.monotonic() - self._began
        parts = [self._title, self._measure(), f"{seconds:.0f} s", word]
        line = "  " + "  ".join(part for part in parts if part)
        self._stream.write(f"\r\x1b[2K{line}" if self._terminal else f"{line}\n")
        self._stream.flush()
