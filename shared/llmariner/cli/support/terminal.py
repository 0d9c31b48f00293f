"""Writes to stdout and stderr, and the status line on stderr.

Text from a model or a server is untrusted: an escape sequence in it could move the cursor, rewrite earlier output or
set the clipboard, and a directional override could let a name be read as another one. Both are removed for terminals;
output to files and pipes is exact.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from typing import TextIO

import click

__all__ = [
    "OutputStream",
    "StatusLine",
    "configure_streams",
    "discard_output",
    "stdout_is_unicode",
    "strip_control_characters",
    "write_stderr",
    "write_stdout",
]

# Directional embeddings, overrides and isolates; the marks, which change nothing around them, stay.
_DIRECTIONS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROL = {code: None for code in (*range(0x20), 0x7F, *range(0x80, 0xA0), *_DIRECTIONS) if chr(code) not in "\n\t"}


def configure_streams() -> None:
    """Make stdout and stderr accept any text: closed streams discard it, other encodings than UTF escape it."""
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:  # closed by the parent; the next opened file would get its descriptor
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif not _is_utf(stream) and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Redirect stdout to /dev/null, so that the interpreter's final flush of a broken stdout does not fail."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def stdout_is_unicode() -> bool:
    """Whether stdout's encoding supports all of Unicode."""
    return _is_utf(sys.stdout)


def _is_utf(stream: TextIO) -> bool:
    return (stream.encoding or "").lower().startswith("utf")


def strip_control_characters(text: str) -> str:
    """The text without control characters, except tabs and line breaks, and without what changes its direction."""
    return text.translate(_CONTROL)


def write_stdout(text: str, *, end: str = "\n") -> None:
    """Write to stdout: without control characters on a terminal, exact elsewhere."""
    text = text.encode("utf-8", "replace").decode()  # JSON may contain a lone surrogate, which cannot be encoded
    text = strip_control_characters(text) if sys.stdout.isatty() else text
    click.echo(text + end, nl=False, color=True)  # True, else click would strip escape sequences from files too


def write_stderr(text: str) -> None:
    """Write to stderr without control characters."""
    click.echo(strip_control_characters(text), err=True)


class OutputStream:
    """Bytes for stdout or stderr as they arrive: exact, but without control characters on a terminal.

    A carriage return, with which programs redraw a line, begins a new line there.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace") if stream.isatty() else None

    def write(self, part: bytes) -> None:
        """Write and flush a part."""
        if self._decoder is None:
            self._stream.buffer.write(part)
        else:
            text = self._decoder.decode(part).replace("\r\n", "\n").replace("\r", "\n")
            self._stream.write(strip_control_characters(text))
        self._stream.flush()


class StatusLine:
    """A status line on stderr: rewritten in place on a terminal, elsewhere one line per change."""

    def __init__(self) -> None:
        self._in_place = sys.stderr.isatty()
        self._shown = ""

    def show(self, text: str, *, key: str | None = None) -> None:
        """Show `text`; without a terminal, only when `key` (default: the text) differs from the last one."""
        text = strip_control_characters(text)
        if self._in_place:
            click.echo(f"\r{text}\x1b[K", nl=False, err=True, color=True)
            self._shown = text
        elif (key or text) != self._shown:
            click.echo(text, err=True)
            self._shown = key or text

    def clear(self) -> None:
        """Remove the line before other output."""
        if self._in_place and self._shown:
            click.echo("\r\x1b[K", nl=False, err=True, color=True)
        self._shown = ""
