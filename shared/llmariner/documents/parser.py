"""Reads documents of anybody, in a process of its own that is killed at its limits; a failure is the file's alone."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import IO, Any

from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.errors import DocumentError, DocumentErrorCode
from llmariner.documents.limits import ParserLimits

__all__ = ["extract"]

_log = logging.getLogger(__name__)

# The last line of the output stands beside the blocks.
_LAST_LINE_BYTES = 16 * 1024
_EXTENSION = re.compile(r"\.[a-z0-9_]{1,16}\Z")
_CONTENT_TYPE = re.compile(r"\s*([\w.+-]{1,80}/[\w.+-]{1,80})\s*(?:;.{0,200})?\Z", re.ASCII)
_CHARSET = re.compile(r";\s*charset\s*=\s*[\"']?([\w.:-]{1,40})", re.ASCII | re.IGNORECASE)
# What the interpreter needs; the platform's secrets are in its environment too.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")


def extract(path: Path, file_name: str, content_type: str | None = None, *, limits: ParserLimits) -> list[Block]:
    """The blocks of a document, in reading order; at least one. Blocks for up to `limits.seconds`. Raises DocumentError.

    `file_name` and `content_type` are the caller's words: they decide between types of text alone. The process that
    parses sees the open file, not its path, and none of this process's environment variables but the interpreter's.
    """
    size = path.stat().st_size
    if size > limits.file_bytes:
        limit = limits.file_bytes // 2**20
        raise DocumentError.invalid(f"The file has {size} bytes; {limit} MiB are allowed. Split it.")
    if not size:
        raise DocumentError.invalid("The file is empty.")
    with path.open("rb") as document:
        return _Parse(document, _options(file_name, content_type, limits), limits).blocks()


def _options(file_name: str, content_type: str | None, limits: ParserLimits) -> str:
    name = PurePath(file_name.lower().replace("\\", "/"))
    # Dockerfile and Makefile are their own extensions.
    extension = name.suffix if name.suffix else f".{name.name}"
    declared = _CONTENT_TYPE.match((content_type or "").lower())
    charset = _CHARSET.search(content_type or "")
    options = {
        "extension": extension if _EXTENSION.match(extension) else "",
        "content_type": declared[1] if declared else None,
        "charset": charset[1] if charset else None,
        "limits": asdict(limits),
    }
    return json.dumps(options)


class _Parse:
    """One run of the parser process."""

    def __init__(self, document: IO[bytes], options: str, limits: ParserLimits) -> None:
        self._limits = limits
        self._timed_out = False
        self._document = document
        self._command = [sys.executable, "-P", "-m", "llmariner.documents.child", options]

    def blocks(self) -> list[Block]:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        try:
            process = subprocess.Popen(
                self._command,
                stdin=self._document,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=environment | {"LC_ALL": "C.UTF-8"},
                # A group of its own: killing it ends whatever a parser may have started.
                process_group=0,
            )
        except OSError as error:
            raise _server_error(f"the parser process does not start: {error}") from error
        timer = threading.Timer(self._limits.seconds, self._time_out, [process])
        timer.daemon = True
        timer.start()
        blocks: list[Block] = []
        try:
            assert process.stdout is not None
            is_complete = self._read(process.stdout, blocks)
            if not is_complete:
                # It ends by itself or by the timer; how, says why.
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        finally:
            # The timer has ended before the process is reaped, so that it never kills another process of the same id.
            timer.cancel()
            timer.join()
            _kill_group(process)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.stdout is not None:
                process.stdout.close()
        if not is_complete:
            raise self._death(process.returncode, usage.ru_utime + usage.ru_stime)
        return blocks

    def _time_out(self, process: subprocess.Popen[bytes]) -> None:
        self._timed_out = True
        _kill_group(process)

    def _read(self, output: IO[bytes], blocks: list[Block]) -> bool:
        """Whether the output is complete. Raises the DocumentError that it ends with."""
        try:
            for value in _values(output, self._limits.output_bytes + _LAST_LINE_BYTES):
                if isinstance(value, list):
                    blocks.append(_block(value))
                elif value == {"end": True}:
                    return True
                else:
                    raise _error(value)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _server_error(f"the parser process wrote an invalid line: {error!r}") from error
        return False

    def _death(self, status: int, cpu_seconds: float) -> DocumentError:
        """The error of a process that ended without a last line."""
        if self._timed_out and cpu_seconds < self._limits.cpu_seconds / 2:
            return _server_error(f"the parser process had {cpu_seconds:.1f} s of processor time until it was killed")
        if self._timed_out:
            message = f"Reading the file takes more than {self._limits.seconds:g} seconds. Split it or simplify it."
            return DocumentError.invalid(message)
        if status == -signal.SIGXCPU:
            message = (
                f"Reading the file takes more than {self._limits.cpu_seconds} seconds of processor time. Split it."
            )
            return DocumentError.invalid(message)
        if status in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL):
            message = "The file is damaged in a way that stops the parser. Open it, save it again, and upload that."
            return DocumentError.invalid(message, detail=f"signal {-status}")
        return _server_error(f"the parser process ended with status {status}")


def _values(output: IO[bytes], limit: int) -> Iterator[Any]:
    """The JSON lines of an output, which is refused beyond a number of bytes."""
    while line := output.readline(limit + 1):
        limit -= len(line)
        if limit < 0:
            raise ValueError("the output is too large")
        if line.endswith(b"\n"):
            yield json.loads(line)


def _block(value: list[Any]) -> Block:
    kind, text, page, level = value
    if not isinstance(text, str) or not isinstance(page, int | None) or not isinstance(level, int):
        raise ValueError("a block has a field of a wrong type")
    return Block(BlockKind(kind), text, page, level)


def _error(value: dict[str, Any]) -> DocumentError:
    error = DocumentError(DocumentErrorCode(value["code"]), str(value["message"]), detail=str(value["detail"]))
    if error.detail:
        _log.info("A document can't be read: %s (%s)", error.message, error.detail)
    return error


def _server_error(detail: str) -> DocumentError:
    _log.warning("A document was not read: %s", detail)
    message = "The file was not read because of a fault of the platform. Add it to the vector store again."
    return DocumentError(DocumentErrorCode.SERVER_ERROR, message, detail=detail)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and what it started. Only before the process is reaped."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
