"""What may reach the user's terminal, and the one line on stderr that says what a command is waiting for.

Text from a model or a server is not ours: an escape sequence in it could move the cursor, rewrite what stands
above or set the clipboard. It loses its control characters before it is shown; what goes to a file or a pipe
stays exact.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

import click

__all__ = [
    "StatusLine",
    "configure_streams",
    "discard_output",
    "stdout_is_unicode",
    "strip_control_characters",
    "write_stdout",
]

_CONTROL = {code: None for code in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if chr(code) not in "\n\t"}


def configure_streams() -> None:
    """Make stdout and stderr take any text: closed ones swallow it, those of a narrow encoding get escapes."""
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:  # closed by whoever started us; the next file to be opened would take its descriptor
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif not _is_utf(stream) and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Send what is still to be written nowhere: its place takes no more, and the interpreter would try at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def stdout_is_unicode() -> bool:
    """Whether stdout takes every character."""
    return _is_utf(sys.stdout)


def _is_utf(stream: TextIO) -> bool:
    return (stream.encoding or "").lower().startswith("utf")


def strip_control_characters(text: str) -> str:
    """The text without control characters, tabs and line breaks excepted."""
    return text.translate(_CONTROL)


def write_stdout(text: str, *, end: str = "\n") -> None:
    """Put text on stdout: printable on a terminal, exact elsewhere."""
    text = text.encode("utf-8", "replace").decode()  # JSON may hold half of a surrogate pair, which no output can
    text = strip_control_characters(text) if sys.stdout.isatty() else text
    click.echo(text + end, nl=False, color=True)  # True: click would take escape sequences out of files too


def write_stderr(text: str) -> None:
    """Put text on stderr, printable wherever that is."""
    click.echo(strip_control_characters(text), err=True)


class StatusLine:
    """A line on stderr, rewritten in place on a terminal; elsewhere a line per change, to keep logs short."""

    def __init__(self) -> None:
        self._in_place = sys.stderr.isatty()
        self._shown = ""

    def show(self, text: str, *, key: str | None = None) -> None:
        """Show `text`; off a terminal, only when `key` (default: the text) differs from the last one."""
        text = strip_control_characters(text)
        if self._in_place:
            click.echo(f"\r{text}\x1b[K", nl=False, err=True, color=True)
            self._shown = text
        elif (key or text) != self._shown:
            click.echo(text, err=True)
            self._shown = key or text

    def clear(self) -> None:
        """Take the line away again, before output proper begins."""
        if self._in_place and self._shown:
            click.echo("\r\x1b[K", nl=False, err=True, color=True)
        self._shown = ""
